"""Decide whether to compile a model: a cold start takes minutes, which pays only for long runs with faster steps.

`python benchmarks/compilation.py savi_small --batch 1 --frames 3 --slots 6 --precision bf16 --threads 1` measures both.
On the CPU (AMD EPYC, torch 2.13.0) compiling took 94 CPU seconds and made the step slower: 0.256 against 0.234 CPU
seconds. Nothing has been measured on CUDA.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from torchslots.io.errors import UserError

WORTH_WHILE = ("cuda",)
"""Kinds of devices on which a run may decide to compile; on others it compiles only on request."""
COLD_START = 150.0
"""Assumed seconds of the first compiled step on CUDA, more than the 94 measured on the CPU."""
LEAST_GAIN = 1.25
"""Assumed speed of a compiled step on CUDA, as a multiple of an uncompiled one's."""
MARGIN = 2.0
"""Compile if the whole run saves this many times the cold start."""
_SLOW = "; the first step takes a minute or more"


class Decision(NamedTuple):
    """Whether to compile, and the reason as a sentence."""

    compiled: bool
    reason: str


def _decision(compiled: bool, why: str) -> Decision:
    return Decision(compiled, f"torch.compile is {'on' if compiled else 'off'}{why}")


def settle(
    wanted: bool | None, before: bool | None, num_steps: int, device: torch.device, trial: Callable[[], float]
) -> Decision:
    """Decide for a run: by the recipe, else as before an interruption, else by the time that it saves.

    Args:
        wanted: the recipe's setting; None: open.
        before: the decision before an interruption; None: the run begins.
        num_steps: steps of the whole run.
        trial: measures the seconds of one uncompiled step.

    Raises:
        UserError: the recipe requires compilation, which is not possible on this machine.
    """
    missing = obstacle(device)
    if wanted and missing:
        raise UserError(f"train.compile is on, but {missing}. Install it, or choose --train.compile False.")
    if wanted is not None:
        return _decision(wanted, f", as the recipe says{_SLOW if wanted else ''}.")
    if before and missing:
        return _decision(False, f": {missing}. The run was compiled before: digits may differ.")
    if before is not None:
        return _decision(before, f", as before{_SLOW if before else ''}.")
    if device.type not in WORTH_WHILE:
        slow = "compiled steps were no faster on this kind of device"
        return _decision(False, f": {slow}; --train.compile True compiles all the same.")
    return _decision(False, f": {missing}.") if missing else decide(num_steps, trial())


def decide(num_steps: int, seconds: float) -> Decision:
    """Compile if the whole run saves the cold start, with a margin.

    Args:
        num_steps: steps of the whole run, so that a resumed run decides the same.
        seconds: duration of one uncompiled step.
    """
    plain = num_steps * seconds
    pays = plain * (1.0 - 1.0 / LEAST_GAIN) > MARGIN * COLD_START
    why = (
        "long enough to win back the first step, which takes a minute or more"
        if pays
        else "too short to win back what compiling takes; --train.compile True compiles all the same"
    )
    return _decision(pays, f": without it the run takes {_duration(plain)}, {why}.")


def obstacle(device: torch.device) -> str | None:
    """Why nothing can be compiled on this machine; None: it can."""
    if sys.platform == "win32":
        return "Windows is not supported"
    compiler = os.environ.get("CXX" if device.type == "cpu" else "CC")
    usual = ("g++", "clang++") if device.type == "cpu" else ("gcc", "cc", "clang")
    if not any(shutil.which(name) for name in ([compiler] if compiler else usual)):
        return f"there is no {'C++' if device.type == 'cpu' else 'C'} compiler"
    if device.type == "cuda" and find_spec("triton") is None:
        return "triton is not installed"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's header files are not installed"
    return None


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"about {seconds / unit:.0f} {name}"
    return f"about {seconds:.0f} seconds"

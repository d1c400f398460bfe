"""The device to run on: one rule for every command and function."""

import os
import re
import sys

import torch

from torchslots.io.errors import UserError, first_line, speaks

_KNOWN = re.compile(r"cpu|mps|cuda(:\d+)?")


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """The device of this name.

    Args:
        name: `cpu`, `cuda`, `cuda:N` or `mps`; None: cuda where there is one, else mps where there is one, else cpu.
            Each process of `torchrun` has a GPU of its own.

    Raises:
        UserError: no such name, or a device that this machine or process does not have.
    """
    name = _best() if name is None else str(name)
    if not _KNOWN.fullmatch(name):
        raise UserError(f"The device should be cpu, cuda, cuda:N or mps, got {name!r}.")
    kind, _, index = name.partition(":")
    if kind == "cuda":
        return _card(index)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("No MPS device is visible: it needs a Mac with Apple's chip. Use --device cpu.")
    return torch.device(name)


def announce_device(name: str | torch.device | None = None) -> torch.device:
    """As `choose_device`, and say so in a line on standard error."""
    device = choose_device(name)
    card = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    if speaks():
        print(f"Running on {device}{card}.", file=sys.stderr, flush=True)
    return device


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _card(index: str) -> torch.device:
    """The CUDA device of this number; of none: the process's own under `torchrun`, else the current one.

    Raises:
        UserError: there is none, or one by number for each of several processes.
    """
    if not torch.cuda.is_available():
        raise UserError("No CUDA device is visible. Use --device cpu, or install a CUDA build of torch.")
    if index and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"Each of several processes gets its own GPU: give cuda, not cuda:{index}.")
    number, count = int(index or os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= count:
        raise UserError(f"There is no cuda:{number}: torch sees {count} CUDA devices, numbered from 0.")
    device = torch.device("cuda", number)
    try:
        torch.empty(0, device=device)
    except RuntimeError as error:
        raise UserError(f"{device} cannot be used here: {first_line(error)}. Try --device cpu.") from error
    return device


def figures_device(device: str | torch.device) -> torch.device:
    """Where figures of a model on this device are computed: in float64, which mps does not have."""
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device

"""Ctrl-C, SIGTERM and SIGHUP as requests to stop training between two steps, and errors with a remedy."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
import torch.distributed
from torch import Tensor, nn

from torchslots.io.counts import count_text
from torchslots.io.errors import UserError, memory_is_full
from torchslots.io.files import write_file
from torchslots.io.processes import errors_of
from torchslots.recipes.config import Recipe, to_json
from torchslots.training.checkpoint import to_bytes
from torchslots.training.step import NonFinite

BATCH_OF, WEIGHTS_OF = "nonfinite_batch_step_", "nonfinite_weights_step_"
"""Files in the run of a step whose loss is not finite, with its number from 1."""
_PASSED_ON = 5.0  # seconds
_TOGETHER = 0.3
"""Seconds in which several signals are one: services and containers send more than one to end a program."""
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "gloo")
"""What errors of several processes say when one of them is gone."""


class Interrupted(UserError):
    """A run was stopped on request, and saved. `exit_code` of the command: 130 for Ctrl-C, 143 for SIGTERM,
    129 for SIGHUP."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


class StopRequest:
    """True after the first signal; a second one, later than `_TOGETHER`, ends the process as by default.

    torchrun, stopped together with its processes, passes its own signal on to them: there a second one within
    `_PASSED_ON` seconds is the first again. SIGHUP, which a closed terminal and its shell both send, never ends it.
    """

    def __init__(self) -> None:
        self.signal = 0
        """Number of the signal; 0: none yet."""
        self.since = 0.0
        """When it came, by the monotonic clock."""

    def __bool__(self) -> bool:
        return self.signal != 0


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch SIGINT, SIGTERM and SIGHUP while the block runs, in the main thread only.

    SIGHUP stays ignored where it is, as under `nohup`.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if earlier[signal.SIGHUP] is signal.SIG_IGN:
        del earlier[signal.SIGHUP]

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        # Not before the second: Python drops, with a traceback, one that waits for its handler when that is removed.
        if not request:
            request.signal, request.since = number, time.monotonic()
            return
        together = _PASSED_ON if "TORCHELASTIC_RUN_ID" in os.environ else _TOGETHER
        if number != signal.SIGHUP and time.monotonic() - request.since >= together:
            restore()
            os.kill(os.getpid(), number)

    for number in earlier:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error says that another process of the run has ended."""
    return torch.distributed.is_initialized() and any(word in str(error) for word in _LOST)


@contextmanager
def explained(run: Path, recipe: Recipe, rank: int, model: nn.Module) -> Iterator[None]:
    """Turn a loss that is not finite and full device memory into a `UserError` with a remedy.

    Of a step whose loss is not finite the batch and the weights are saved, for `training/replay.py`.
    """
    train = recipe.train
    try:
        with errors_of(rank):
            yield
    except NonFinite as error:
        with errors_of(rank):
            raise UserError(_save_step(run, recipe, error, rank, model)) from error
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        raise UserError(
            f"The device has no memory for {count_text(train.batch_size, 'clip')} in "
            f"{count_text(train.accumulation, 'part')}. Raise "
            "train.accumulation, lower train.batch_size or the resolution, or use bf16 (in a new run folder)."
        ) from error


def _save_step(run: Path, recipe: Recipe, error: NonFinite, rank: int, model: nn.Module) -> str:
    """Save the batch and the weights of a step whose loss is not finite; returns the message."""
    step = error.step + 1
    file = run / f"{BATCH_OF}{step}{f'_process_{rank}' if rank else ''}.safetensors"
    tensors = {key: value for key, value in error.batch.items() if isinstance(value, Tensor)}
    about = {
        "names": json.dumps(error.batch.get("name", [])),
        "recipe": to_json(recipe),
        "step": str(error.step),
    }
    bad = ", ".join(f"`{name}` is {value}" for name, value in error.culprits.items())
    what = (
        f"Step {step} stopped before the update: {bad or 'a loss of another process is not finite'}, at learning rate "
        f"{error.learning_rate:.3g}."
    )
    try:
        write_file(file, to_bytes(tensors, about), durable=True)
        if not rank:
            write_file(run / f"{WEIGHTS_OF}{step}.safetensors", to_bytes(model.state_dict()), durable=True)
    except UserError as problem:
        return f"{what} {problem}"
    return (
        f"{what} The batch is in {file}, the weights are beside it. "
        f"`torchslots train --replay {file}` finds the first tensor that is not finite. Else lower "
        "optim.learning_rate or optim.max_grad_norm, or use fp32."
    )


def save_after(error: UserError, save: Callable[[], None]) -> None:
    """Save a run that an error ends; where that fails too, both are told.

    Raises:
        UserError: it cannot be saved; the message begins with the error's.
    """
    try:
        save()
    except UserError as problem:
        raise UserError(
            f"{error} Besides, the steps since the last checkpoint are lost: {problem}"
        ) from error

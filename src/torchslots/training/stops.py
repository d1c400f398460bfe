"""Ctrl-C and SIGTERM as requests to stop training between two steps, and errors with a remedy."""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.io.files import write_file
from torchslots.recipes.config import TrainConfig
from torchslots.training.checkpoint import to_bytes
from torchslots.training.step import NonFinite


class Interrupted(UserError):
    """A run was stopped on request, and saved. `exit_code` of the command: 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


class StopRequest:
    """True after the first signal; a second one ends the process, as by default."""

    def __init__(self) -> None:
        self.signal = 0
        """Number of the signal; 0: none yet."""

    def __bool__(self) -> bool:
        return self.signal != 0


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM while the block runs, in the main thread only."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        request.signal = number
        restore()

    for number in earlier:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()


@contextmanager
def explained(run: Path, train: TrainConfig, rank: int) -> Iterator[None]:
    """Turn a loss that is not finite and full device memory into a `UserError` with a remedy."""
    try:
        yield
    except NonFinite as error:
        raise UserError(_save_batch(run, error, rank)) from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The device has no memory for {train.batch_size} clips in {train.accumulation} parts. Raise "
            "train.accumulation, lower train.batch_size or the resolution, or use bf16 (in a new run folder)."
        ) from error


def _save_batch(run: Path, error: NonFinite, rank: int) -> str:
    """Save the batch of a step whose loss is not finite; returns the message."""
    step = error.step + 1
    file = run / f"nonfinite_batch_step_{step}{f'_process_{rank}' if rank else ''}.safetensors"
    tensors = {key: value for key, value in error.batch.items() if isinstance(value, Tensor)}
    names = json.dumps(error.batch.get("name", []))
    write_file(file, to_bytes(tensors, {"names": names}), durable=True)
    bad = ", ".join(f"`{name}` is {value}" for name, value in error.culprits.items())
    return (
        f"Step {step} stopped before the update: {bad or 'a loss of another process is not finite'}, at learning rate "
        f"{error.learning_rate:.3g}. The batch is in {file}. Look at it for bad values; else lower "
        "optim.learning_rate or optim.max_grad_norm, or use fp32."
    )

"""The log of a run: one JSON line for each logged step, TensorBoard, and Weights & Biases on request.

accelerate's trackers cannot drop the steps that a resumed run repeats, nor separate project name and folder.
"""

import json
import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from torchslots.io.errors import UserError, first_line, note
from torchslots.io.files import disk_errors, write_file
from torchslots.io.run_log import METRICS_NAME, read_records

_FIRST = "best_metric"
"""Group of TensorBoard's first figure: it sorts groups by name, and this one comes before `eval` and `train`."""
_T = TypeVar("_T")
_UNTOUCHED = "The checkpoints are untouched: free some space and give the same command again."
_BOARD = "tensorboard"
_NO_WANDB = "Weights & Biases is not installed: pip install 'torchslots[wandb]', or leave out --wandb."


class RunLog(AbstractContextManager["RunLog"]):
    """Writes a run's log, from the first record on; on processes other than the first it does nothing.

    Args:
        step: updates done before; later records of an interrupted run are dropped, so that no step appears twice.
        wandb: also log to Weights & Biases, project `torchslots`; the same run folder continues the same W&B run.
        settings: the recipe, for W&B.

    Raises:
        UserError: W&B is requested and not installed; a folder whose name is no text.
    """

    def __init__(
        self,
        run: Path,
        step: int,
        *,
        wandb: bool = False,
        settings: dict[str, Any] | None = None,
        active: bool = True,
    ):
        if active and wandb and find_spec("wandb") is None:
            raise UserError(_NO_WANDB)
        if not _is_text(str(run.absolute())):
            raise UserError(f"{run} is no text in UTF-8, which TensorBoard needs. Choose another run folder.")
        self._run, self._step, self._settings = run, step, settings or {}
        self._file, self._active, self._with_wandb = run / METRICS_NAME, active, wandb
        self._board, self._wandb = None, None
        self._hook = threading.excepthook

    def _open(self) -> None:
        """Start TensorBoard and W&B, unless they run.

        Raises:
            UserError: the folder cannot be written.
        """
        if self._board is not None:
            return
        with disk_errors(self._file, _UNTOUCHED):
            self._start(self._run, self._step)

    def _start(self, run: Path, step: int) -> None:
        self._wandb = _start_wandb(run, self._settings) if self._with_wandb else None
        if self._file.exists():  # rewritten as a whole, so that a truncated last line does not join the next
            records = (record for record in read_records(self._file) if record["step"] <= step)
            write_file(self._file, "".join(json.dumps(record) + "\n" for record in records), durable=True)
        from torch.utils.tensorboard import SummaryWriter

        # First, since the writer's thread may fail before its constructor is done.
        self._hook, threading.excepthook = threading.excepthook, self._of_thread
        self._board = SummaryWriter(str(run / _BOARD), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add one record; values that are not finite become null in the file.

        Raises:
            UserError: no space or no permission.
        """
        if not self._active:
            return
        self._open()
        known = {key: value if math.isfinite(value) else None for key, value in values.items()}
        with disk_errors(self._file, _UNTOUCHED), self._file.open("a") as stream:
            stream.write(json.dumps({"step": step, "time": round(time.time(), 3), **known}) + "\n")
        finite = {key: value for key, value in known.items() if value is not None}
        with disk_errors(self._run / _BOARD, _UNTOUCHED):
            for key, value in finite.items():
                assert self._board is not None
                self._board.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log(finite, step=step)

    def monitored(self, step: int, name: str, value: float) -> None:
        """Show the figure that marks the best model in TensorBoard again, above all others.

        Raises:
            UserError: no space or no permission.
        """
        if self._active and math.isfinite(value):
            self._open()
            assert self._board is not None
            self._board.add_scalar(f"{_FIRST}/{name}", value, step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Add one uint8 image [H, W, 3].

        Raises:
            UserError: no space or no permission.
        """
        if not self._active:
            return
        self._open()
        if self._board is not None:
            with disk_errors(self._run / _BOARD, _UNTOUCHED):
                self._board.add_image(name, pixels, step, dataformats="HWC")
        if self._wandb is not None:
            import wandb  # pyright: ignore[reportMissingImports]

            self._wandb.log({name: wandb.Image(pixels)}, step=step)

    def __exit__(self, *error: object) -> None:
        if self._board is not None:
            try:
                self._board.close()
            except OSError as problem:
                self._lost(problem)
        if threading.excepthook == self._of_thread:
            threading.excepthook = self._hook
        if self._wandb is not None:
            self._wandb.finish()

    def _of_thread(self, problem: threading.ExceptHookArgs) -> None:
        """One line for a full disk in the thread that writes for TensorBoard; the next record ends the run."""
        if isinstance(problem.exc_value, OSError) and type(problem.thread).__module__.startswith(
            "tensorboard"
        ):
            self._lost(problem.exc_value)
        else:
            self._hook(problem)

    def _lost(self, problem: OSError) -> None:
        lost = f"Its last records are lost; {METRICS_NAME} has them."
        note(f"{self._run / _BOARD} cannot be written: {first_line(problem)}. {lost}")


class Clock:
    """Mean wall-clock seconds of a step since the last restart, and its seconds of waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._start, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def tick(self) -> None:
        self._steps += 1

    def waiting_for(self, get: Callable[[], _T]) -> _T:
        start = time.perf_counter()
        value = get()
        self._waited += time.perf_counter() - start
        return value

    def read(self) -> dict[str, float]:
        seconds = {"per_step": time.perf_counter() - self._start, "waiting_for_data": self._waited}
        return {f"train/seconds_{what}": spent / max(self._steps, 1) for what, spent in seconds.items()}


def _start_wandb(run: Path, settings: dict[str, Any]) -> Any:
    import wandb  # pyright: ignore[reportMissingImports]

    whole = run.resolve()
    about = {"project": "torchslots", "name": whole.name, "dir": str(run), "config": settings}
    identity = "".join(letter if letter.isalnum() else "-" for letter in str(whole))[-64:]
    return wandb.init(id=identity, resume="allow", **about)


def _is_text(name: str) -> bool:
    """Whether a name has no bytes that are no UTF-8, which Python keeps as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True

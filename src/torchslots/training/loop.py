"""The training loop of every recipe. The same call starts a run, resumes it, or returns the finished one."""

import dataclasses
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from torchslots.data.batch import ClipDataset
from torchslots.data.loader import train_batches
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError
from torchslots.io.files import locked
from torchslots.io.progress import progress
from torchslots.models.types import Batch
from torchslots.recipes.config import Recipe
from torchslots.training import checkpoint, exports
from torchslots.training.best import watched
from torchslots.training.card import sections_of
from torchslots.training.checkpoint import RunState
from torchslots.training.compilation import settle
from torchslots.training.features import check_backbone
from torchslots.training.log import Clock, RunLog
from torchslots.training.resume import note_change, write_start
from torchslots.training.step import StepReport, Trainable, TrainStep
from torchslots.training.stops import (
    Interrupted,
    StopRequest,
    explained,
    is_lost_process,
    save_after,
    stop_request,
)
from torchslots.training.validation import SkippedRecords, StopNow, Validation


@dataclass(frozen=True)
class RunResult:
    """The result of a finished run."""

    run: Path
    step: int
    """Updates done."""
    metrics: dict[str, float | None]
    """Metrics of the last evaluation; empty without an evaluation set."""
    best: float | None
    """Best value of the monitored metric over all evaluations."""
    best_step: int | None


def train(
    recipe: Recipe,
    model: nn.Module,
    train_set: ClipDataset,
    eval_set: ClipDataset | None,
    run: Path,
    *,
    device: str | None = None,
    monitor: str | None = None,
    num_plots: int = 4,
    wandb: bool = False,
    skip_corrupt: bool = False,
    start: dict[str, Any] | None = None,
    seconds: float | None = None,
) -> RunResult:
    """Train `model` in place, from the newest checkpoint in `run` if there is one.

    Args:
        eval_set: whole videos for the periodic evaluation; None: no evaluation and no best model.
        run: the run's folder; for its files see `torchslots.training.checkpoint`.
        device: see `io.devices.choose_device`.
        monitor: the metric whose best value marks the best model; None: `model.monitor`, on data without labels the
            error of reconstruction.
        num_plots: videos to plot at each evaluation.
        wandb: also log to Weights & Biases.
        skip_corrupt: leave out damaged records instead of stopping at the first.
        start: what `resume.read_start` finds again; None: nothing.
        seconds: time after which the run ends with the steps that are done, as if it were to do no more; several
            processes look at it when a step is logged. None: no limit.

    Raises:
        Interrupted: by Ctrl-C, SIGTERM or a terminal that is closed, also in the last moment; a checkpoint is saved.
        UserError: a loss that is not finite (its batch is saved), a full disk, a folder of another recipe, damaged
            data, features of another backbone, or a device that does not exist or is full.
    """
    checkpoint.claim(run, recipe, write=False)
    shortest = min(recipe.data.num_frames, recipe.train.short_clip or recipe.data.num_frames)
    stepper = TrainStep(model, recipe.optim, replace(recipe.train, compile=None), device, shortest)
    first, rank = stepper.accelerator.is_main_process, stepper.accelerator.process_index
    with _only_writer(run) if first else nullcontext():
        state = _resume(stepper, run, first)
        check_backbone(train_set, model)
        if state.step > recipe.optim.num_steps:
            raise UserError(
                f"{run} has done {count_text(state.step, 'step')}, more than optim.num_steps "
                f"{recipe.optim.num_steps}. Give as many, "
                "or more to go on."
            )
        if state.finished and state.step == recipe.optim.num_steps:
            if first:
                exports.complete(run, recipe, state, stepper)
            done = (
                f"{run} is finished: {count_text(state.step, 'step')} done. Raise optim.num_steps to go on."
            )
            _say(first, done)
            return _result(run, state)
        log = RunLog(run, state.step, wandb=wandb, settings=dataclasses.asdict(recipe), active=first)
        with log, stop_request() as stop, explained(run, recipe, rank, model):
            skipped = SkippedRecords(skip_corrupt)
            validate = None
            if eval_set is not None:
                validate = Validation(recipe, stepper, eval_set, skipped, run, log, stop, num_plots)
                validate.check()
            figure = monitor or recipe.train.best_metric or cast(Trainable, model).monitor
            end = None if seconds is None else time.monotonic() + seconds
            loop = _Loop(
                recipe,
                stepper,
                validate,
                skipped,
                run,
                log,
                stop,
                state,
                figure,
                monitor is not None,
                start,
                end,
            )
            result = loop.run_to_end(train_set)
            if stop:
                raise _stopped_at_end(stop, run, result.step)
            return result


@dataclass
class _Loop:
    """A run in progress."""

    recipe: Recipe
    stepper: TrainStep
    validate: Validation | None
    skipped: SkippedRecords
    run: Path
    log: RunLog
    stop: StopRequest
    state: RunState
    monitor: str
    chosen: bool
    """The user chose `monitor`."""
    start: dict[str, Any] | None = None
    end: float | None = None
    """When the run ends, by time.monotonic; None: after its steps."""
    note: str = ""
    claimed: bool = False

    def run_to_end(self, train_set: ClipDataset) -> RunResult:
        total = self.recipe.optim.num_steps
        self.stepper.model.train()
        with closing(self._batches(train_set)) as batches, self._bar(total) as advance:
            advance(self.state.step, note=self.note)
            if self.state.step >= min(total, 1):
                self._claim()
            if self.validate is not None and self._owed():
                self._validate_and_save(self.validate, {})
            stream = self._compile(batches) if self.state.step < total else batches
            clock = Clock()
            while self.state.step < self.recipe.optim.num_steps:
                batch = clock.waiting_for(lambda: self._next(stream))
                report = self._update(batch)
                self._claim()
                self.state = replace(self.state, step=self.state.step + 1)
                clock.tick()
                self._after(report, clock)
                advance(1, note=self.note)
            if not self.state.finished:
                self._save()
        return _result(self.run, self.state)

    def _claim(self) -> None:
        """Make the folder this run's, once: after the first update, so that a failed start leaves nothing."""
        if not self.claimed and self.stepper.accelerator.is_main_process:
            for change in checkpoint.claim(self.run, self.recipe, write=False):
                _say(True, f"From step {self.state.step} on: {change}.")
                note_change(self.run, self.state.step, change)
            checkpoint.claim(self.run, self.recipe)
            if self.start is not None:
                write_start(self.run, self.start)
            _say(True, f"Curves and slots: tensorboard --logdir {shlex.quote(str(self.run))}")
        self.claimed = True

    def _compile(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Compile by `settle`; returns the same batches, one of which may be needed for a trial."""
        read: list[Batch] = []

        def trial() -> float:
            read.append(self._next(batches))
            accelerator = self.stepper.accelerator
            seconds = torch.tensor(self.stepper.trial(read), device=accelerator.device)
            return float(cast(Tensor, accelerator.reduce(seconds, "mean")))

        before = False if self.state.step and self.state.compiled is None else self.state.compiled
        steps, device = self.recipe.optim.num_steps, self.stepper.accelerator.device
        choice = settle(self.recipe.train.compile, before, steps, device, trial)
        _say(self.stepper.accelerator.is_main_process, choice.reason)
        self.state = replace(self.state, compiled=choice.compiled)
        if choice.compiled:
            self.stepper.compile()
        for difference in self.stepper.differences():
            _say(self.stepper.accelerator.is_main_process, difference)
        return chain(read, batches)

    def _next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; damaged data end the run after a checkpoint is saved."""
        try:
            return next(batches)
        except UserError as error:
            if not self.state.step:
                raise
            self.stepper.drain()
            if self.stop:  # what asked this process to stop may have ended a loading process
                self._interrupt({})
            save_after(error, self._save)
            raise

    def _update(self, batch: Batch) -> StepReport:
        """One update; where another process is gone, the run ends after a checkpoint is saved."""
        try:
            return self.stepper(self.state.step, batch, stop=bool(self.stop))
        except RuntimeError as error:
            if not is_lost_process(error):
                raise
            told = UserError(
                f"Another process of this run ended during step {self.state.step + 1}; its message says why. Give the "
                "same command again to go on."
            )
            if self.state.step:
                save_after(told, self._save)
            raise told from error

    def _after(self, report: StepReport, clock: Clock) -> None:
        if self._late():
            self._end_here()
        logged = self._due(self.recipe.train.log_every) or self.state.step == 1
        validate = self.validate if self._due(self.recipe.train.eval_every) else None
        saved = self._due(self.recipe.train.checkpoint_every)
        if not (logged or validate or saved or self.stepper.stopped):
            return
        self.stepper.drain()
        record = self._record(report, clock) if logged else {}
        if self.stepper.stopped:
            self._interrupt(record)
        if validate is not None:
            self._validate_and_save(validate, record)
        else:
            self._write(record)
        if saved and validate is None:
            self._save()
        clock.restart()

    def _late(self) -> bool:
        """Whether the time is over, for all processes alike."""
        if self.end is None:
            return False
        accelerator = self.stepper.accelerator
        if accelerator.num_processes == 1:
            return time.monotonic() >= self.end
        if not self._due(self.recipe.train.log_every):
            return False
        late = torch.tensor(float(time.monotonic() >= self.end), device=accelerator.device)
        return bool(cast(Tensor, accelerator.reduce(late, "sum")) > 0)

    def _end_here(self) -> None:
        """Make the step that is done the run's last."""
        step, planned = self.state.step, self.recipe.optim.num_steps
        self.recipe = replace(self.recipe, optim=replace(self.recipe.optim, num_steps=step))
        if self.stepper.accelerator.is_main_process:
            checkpoint.claim(self.run, self.recipe)
        _say(
            self.stepper.accelerator.is_main_process, f"The time is over: {step} of {planned} steps are done."
        )

    def _due(self, every: int) -> bool:
        """Whether this is one of every `every` steps (0: none), or the last."""
        return (every > 0 and self.state.step % every == 0) or self.state.step == self.recipe.optim.num_steps

    def _owed(self) -> bool:
        """Whether the run was stopped between a step and the evaluation that was due after it."""
        step = self.state.step
        due = step > 0 and self.validate is not None and self._due(self.recipe.train.eval_every)
        return due and self.state.evaluated_step != step

    def _record(self, report: StepReport, clock: Clock) -> dict[str, float]:
        """This step's values, losses averaged over processes; waits for the device."""
        losses = torch.stack(list(report.losses.values()))
        losses = cast(Tensor, self.stepper.accelerator.reduce(losses, "mean"))
        *values, norm = torch.cat([losses, report.grad_norm.reshape(1).to(losses)]).tolist()
        record = dict(zip(report.losses, values)) | {"loss": sum(values), "grad_norm": norm} | report.rates
        skipped = {"train/skipped_records": float(self.skipped.count)} if self.skipped.count else {}
        return {f"train/{name}": value for name, value in record.items()} | clock.read() | skipped

    def _validate_and_save(self, validate: Validation, record: dict[str, float]) -> None:
        """Evaluate the model, and save a checkpoint if it is the best or one is due."""
        try:
            report = validate(self.state.step)
            metrics, step = report.metrics, self.state.step
            figure = watched(metrics, self.monitor, self.chosen)
        except StopNow:
            self._interrupt(record)
        except UserError as error:
            save_after(error, self._save)
            raise
        better = figure is not None and figure.better(self.state.best)
        best = {"best": figure.value, "best_step": step} if figure is not None and better else {}
        self.state = replace(self.state, metrics=metrics, evaluated_step=step, **best)
        self._write({**record, **{f"eval/{name}": number for name, number in metrics.items()}})
        if figure is not None:
            self.log.monitored(step, figure.name, figure.value)
        if better:
            self._export(exports.BEST_FOLDER)
        if better or self._due(self.recipe.train.checkpoint_every):
            self._save()

    def _save(self) -> None:
        finished = self.state.step == self.recipe.optim.num_steps and not self._owed()
        self.state = replace(self.state, loss_scale=self.stepper.loss_scale(), finished=finished)
        if self.stepper.accelerator.is_main_process:
            weights, training = self.stepper.model.state_dict(), self.stepper.training_tensors()
            checkpoint.save(self.run, self.state, weights, training, self.recipe.train.keep)
            self._export(exports.MODEL_FOLDER)

    def _export(self, name: str) -> None:
        if self.stepper.accelerator.is_main_process:
            exports.export(self.stepper, self.run / name, sections_of(self.recipe, self.state))

    def _interrupt(self, record: dict[str, float]) -> NoReturn:
        self._write(record)
        self._save()
        name = signal.Signals(self.stop.signal).name if self.stop else "another process"
        raise Interrupted(
            f"Stopped by {name} after step {self.state.step} of {self.recipe.optim.num_steps}; a checkpoint "
            f"is saved in {self.run / 'checkpoints'}. Give the same command again to go on.",
            self.stop.signal or signal.SIGTERM,
        )

    def _write(self, record: dict[str, float]) -> None:
        """Write to the log, to the bar's note, and, without a bar, to standard error."""
        if not record:
            return
        self.log.write(self.state.step, record)
        shown = {"loss": record.get("train/loss"), **self._latest()}
        self.note = "  ".join(f"{name} {value:.4g}" for name, value in shown.items() if value is not None)
        if self.stepper.accelerator.is_main_process and not sys.stderr.isatty():
            _say(True, f"step {self.state.step}/{self.recipe.optim.num_steps}  {self.note}")

    def _latest(self) -> dict[str, float | None]:
        """The watched figure of the last evaluation, if there was one."""
        known = {name: value for name, value in self.state.metrics.items() if value is not None}
        figure = watched(known, self.monitor, self.chosen)
        return {} if figure is None else {figure.name: figure.value}

    def _batches(self, train_set: ClipDataset) -> Any:
        return train_batches(
            train_set,
            batch_size=self.recipe.train.batch_size,
            seed=self.recipe.train.seed,
            start_step=self.state.step,
            rank=self.stepper.accelerator.process_index,
            world_size=self.stepper.accelerator.num_processes,
            num_workers=self.recipe.train.num_workers,
            skip_corrupt=self.skipped.allowed,
            on_skip=self.skipped,
        )

    def _bar(self, total: int) -> AbstractContextManager[Callable[..., None]]:
        if self.stepper.accelerator.is_main_process:
            return progress("Training", total, "steps")
        return nullcontext(lambda n, note="": None)


@contextmanager
def _only_writer(run: Path) -> Iterator[None]:
    """Keep other trainings out of the run's folder; a folder in which nothing was written is removed.

    Raises:
        UserError: another process is training there.
    """
    busy = f"Another process is training in {run}. Wait for it, or choose another run folder."
    with locked(run / ".lock", busy):
        try:
            yield
        finally:
            with suppress(OSError):  # a folder that was removed meanwhile must not hide why the run ended
                if [path.name for path in run.iterdir()] == [".lock"]:
                    shutil.rmtree(run)


def _resume(stepper: TrainStep, run: Path, first: bool) -> RunState:
    found = checkpoint.latest(run, tell=lambda message: _say(first, message))
    if found is None:
        return RunState()
    stepper.load(found.model, found.training, found.state.loss_scale, str(found.folder))
    _say(first and not found.state.finished, f"Resuming {run} after step {found.state.step}.")
    return found.state


def _stopped_at_end(stop: StopRequest, run: Path, step: int) -> Interrupted:
    """What ends the command where a stop was requested too late for the training, which is complete."""
    name = signal.Signals(stop.signal).name
    return Interrupted(
        f"Stopped by {name} after the last of {count_text(step, 'step')}: {run} is finished and saved. Give the same "
        "command again for what follows.",
        stop.signal,
    )


def _result(run: Path, state: RunState) -> RunResult:
    return RunResult(run, state.step, state.metrics, state.best, state.best_step)


def _say(aloud: bool, message: str) -> None:
    if aloud:
        print(message, file=sys.stderr, flush=True)

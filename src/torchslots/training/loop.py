"""The training loop: one for every recipe. The same call starts a run, resumes it, and finds it finished."""

import dataclasses
import math
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from torchslots.data.loader import ClipDataset, CorruptRecord, eval_batches, train_batches
from torchslots.errors import UserError
from torchslots.progress import progress
from torchslots.shapes import Batch
from torchslots.training import checkpoint
from torchslots.training.checkpoint import RunState
from torchslots.training.engine import seed_step
from torchslots.training.evaluate import evaluate
from torchslots.training.faults import explained
from torchslots.training.interrupt import Interrupted, StopRequest, stop_request
from torchslots.training.log import Clock, RunLog
from torchslots.training.recipe import Recipe
from torchslots.training.step import StepReport, TrainStep

if TYPE_CHECKING:
    from torchslots.training.evaluate import EvalReport

MODEL_FOLDER = "model"
"""Under the run: the newest weights, in the end the final ones; averaged where an average is kept."""
BEST_FOLDER = "best"
"""Under the run: the weights with the best value of the watched metric."""
_EVALUATION = 1  # sets the random draws of an evaluation apart from those of the step before


class Savable(Protocol):
    """What a run asks of a model besides its loss."""

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        ...


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves."""

    run: Path
    step: int
    """Updates done."""
    metrics: dict[str, float | None]
    """The last evaluation; empty without an evaluation set."""
    best: float | None
    """Best value of the watched metric over all evaluations."""
    best_step: int | None


def train(
    recipe: Recipe,
    model: nn.Module,
    train_set: ClipDataset,
    eval_set: ClipDataset | None,
    run: Path,
    *,
    device: str | None = None,
    monitor: str = "fg_ari",
    draw: int = 4,
    wandb: bool = False,
    skip_corrupt: bool = False,
) -> RunResult:
    """Train `model` in place, from the newest checkpoint in `run` where there is one.

    Args:
        eval_set: whole videos for the periodic evaluation; None: none is done, and there is no best model.
        run: the run's folder; see `torchslots.training.checkpoint` for what is in it.
        device: `cpu` or `cuda`; None: CUDA where there is one.
        monitor: the metric whose highest value marks the best model.
        draw: videos to draw at each evaluation.
        wandb: also log to Weights & Biases.
        skip_corrupt: leave out damaged records instead of stopping at the first.

    Raises:
        Interrupted: Ctrl-C or SIGTERM came; a checkpoint is saved.
        UserError: a loss that is not finite (its batch is saved), a full disk, a folder of another recipe,
            and what the data and the device refuse.
    """
    checkpoint.claim(run, recipe, write=False)
    stepper = TrainStep(model, recipe.optim, recipe.train, device)
    first = stepper.accelerator.is_main_process
    if first:
        checkpoint.claim(run, recipe)
    stepper.accelerator.wait_for_everyone()
    state = _resume(stepper, run, first)
    if state.finished:
        _say(
            first,
            f"{run} is finished: {state.step} steps are done. Choose another run folder to train again.",
        )
        return _result(run, state)
    if recipe.train.compile:
        _say(
            first,
            "torch.compile: the first step takes minutes; this pays in runs of some thousand steps or more.",
        )
    log = RunLog(run, state.step, wandb=wandb, settings=dataclasses.asdict(recipe), active=first)
    with log, stop_request() as stop, explained(run, recipe.train, stepper.accelerator.process_index):
        loop = _Loop(recipe, stepper, eval_set, run, log, stop, state, monitor, draw, skip_corrupt)
        return loop.run_to_end(train_set)


class _StopNow(Exception):
    """An evaluation gives way to a stop request."""


@dataclass
class _Loop:
    """What the hooks of the loop share; `state` is replaced, never changed."""

    recipe: Recipe
    stepper: TrainStep
    eval_set: ClipDataset | None
    run: Path
    log: RunLog
    stop: StopRequest
    state: RunState
    monitor: str
    draw: int
    skip_corrupt: bool

    note: str = ""
    skipped: int = 0

    def run_to_end(self, train_set: ClipDataset) -> RunResult:
        clock, total = Clock(), self.recipe.optim.num_steps
        self.stepper.model.train()
        with closing(self._batches(train_set)) as batches, self._bar(total) as advance:
            advance(self.state.step, note=self.note)
            if self._owed():
                self._evaluate_and_save({})
            while self.state.step < total:
                batch = clock.waiting_for(lambda: next(batches))
                report = self.stepper(self.state.step, batch, stop=bool(self.stop))
                self.state = replace(self.state, step=self.state.step + 1)
                clock.tick()
                self._after(report, clock)
                advance(1, note=self.note)
            if not self.state.finished:
                self._save()
        return _result(self.run, self.state)

    def _after(self, report: StepReport, clock: Clock) -> None:
        """Log, stop, evaluate and save as due."""
        logged = self._due(self.recipe.train.log_every) or self.state.step == 1
        evaluated = self._due(self.recipe.train.eval_every) and self.eval_set is not None
        saved = self._due(self.recipe.train.checkpoint_every)
        if not (logged or evaluated or saved or self.stepper.stopped):
            return
        self.stepper.drain()
        record = self._record(report, clock) if logged else {}
        if self.stepper.stopped:
            self._interrupt(record)
        if evaluated:
            self._evaluate_and_save(record)
        else:
            self._write(record)
        if saved and not evaluated:
            self._save()
        clock.restart()

    def _due(self, every: int) -> bool:
        """At the last step all is due."""
        return (every > 0 and self.state.step % every == 0) or self.state.step == self.recipe.optim.num_steps

    def _owed(self) -> bool:
        """The run was stopped between a step and the evaluation that was due after it."""
        step = self.state.step
        due = step > 0 and self.eval_set is not None and self._due(self.recipe.train.eval_every)
        return due and self.state.evaluated_step != step

    def _record(self, report: StepReport, clock: Clock) -> dict[str, float]:
        """This step's numbers, losses averaged over processes; the one place that waits for the device."""
        losses = torch.stack(list(report.losses.values()))
        losses = cast(Tensor, self.stepper.accelerator.reduce(losses, "mean"))
        *values, norm = torch.cat([losses, report.grad_norm.reshape(1).to(losses)]).tolist()
        record = {f"train/{name}": value for name, value in zip(report.losses, values)}
        rates = {"train/grad_norm": norm, "train/lr": report.learning_rate}
        skipped = {"train/skipped_records": float(self.skipped)} if self.skipped else {}
        return {**record, "train/loss": sum(values), **rates, **clock.read(), **skipped}

    def _evaluate_and_save(self, record: dict[str, float]) -> None:
        """Judge the model; a new best one is saved at once, others when a checkpoint is due."""
        try:
            report = self._evaluate()
        except _StopNow:
            self._interrupt(record)
        metrics = {name: float(value) for name, value in report.metrics.items()}
        value, step = metrics.get(self.monitor), self.state.step
        if value is None:
            raise UserError(
                f"There is no metric `{self.monitor}` to watch. The evaluation has: {', '.join(metrics)}."
            )
        better = math.isfinite(value) and (self.state.best is None or value > self.state.best)
        best = {"best": value, "best_step": step} if better else {}
        self.state = replace(self.state, metrics=metrics, evaluated_step=step, **best)
        self._write({**record, **{f"eval/{name}": number for name, number in metrics.items()}})
        if better:
            self._export(BEST_FOLDER)
        if better or self._due(self.recipe.train.checkpoint_every):
            self._save()

    def _evaluate(self) -> "EvalReport":
        config, accelerator = self.recipe.evaluation, self.stepper.accelerator
        rank = accelerator.process_index
        seed_step(self.recipe.train.seed, self.state.step, rank, _EVALUATION)
        batches = eval_batches(
            cast(ClipDataset, self.eval_set),
            batch_size=config.batch_size,
            rank=rank,
            world_size=accelerator.num_processes,
            num_workers=self.recipe.train.num_workers,
            limit=config.num_videos,
            skip_corrupt=self.skip_corrupt,
            on_skip=self._skipped,
        )
        model = self.stepper.evaluated_model()
        model.eval()
        with closing(self._unless_stopped(batches)) as watched:
            report = evaluate(
                model,
                watched,
                config,
                device=accelerator.device,
                precision=self.recipe.train.precision,
                draw=self.draw,
            )
        self.stepper.model.train()
        self._draw(report)
        return report

    def _draw(self, report: "EvalReport") -> None:
        """The middle frame of each drawn video, one above the other."""
        if not (self.stepper.accelerator.is_main_process and len(report.panels)):
            return
        sheet = np.concatenate([panel[len(panel) // 2] for panel in report.panels])
        picture = BytesIO()
        Image.fromarray(sheet).save(picture, format="png")
        checkpoint.write_file(self.run / "pictures" / f"step_{self.state.step}.png", picture.getvalue())
        self.log.picture(self.state.step, "eval/slots", sheet)

    def _unless_stopped(self, batches: Iterator[Batch]) -> Generator[Batch, None, None]:
        """Alone, a process may leave an evaluation at once; among others it would keep them waiting."""
        for batch in batches:
            if self.stop and self.stepper.accelerator.num_processes == 1:
                raise _StopNow
            yield batch

    def _save(self) -> None:
        finished = self.state.step == self.recipe.optim.num_steps and not self._owed()
        self.state = replace(self.state, loss_scale=self.stepper.loss_scale(), finished=finished)
        if self.stepper.accelerator.is_main_process:
            weights, training = self.stepper.model.state_dict(), self.stepper.training_tensors()
            checkpoint.save(self.run, self.state, weights, training, self.recipe.train.keep)
            self._export(MODEL_FOLDER)

    def _export(self, name: str) -> None:
        if self.stepper.accelerator.is_main_process:
            cast(Savable, self.stepper.evaluated_model()).save_pretrained(self.run / name)

    def _skipped(self, error: CorruptRecord) -> None:
        self.skipped += 1
        print(f"Left out ({self.skipped} so far): {error}", file=sys.stderr, flush=True)

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
        """To the log, to the bar's note, and as a line where no bar is drawn."""
        if not record:
            return
        self.log.write(self.state.step, record)
        shown = {"loss": record.get("train/loss"), self.monitor: self.state.metrics.get(self.monitor)}
        self.note = "  ".join(f"{name} {value:.4g}" for name, value in shown.items() if value is not None)
        if self.stepper.accelerator.is_main_process and not sys.stderr.isatty():
            print(
                f"step {self.state.step}/{self.recipe.optim.num_steps}  {self.note}",
                file=sys.stderr,
                flush=True,
            )

    def _batches(self, train_set: ClipDataset) -> Any:
        return train_batches(
            train_set,
            batch_size=self.recipe.train.batch_size,
            seed=self.recipe.train.seed,
            start_step=self.state.step,
            rank=self.stepper.accelerator.process_index,
            world_size=self.stepper.accelerator.num_processes,
            num_workers=self.recipe.train.num_workers,
            skip_corrupt=self.skip_corrupt,
            on_skip=self._skipped,
        )

    def _bar(self, total: int) -> AbstractContextManager[Callable[..., None]]:
        if self.stepper.accelerator.is_main_process:
            return progress("Training", total, "steps")
        return nullcontext(lambda n, note="": None)


def _resume(stepper: TrainStep, run: Path, first: bool) -> RunState:
    found = checkpoint.latest(run, tell=lambda message: _say(first, message))
    if found is None:
        return RunState()
    stepper.load(found.model, found.training, found.state.loss_scale, str(found.folder))
    _say(first and not found.state.finished, f"Resuming {run} after step {found.state.step}.")
    return found.state


def _result(run: Path, state: RunState) -> RunResult:
    return RunResult(run, state.step, state.metrics, state.best, state.best_step)


def _say(aloud: bool, message: str) -> None:
    if aloud:
        print(message, file=sys.stderr, flush=True)

"""The periodic evaluation of a run, with a plot; a stop request ends it."""

import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from torchslots.data.batch import ClipDataset
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.loader import eval_batches
from torchslots.io.files import write_file
from torchslots.models.types import Batch
from torchslots.recipes.config import Recipe
from torchslots.training.accelerator import precision_of, seed_step
from torchslots.training.log import RunLog
from torchslots.training.step import TrainStep
from torchslots.training.stops import StopRequest

if TYPE_CHECKING:  # imports the metrics, which takes seconds: a run begins without
    from torchslots.evaluation.report import EvalReport

_EVALUATION = 1  # separates the random numbers of an evaluation from those of the step before


class StopNow(Exception):
    """A stop request ended an evaluation."""


@dataclass
class SkippedRecords:
    """Counts and reports the damaged records that this process leaves out, if that is allowed; each once."""

    allowed: bool
    seen: set[tuple[str, int]] = field(default_factory=set)

    @property
    def count(self) -> int:
        """Different records."""
        return len(self.seen)

    def __call__(self, error: CorruptRecord) -> None:
        known = self.count
        self.seen.add((str(error.file), error.record))
        if self.count > known:
            print(
                f"Left out ({self.count} so far): {error.file}: {error.reason}", file=sys.stderr, flush=True
            )


@dataclass(frozen=True)
class Validation:
    """Evaluates a run's model on `eval_set`, whole videos, and plots `num_plots` of them."""

    recipe: Recipe
    stepper: TrainStep
    eval_set: ClipDataset
    skipped: SkippedRecords
    run: Path
    log: RunLog
    stop: StopRequest
    num_plots: int

    def check(self) -> None:
        """Read the first video, so that a run which could not be evaluated does not begin.

        Raises:
            UserError: it cannot be read.
        """
        with closing(self._batches(batch_size=1, rank=0, world_size=1, num_workers=0, limit=1)) as batches:
            next(batches, None)

    def __call__(self, step: int) -> "EvalReport":
        """Evaluate the model after `step` updates.

        Raises:
            StopNow: a stop was requested meanwhile.
        """
        from torchslots.evaluation.evaluate import evaluate
        from torchslots.evaluation.held_out import AttentionMaps, held_out

        config, accelerator = self.recipe.evaluation, self.stepper.accelerator
        rank = accelerator.process_index
        seed_step(self.recipe.train.seed, step, rank, _EVALUATION)
        batches = self._batches(
            batch_size=config.batch_size,
            rank=rank,
            world_size=accelerator.num_processes,
            num_workers=self.recipe.train.num_workers,
            limit=config.num_videos,
        )
        model, precision = self.stepper.evaluated_model(), precision_of(accelerator)
        extras = held_out(model, self.recipe, step, self.num_plots, accelerator.device, precision)
        with closing(self._unless_stopped(batches)) as watched:
            report = evaluate(
                model,
                watched,
                config,
                device=accelerator.device,
                precision=precision,
                num_plots=self.num_plots,
                observers=extras,
            )
        self._plot(step, report)
        for maps in extras:
            if isinstance(maps, AttentionMaps) and maps.sheets:
                self.log.image(step, "eval/attention", _stack(maps.sheets))
        return report

    def _batches(self, **how: Any) -> Any:
        allowed, report = self.skipped.allowed, self.skipped
        return eval_batches(self.eval_set, skip_corrupt=allowed, on_skip=report, **how)

    def _plot(self, step: int, report: "EvalReport") -> None:
        """The middle frame of each stored video, one above the other."""
        if not report.panels:
            return
        panels = [video.panel() for video in report.panels]
        sheet = _stack([panel[len(panel) // 2] for panel in panels])
        png = BytesIO()
        Image.fromarray(sheet).save(png, format="png")
        write_file(self.run / "pictures" / f"step_{step}.png", png.getvalue(), durable=True)
        self.log.image(step, "eval/slots", sheet)

    def _unless_stopped(self, batches: Iterator[Batch]) -> Generator[Batch, None, None]:
        """The batches until a stop request, for a single process only: of several, the others would wait."""
        for batch in batches:
            if self.stop and self.stepper.accelerator.num_processes == 1:
                raise StopNow
            yield batch


def _stack(images: list[np.ndarray]) -> np.ndarray:
    """Images [H, W, 3] one above the other, padded with black to the same width."""
    width = max(image.shape[1] for image in images)
    padded = [np.pad(image, ((0, 0), (0, width - image.shape[1]), (0, 0))) for image in images]
    return np.concatenate(padded)

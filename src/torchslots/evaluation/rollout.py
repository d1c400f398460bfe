"""Evaluate prediction without observations: how well a model predicts the frames after the observed ones."""

import json
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchslots.evaluation.evaluate import predict_step, run_pass
from torchslots.evaluation.observers import (
    Findings,
    Needs,
    Slice,
    at_labels,
    real_frames,
    real_pixels,
)
from torchslots.evaluation.report import finite, print_table
from torchslots.io.counts import count_text
from torchslots.io.devices import figures_device
from torchslots.io.draw import plot_curves
from torchslots.io.errors import UserError
from torchslots.io.files import write_file
from torchslots.metrics import scores
from torchslots.metrics.image import squared_error
from torchslots.metrics.segmentation import FrameMean, Numbering, VideoMean, contingency, fg_ari
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slices import demand_finite, predict_ahead, to_device
from torchslots.models.types import Batch, Prediction
from torchslots.recipes.config import EvalConfig

COPY = "copy_"
"""Prefix of the figures of the baseline that repeats the last observed frame."""

DEFINITIONS = {
    "fg_ari": "Adjusted Rand index over the pixels of objects in the predicted frames: in `metrics` over all of "
    "them together, so that a slot must keep its object; in `curves` each frame by itself. Mean over videos.",
    "psnr_*": "Peak signal-to-noise ratio in dB of a predicted frame in [0, 1], of the mean squared error over "
    "videos (and, in `metrics`, over frames), so that videos in which nothing changes do not make it infinite.",
    f"{COPY}fg_ari": "fg_ari of the model's segmentation of the last observed frame, repeated.",
    f"{COPY}psnr_*": "psnr of the true last observed frame, repeated.",
}
"""Definition of each figure."""
LABELS = {
    "fg_ari": scores.LABELS["fg_ari"],
    "psnr_video": "PSNR of frames (dB)",
    "psnr_flow": "PSNR of optical flow (dB)",
}
"""Names of the same figures in tables."""


@dataclass(frozen=True)
class HorizonReport:
    """The result: `metrics` over the whole horizon, `curves` for each frame after the last observed one."""

    observed: int
    """Number of observed frames."""
    metrics: dict[str, float]
    curves: dict[str, list[float]]
    num_videos: int

    def to_json(self) -> str:
        """The report as JSON text; values that are not finite become null."""
        metrics = dict(zip(self.metrics, finite(self.metrics.values())))
        curves = {name: finite(curve) for name, curve in self.curves.items()}
        about = {"observed": self.observed, "num_videos": self.num_videos}
        return json.dumps(
            about | {"metrics": metrics, "curves": curves, "definitions": DEFINITIONS}, indent=2
        )

    def print_table(self) -> None:
        """Print the figures over the whole horizon, each beside that of repeating the last observed frame."""
        labels = {name: LABELS.get(name, name) for name in self.metrics if not name.startswith(COPY)}
        horizon = max((len(curve) for curve in self.curves.values()), default=0)
        seen = f"{count_text(self.observed, 'frame')} seen, {horizon} predicted"
        title = f"{count_text(self.num_videos, 'video')}: {seen}"
        rows = [
            (label, *(_shown(key, self.metrics[key]) for key in (name, COPY + name)))
            for name, label in labels.items()
        ]
        notes = [
            f"{label}: {DEFINITIONS[name if name in DEFINITIONS else 'psnr_*']}"
            for name, label in labels.items()
        ]
        print_table(title, ("figure", "model", "last frame repeated"), rows, notes)

    def save(self, folder: Path) -> list[Path]:
        """Write horizon.json, and a plot over the horizon for each figure beside its baseline.

        Raises:
            UserError: no space left, or a folder that cannot be written.
        """
        write_file(folder / "horizon.json", self.to_json() + "\n")
        names = [name for name in self.curves if not name.startswith(COPY)]
        return [
            folder / "horizon.json",
            *(self._plot(name, folder / f"horizon_{name}.png") for name in names),
        ]

    def _plot(self, name: str, path: Path) -> Path:
        steps, label = list(range(1, len(self.curves[name]) + 1)), LABELS.get(name, name)
        curves = {"model": self.curves[name], "last frame repeated": self.curves[COPY + name]}
        series = {key: (steps, curve) for key, curve in curves.items()}
        return plot_curves(
            series, path, title=f"{label} without input", x_label="frames ahead", y_label=label
        )


def _shown(name: str, value: float) -> str:
    return f"{value:.2f} dB" if "psnr_" in name else f"{100 * value:.1f} %"


class FrameErrors:
    """Mean over videos of each frame's error, without frames that are padding."""

    def __init__(self, num_frames: int, device: torch.device) -> None:
        self._total = torch.zeros(num_frames, dtype=torch.float64, device=device)
        self._count = torch.zeros(num_frames, dtype=torch.int64, device=device)

    def update(self, errors: Float[Tensor, "B T"], real: Bool[Tensor, "B T"]) -> None:
        """Add videos."""
        self._total += torch.where(real, errors, 0.0).sum(0)
        self._count += real.sum(0)

    def psnr(self) -> tuple[Float[Tensor, "T"], Float[Tensor, ""]]:
        """PSNR of each frame's mean error, and over all frames; NaN for a frame that no video has."""
        means = self._total / self._count, self._total.sum() / self._count.sum()
        return -10 * torch.log10(means[0]), -10 * torch.log10(means[1])


@torch.no_grad()
def evaluate_rollout(
    model: ObjectCentricModel,
    batches: Iterable[Batch],
    observe: int,
    horizon: int | None = None,
    *,
    slice_size: int = 6,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> HorizonReport:
    """Evaluate a model's prediction of the frames that follow the first, observed frames of each video.

    FG-ARI if the data have masks; PSNR of each target of three channels (`video`, `flow`) that the model decodes and
    the data have; and the same for the last observed frame, repeated. One process evaluates all videos.

    Args:
        batches: from `eval_batches`: whole videos.
        observe: frames to observe, at least 1.
        horizon: frames to predict; None: all that follow.
        slice_size: frames that the model processes at once.
        seed: seed of sampled slots; a video's slots depend only on it and on the video's name.

    Raises:
        UserError: no videos, or none longer than `observe`.
    """
    config = EvalConfig(num_frames=observe, slice_size=slice_size, seed=seed)
    device = torch.device(device)
    ahead = Rollout(model, observe, horizon, slice_size, device)
    num_videos = run_pass(model, predict_step(model, nullcontext), batches, config, device, [ahead])
    found = ahead.report()
    return HorizonReport(observe, found.metrics, found.curves, num_videos)


class Rollout:
    """An observer that predicts frames after the last slice of each video and compares them with the true ones.

    Its figures are those of this process only. The first batch decides which figures there are.

    Raises:
        UserError: by `finish`, videos that are too short.
    """

    needs = Needs()

    def __init__(
        self,
        model: ObjectCentricModel,
        observe: int,
        horizon: int | None,
        slice_size: int,
        device: torch.device,
    ) -> None:
        self._model, self._observe, self._horizon = model, observe, horizon
        self._slice_size, self._device = slice_size, figures_device(device)
        self._frames: dict[str, FrameMean] = {}
        self._videos: dict[str, VideoMean] = {}
        self._errors: dict[str, FrameErrors] = {}
        self._seen: Prediction | None = None

    def add(self, seen: Slice, found: Prediction) -> None:
        self._seen = found

    def finish(self, batch: Batch) -> None:
        horizon, seen = self._length(batch), self._seen
        assert seen is not None
        ahead = slice(self._observe, self._observe + horizon)
        truth = {
            key: value[:, ahead].to(self._device)
            for key, value in batch.items()
            if isinstance(value, Tensor) and value.ndim > 3
        }
        parts = predict_ahead(self._model, seen.state, horizon, self._slice_size)
        predicted = [found._replace(**to_device(found._asdict(), self._device)) for found in parts]
        for part in predicted:
            demand_finite(part, batch.get("name", ()))
        if "segmentations" in truth:
            self._add_masks(truth, seen, predicted)
        for name, first in predicted[0].recon.items():
            if first.shape[2] == 3 and name in truth:
                frames = torch.cat([part.recon[name] for part in predicted], 1)
                last = batch[name][:, self._observe - 1, None].to(self._device)
                self._add_frames(name, frames, last, truth)

    def _length(self, batch: Batch) -> int:
        """Frames to predict of this batch, the same for all batches."""
        found = batch["video"].shape[1] - self._observe
        if self._observe < 1 or found < (self._horizon or 1):
            raise UserError(
                f"Cannot observe {count_text(self._observe, 'frame')} and evaluate {self._horizon or 'some'} more "
                "of videos of "
                f"{count_text(batch['video'].shape[1], 'frame')}. Observe at least 1 and leave enough to predict."
            )
        self._horizon = self._horizon or found
        return self._horizon

    def _add_masks(self, truth: Batch, seen: Prediction, predicted: list[Prediction]) -> None:
        number, num_slots = Numbering((0,)), seen.masks.shape[2]
        objects = number(truth["segmentations"])
        found = torch.cat([at_labels(part, objects) for part in predicted], 1)
        copied = at_labels(seen, objects)[:, -1:].expand_as(found)
        mask = real_pixels(truth, objects)
        if "ignore" in truth:
            mask = ~truth["ignore"] if mask is None else mask & ~truth["ignore"]
        for name, ids in (("fg_ari", found), (f"{COPY}fg_ari", copied)):
            tables = contingency(objects, ids, num_slots, len(number), mask)
            whole = tables.sum(1)
            frames, videos = FrameMean(fg_ari, found.shape[1]), VideoMean(fg_ari)
            self._frames.setdefault(name, frames.to(self._device)).update(tables)
            self._videos.setdefault(name, videos.to(self._device)).update(whole[whole.sum((-2, -1)) > 0])

    def _add_frames(
        self, name: str, predicted: Float[Tensor, "B T 3 H W"], last: Float[Tensor, "B 1 3 H W"], truth: Batch
    ) -> None:
        """Add squared errors; predicted frames are clipped to [0, 1]."""
        target: Tensor = truth[name]
        real = real_frames(truth).to(target.device)
        for prefix, frames in (("", predicted.clamp(0, 1)), (COPY, last.expand_as(target))):
            error = squared_error(frames, target) / target[0, 0].numel()
            new = FrameErrors(target.shape[1], self._device)
            self._errors.setdefault(f"{prefix}psnr_{name}", new).update(error, real)

    def report(self) -> Findings:
        metrics = {name: float(mean.compute()) for name, mean in self._videos.items()}
        curves = {name: mean.compute().tolist() for name, mean in self._frames.items()}
        for name, errors in self._errors.items():
            frames, whole = errors.psnr()
            metrics[name], curves[name] = float(whole), frames.tolist()
        return Findings(metrics, DEFINITIONS, curves=curves)

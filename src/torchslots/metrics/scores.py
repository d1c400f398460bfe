"""Segmentation metrics of videos that arrive slice by slice."""

import math
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from torchmetrics import Metric

from torchslots.metrics.segmentation import (
    FrameMean,
    Score,
    VideoMean,
    ari,
    contingency,
    fg_ari,
    fg_miou,
    mbo,
    miou,
    num_foreground,
)

DEFINITIONS: dict[str, str] = {
    "fg_ari": "Adjusted Rand index of slots and objects over the pixels of objects (true background left "
    "out, predicted background kept), all frames of a video together, so that a slot must keep its object; "
    "first frame included; 1 where undefined, as in a video without objects; mean over videos.",
    "ari": "As fg_ari, over all pixels, background included.",
    "fg_ari_objects_only": "As fg_ari, with all masks of background left out, not id 0 alone: of Objects Room sky, "
    "floor and both walls, as papers report it.",
    "fg_ari_no_first": "As fg_ari, without the first frame, which a conditioned model is shown.",
    "ari_no_first": "As ari, without the first frame.",
    "fg_ari_frame": "As fg_ari, but each frame by itself; mean over all frames of all videos.",
    "ari_frame": "As ari, but each frame by itself; mean over all frames of all videos.",
    "fg_ari_frame_no_first": "As fg_ari_frame, without first frames.",
    "ari_frame_no_first": "As ari_frame, without first frames.",
    "miou": "Intersection over union of each object, background among them, with the slot that one-to-one "
    "(Hungarian) matching gives it, all frames of a video together; mean over objects, then over videos.",
    "fg_miou": "As miou, without background; videos without objects are left out.",
    "mbo": "Best intersection over union that any slot has with each object, without background, all frames of "
    "a video together; mean over objects, then over videos; videos without objects are left out.",
    "miou_frame": "As miou, but each frame by itself and over what is seen in it; mean over all frames of all videos.",
    "fg_miou_frame": "As miou_frame, without background; frames without objects are left out.",
    "mbo_frame": "As mbo, but each frame by itself and over the objects seen in it; mean over all frames of all "
    "videos; frames without objects are left out.",
}
"""What each figure of `SegmentationScores.compute` means; all lie in [0, 1], ARI may be slightly negative."""

LABELS: dict[str, str] = {
    "fg_ari": "FG-ARI",
    "ari": "ARI",
    "fg_ari_objects_only": "FG-ARI of objects only",
    "fg_ari_no_first": "FG-ARI, first frame left out",
    "ari_no_first": "ARI, first frame left out",
    "fg_ari_frame": "FG-ARI of single frames",
    "ari_frame": "ARI of single frames",
    "fg_ari_frame_no_first": "FG-ARI of single frames, first left out",
    "ari_frame_no_first": "ARI of single frames, first left out",
    "miou": "mIoU",
    "fg_miou": "mIoU without background",
    "mbo": "mBO",
    "miou_frame": "mIoU of single frames",
    "fg_miou_frame": "mIoU of single frames, without background",
    "mbo_frame": "mBO of single frames",
}
"""The same figures as a reader's table names them."""

_VIDEO_SCORES = {"fg_ari": fg_ari, "ari": ari, "miou": miou, "fg_miou": fg_miou, "mbo": mbo}
_LATER_SCORES = {"fg_ari_no_first": fg_ari, "ari_no_first": ari}


def _of_seen(score: Score, kept: int, tables: Int[Tensor, "n G K"]) -> Float[Tensor, "n"]:
    """A score of a frame without the ids that have no pixels; the first `kept` ids always stay. In a whole video a gap
    in the ids counts as a missed object."""
    rows = tables[:, kept:]
    order = (rows.sum(-1) == 0).to(torch.uint8).argsort(dim=-1, stable=True)
    return score(torch.cat([tables[:, :kept], rows.gather(1, order[..., None].expand_as(rows))], 1))


_FRAME_SCORES = {
    "fg_ari_frame": fg_ari,
    "ari_frame": ari,
    "miou_frame": partial(_of_seen, miou, 0),
    "fg_miou_frame": partial(_of_seen, fg_miou, 1),
    "mbo_frame": partial(_of_seen, mbo, 1),
}
_LATER_FRAME_SCORES = {"fg_ari_frame_no_first": fg_ari, "ari_frame_no_first": ari}
_CURVES = {"fg_ari": fg_ari, "ari": ari}


class Census(Metric):
    """Number of videos, of those without objects, and of those with more objects than slots."""

    full_state_update = False
    videos: Tensor
    empty: Tensor
    crowded: Tensor
    most_objects: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("videos", "empty", "crowded"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("most_objects", torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    def update(self, tables: Int[Tensor, "B G K"]) -> None:
        """Count videos, one table each."""
        objects = num_foreground(tables)
        self.videos += len(objects)
        self.empty += (objects == 0).sum()
        self.crowded += (objects + 1 > tables.shape[-1]).sum()
        if len(objects):
            self.most_objects = torch.maximum(self.most_objects, objects.max())

    def compute(self) -> dict[str, int]:
        """The four counts by name."""
        return {name: int(getattr(self, name)) for name in ("videos", "empty", "crowded", "most_objects")}


class SegmentationScores:
    """Adds up a batch of videos slice by slice; memory does not grow with their length.

    Call `add` for each slice of a batch in order, then `finish`. `compute` sums over all processes when
    torch.distributed runs; then every process must call it.

    Args:
        num_frames: longest video.
        num_background: ids from 0 that are background; with more than one, `fg_ari_objects_only` is given too.
    """

    def __init__(self, num_frames: int, device: torch.device | str = "cpu", num_background: int = 1) -> None:
        self._device = torch.device(device)
        objects = (
            {"fg_ari_objects_only": partial(_fg_ari_behind, num_background)} if num_background > 1 else {}
        )
        self._videos, self._later = self._means(_VIDEO_SCORES | objects), self._means(_LATER_SCORES)
        self._frames, self._later_frames = self._means(_FRAME_SCORES), self._means(_LATER_FRAME_SCORES)
        self._curves = {name: self._start(FrameMean(score, num_frames), 1) for name, score in _CURVES.items()}
        self._census = self._start(Census())
        self._tables: Tensor | None = None
        self._first: Tensor | None = None

    def _means(self, scores: dict[str, Score]) -> dict[str, Any]:
        return {name: self._start(VideoMean(score)) for name, score in scores.items()}

    def _start(self, metric: Any, *frames: int) -> Any:
        """A metric on the device, updated without a video, because a process may be given none."""
        metric = metric.to(self._device)
        metric.update(torch.zeros(0, *frames, 2, 1, dtype=torch.int64, device=self._device))
        return metric

    def add(
        self,
        truth: Integer[Tensor, "B T H W"],
        prediction: Integer[Tensor, "B T H W"],
        num_slots: int,
        num_objects: int,
        padding_mask: Bool[Tensor, "B T H W"] | None = None,
        start: int = 0,
    ) -> None:
        """Add frames `start` to `start + T` of the current batch.

        Args:
            num_objects: largest object id of the whole batch, plus one.
        """
        tables = contingency(truth, prediction, num_slots, num_objects, padding_mask)
        for metric in self._curves.values():
            metric.update(tables, start)
        _update(self._frames, tables.flatten(0, 1))
        _update(self._later_frames, tables[:, int(start == 0) :].flatten(0, 1))
        whole = tables.sum(1)
        self._tables = whole if self._tables is None else self._tables + whole
        if start == 0:
            self._first = tables[:, 0]

    def finish(self) -> None:
        """The videos of the current batch are complete."""
        assert self._tables is not None and self._first is not None, "finish() needs add(start=0) before it"
        _update(self._videos, self._tables)
        _update(self._later, self._tables - self._first)
        self._census.update(self._tables)
        self._tables = self._first = None

    def compute(self) -> tuple[dict[str, float], dict[str, list[float]], dict[str, int]]:
        """Figures by name, curves over frames by name, the census; undefined figures are left out."""
        means = self._videos | self._later | self._frames | self._later_frames
        figures = {name: float(means[name].compute()) for name in DEFINITIONS if name in means}
        defined = {name: value for name, value in figures.items() if not math.isnan(value)}
        curves = {
            name: _until_nan(metric.compute().reshape(-1).tolist()) for name, metric in self._curves.items()
        }
        return defined, curves, self._census.compute()


def _fg_ari_behind(num_background: int, tables: Int[Tensor, "*batch G K"]) -> Float[Tensor, "*batch"]:
    """FG-ARI over the pixels of objects whose id is at least `num_background`."""
    return fg_ari(tables[..., num_background - 1 :, :])


def _until_nan(curve: list[float]) -> list[float]:
    """Without the frames at the end that no video has."""
    while curve and math.isnan(curve[-1]):
        curve.pop()
    return curve


def _update(means: dict[str, Any], tables: Int[Tensor, "n G K"]) -> None:
    """Tables without a pixel are padding, or what is left of a video of one frame: nothing to measure."""
    tables = tables[tables.sum((-2, -1)) > 0]
    for mean in means.values():
        mean.update(tables)

"""Segmentation metrics of videos that arrive slice by slice."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from torchmetrics import Metric

from torchslots.metrics.boundary import JAndF, grown
from torchslots.metrics.protocol import CLASSES, Protocol
from torchslots.metrics.segmentation import (
    FrameMean,
    Numbering,
    Score,
    VideoMean,
    ari,
    contingency,
    corloc,
    fg_ari,
    fg_miou,
    mbo,
    miou,
    num_foreground,
    recall,
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

EXTRA: dict[str, str] = {
    "fg_ari_several": "As fg_ari, over the videos with at least two objects.",
    "fg_ari_several_frame": "As fg_ari_frame, over the frames with at least two objects.",
    "corloc": "Part of the videos in which any slot overlaps any object by more than half (CorLoc), all frames of a "
    "video together; videos without objects are left out.",
    "corloc_frame": "As corloc, but each frame by itself.",
    "recall": "Part of the objects that some slot overlaps by more than half, all frames of a video together; mean "
    "over videos; videos without objects are left out.",
    "recall_frame": "As recall, but each frame by itself.",
}
"""What the figures mean that are reported only where a protocol asks for them."""
EXTRA_LABELS: dict[str, str] = {
    "fg_ari_several": "FG-ARI, two objects or more",
    "fg_ari_several_frame": "FG-ARI of single frames, two objects or more",
    "corloc": "CorLoc",
    "corloc_frame": "CorLoc of single frames",
    "recall": "Recall",
    "recall_frame": "Recall of single frames",
    "j_and_f": "J&F",
    "j": "J",
    "f": "F",
}
"""The same figures, and those of `BOUNDARIES`, as a reader's table names them."""
_J_AND_F = (
    "J&F, the mean of J and F: of each object and the slot that one-to-one (Hungarian) matching by J&F gives it, the "
    "mean over all frames of the video of IoU (J) and of F of boundaries; "
)
BOUNDARIES: dict[str, str] = {
    "exact": f"{_J_AND_F}boundaries must coincide, a frame without the object counts 0; mean over objects, then over "
    "videos.",
    "tolerant": f"{_J_AND_F}as in DAVIS' official program for unsupervised segmentation: boundaries agree within 0.8 % "
    "of the diagonal, a frame without object and slot counts 1; mean over the objects of all videos.",
}
"""What J&F means, by `Protocol.boundaries`."""
CLASS_LABELS: dict[str, str] = {
    name: f"{LABELS[name.removeprefix('class_')]}, of classes" for name in CLASSES
}
"""The same figures as a reader's table names them."""
_LEFT_OUT = {
    "1 where undefined, as in a video without objects; mean over videos.": "videos without labels are left out; mean "
    "over the others."
}
"""How the definition of FG-ARI reads where videos without labels are left out."""

_VIDEO_SCORES = {"fg_ari": fg_ari, "ari": ari, "miou": miou, "fg_miou": fg_miou, "mbo": mbo}
_LATER_SCORES = {"fg_ari_no_first": fg_ari, "ari_no_first": ari}
_FRAME_SCORES = {f"{name}_frame": score for name, score in _VIDEO_SCORES.items()}
_LATER_FRAME_SCORES = {"fg_ari_frame_no_first": fg_ari, "ari_frame_no_first": ari}
_CURVES = {"fg_ari": fg_ari, "ari": ari}
_EXTRA_SCORES = {"fg_ari_several": partial(fg_ari, least_objects=2), "corloc": corloc, "recall": recall}


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

    def update(self, tables: Int[Tensor, "B G K"], num_slots: int) -> None:
        """Count videos, one table each."""
        objects = num_foreground(tables)
        self.videos += len(objects)
        self.empty += (objects == 0).sum()
        self.crowded += (objects + 1 > num_slots).sum()
        if len(objects):
            self.most_objects = torch.maximum(self.most_objects, objects.max())

    def compute(self) -> dict[str, int]:
        """The four counts by name."""
        return {name: int(getattr(self, name)) for name in ("videos", "empty", "crowded", "most_objects")}


class SegmentationScores:
    """Adds up a batch of videos slice by slice; memory does not grow with their length.

    Call `add` for each slice of a batch in order, then `finish`. `compute` sums over all processes when
    torch.distributed runs; then every process must call it. Ids may be any integers with any gaps.

    Args:
        num_frames: longest video.
        num_background: ids from 0 that are background; with more than one, `fg_ari_objects_only` is given too. 0: id 0
            is no label, and there are no figures that include background.
        protocol: how to compute what published evaluations compute differently; None: as SAVi's.
    """

    def __init__(
        self,
        num_frames: int,
        device: torch.device | str = "cpu",
        num_background: int = 1,
        protocol: Protocol | None = None,
    ) -> None:
        self._device, self._background = torch.device(device), num_background
        self._protocol = protocol = protocol or Protocol()
        objects = (
            {"fg_ari_objects_only": partial(_fg_ari_behind, num_background)} if num_background > 1 else {}
        )
        extra = {name: score for name, score in _EXTRA_SCORES.items() if name in protocol.figures}
        extra_frames = {
            f"{name}_frame": score
            for name, score in _EXTRA_SCORES.items()
            if f"{name}_frame" in protocol.figures
        }
        self._videos = self._means(_VIDEO_SCORES | objects | extra)
        self._later = self._means(_LATER_SCORES)
        self._frames = self._means(_FRAME_SCORES | extra_frames)
        self._later_frames = self._means(_LATER_FRAME_SCORES)
        self._curves = {
            name: self._start(FrameMean(score, num_frames), 1) for name, score in self._asked(_CURVES).items()
        }
        self._census = Census().to(self._device)
        self._census.update(self._no_tables(), 1)
        self._j_and_f = JAndF(protocol.boundaries, self._device) if protocol.boundaries else None
        self._reset()

    def _reset(self) -> None:
        self._objects, self._slots = Numbering(range(max(self._background, 1))), Numbering()
        self._tables = self._first = torch.zeros(1, 1, 0, dtype=torch.int64, device=self._device)

    def _asked(self, scores: Mapping[str, Score]) -> dict[str, Score]:
        """The scores, as the protocol computes them, without those of background that has no label."""
        if self._background:
            return dict(scores)
        labelled = {name: score for name, score in scores.items() if score not in (ari, miou)}
        if self._protocol.without_objects == "one":
            return labelled
        skips = partial(fg_ari, least_objects=1)
        return {name: skips if score is fg_ari else score for name, score in labelled.items()}

    def _means(self, scores: Mapping[str, Score]) -> dict[str, Any]:
        return {name: self._start(VideoMean(score)) for name, score in self._asked(scores).items()}

    def _start(self, metric: Any, *frames: int) -> Any:
        """A metric on the device, updated without a video, because a process may be given none."""
        metric = metric.to(self._device)
        metric.update(self._no_tables(*frames))
        return metric

    def _no_tables(self, *frames: int) -> Int[Tensor, "..."]:
        return torch.zeros(0, *frames, 2, 1, dtype=torch.int64, device=self._device)

    def add(
        self,
        truth: Integer[Tensor, "B T H W"],
        prediction: Integer[Tensor, "B T H W"],
        num_slots: int,
        num_objects: int | None = None,
        padding_mask: Bool[Tensor, "B T H W"] | None = None,
        start: int = 0,
        ignore: Bool[Tensor, "B T H W"] | None = None,
    ) -> None:
        """Add frames `start` to `start + T` of the current batch.

        Args:
            num_slots: of the model; more in the prediction count as well.
            num_objects: ids from this one on are left out; None: all ids count.
            padding_mask: False on pixels of padding.
            ignore: True on pixels that are left out of labels and predictions.
        """
        counted = torch.ones_like(truth, dtype=torch.bool) if padding_mask is None else padding_mask
        real = counted.flatten(2).any(-1)
        counted = counted if ignore is None else counted & ~ignore
        if num_objects is not None:
            counted = counted & (truth.long() < num_objects)
        truth, prediction = self._objects(truth), self._slots(prediction)
        self._num_slots = num_slots
        tables = contingency(truth, prediction, len(self._slots), len(self._objects), counted)
        for metric in self._curves.values():
            metric.update(tables, start)
        _update(self._frames, tables.flatten(0, 1))
        _update(self._later_frames, tables[:, int(start == 0) :].flatten(0, 1))
        if self._j_and_f is not None:
            objects, slots = (ids.masked_fill(~counted, -1) for ids in (truth, prediction))
            self._j_and_f.add(objects, slots, tables, real)
        whole = tables.sum(1)
        self._tables = grown(self._tables, whole.shape) + whole
        if start == 0:
            self._first = tables[:, 0]

    def finish(self) -> None:
        """The videos of the current batch are complete."""
        assert len(self._slots), "finish() needs add() before it"
        _update(self._videos, self._tables)
        _update(self._later, self._tables - grown(self._first, self._tables.shape))
        self._census.update(self._tables, self._num_slots)
        if self._j_and_f is not None:
            self._j_and_f.finish()
        self._reset()

    def compute(self) -> tuple[dict[str, float], dict[str, list[float]], dict[str, int]]:
        """Figures by name, curves over frames by name, the census; undefined figures are left out."""
        means = self._videos | self._later | self._frames | self._later_frames
        figures = {name: float(means[name].compute()) for name in (*DEFINITIONS, *EXTRA) if name in means}
        if self._j_and_f is not None:
            figures |= self._j_and_f.compute()
        defined = {name: value for name, value in figures.items() if not math.isnan(value)}
        curves = {
            name: _until_nan(metric.compute().reshape(-1).tolist()) for name, metric in self._curves.items()
        }
        return defined, curves, self._census.compute()

    def definition(self, name: str) -> str:
        """What one of the figures means."""
        if self._j_and_f is not None and name in ("j_and_f", "j", "f"):
            text = BOUNDARIES[self._protocol.boundaries or "exact"]
            return text if name == "j_and_f" else f"{name.upper()} of j_and_f, see there."
        text = (DEFINITIONS | EXTRA)[name]
        if self._protocol.without_objects == "left_out" and not self._background:
            for told, instead in _LEFT_OUT.items():
                text = text.replace(told, instead)
        return text


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

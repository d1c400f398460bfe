"""J&F: region similarity J and boundary accuracy F of objects in videos (Perazzi et al., 2016; Pont-Tuset et al.,
2017).

J is the IoU of an object and a slot in a frame, F the harmonic mean of precision and recall of their boundaries; both
are means over all frames of a video. Slots are matched to objects one to one so that (J + F) / 2 is largest. The two
programs differ in what a boundary is and when it is right, in what absence is worth, and in what is averaged.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import MeanMetric

from torchslots.metrics.segmentation import Numbering, contingency, intersection_over_union

Masks = Bool[Tensor, "n H W"]
_WIDTH, _TOLERANCE = 0.02, 0.008
"""Width of an exact boundary and tolerance of a tolerant one, in diagonals of the image."""


class Boundary(NamedTuple):
    """Boundaries of some masks, and the pixels in which other boundaries agree with them."""

    pixels: Masks
    near: Masks


class Form(NamedTuple):
    """One program's J&F."""

    boundary: Callable[[Masks], Boundary]
    both_absent: float
    """J and F of a frame that has neither the object nor the slot."""
    over_objects: bool
    """Whether the figure is the mean over the objects of all videos; otherwise over videos of the mean over objects."""


def inner_boundary(masks: Masks) -> Masks:
    """Each mask without its erosion by a square of 2 r + 1 pixels, outside of the image empty.

    r is 2 % of the image's diagonal, rounded, at least 1.
    """
    height, width = masks.shape[-2:]
    radius = max(1, round(_WIDTH * math.hypot(height, width)))
    outside = F.pad((~masks).float()[:, None], (radius,) * 4, value=1.0)
    for kernel in ((2 * radius + 1, 1), (1, 2 * radius + 1)):
        outside = F.max_pool2d(outside, kernel, stride=1)
    return masks & (outside[:, 0] > 0)


def outline(masks: Masks) -> Masks:
    """Pixels that differ from their neighbour on the right, below, or both; the frame's edge is no boundary.

    As in DAVIS' official program (after Martin's `seg2bmap`).
    """
    inner = masks[:, :-1, :-1]
    found = torch.zeros_like(masks)
    found[:, :-1, :-1] = (
        (inner ^ masks[:, :-1, 1:]) | (inner ^ masks[:, 1:, :-1]) | (inner ^ masks[:, 1:, 1:])
    )
    found[:, -1, :-1] = masks[:, -1, :-1] ^ masks[:, -1, 1:]
    found[:, :-1, -1] = masks[:, :-1, -1] ^ masks[:, 1:, -1]
    return found


def dilate(masks: Masks, radius: int) -> Masks:
    """Pixels at most `radius` from a mask, one row of the disk after the other."""
    found, height = masks.clone(), masks.shape[-2]
    for half in range(min(radius, height - 1) + 1):
        reach = math.isqrt(radius**2 - half**2)
        wide = (
            F.max_pool2d(masks.float()[:, None], (1, 2 * reach + 1), stride=1, padding=(0, reach))[:, 0] > 0
        )
        found[:, half:] |= wide[:, : height - half]
        found[:, : height - half] |= wide[:, half:]
    return found


def _exact(masks: Masks) -> Boundary:
    return Boundary(inner_boundary(masks), inner_boundary(masks))


def _tolerant(masks: Masks) -> Boundary:
    lines = outline(masks)
    return Boundary(lines, dilate(lines, math.ceil(_TOLERANCE * math.hypot(*masks.shape[-2:]))))


FORMS: dict[str, Form] = {
    "exact": Form(_exact, both_absent=0.0, over_objects=False),
    "tolerant": Form(_tolerant, both_absent=1.0, over_objects=True),
}
"""exact: boundaries must coincide; tolerant: DAVIS' official program for unsupervised segmentation."""


def boundary_f(objects: Boundary, slots: Boundary) -> Float[Tensor, "G K"]:
    """F of every object with every slot of one frame; 0 where a boundary is missing."""
    pixels, others = objects.pixels.sum((-2, -1)).double(), slots.pixels.sum((-2, -1)).double()
    recall = _shared(objects.pixels, slots.near) / pixels[:, None].clamp(min=1)
    precision = _shared(objects.near, slots.pixels) / others.clamp(min=1)
    total = precision + recall
    return 2 * precision * recall / torch.where(total > 0, total, 1.0)


def _shared(one: Masks, other: Masks) -> Float[Tensor, "G K"]:
    """Pixels that two masks share."""
    return (one.flatten(1).float() @ other.flatten(1).float().T).double()


class FrameSums:
    """Mean over frames of a score of each object and slot, with more of both from slice to slice.

    The score is 0 in frames that have only one of the two.
    """

    def __init__(self, device: torch.device) -> None:
        self._scores = self._both = torch.zeros(1, 0, 0, dtype=torch.float64, device=device)
        self._objects = self._slots = torch.zeros(1, 0, dtype=torch.float64, device=device)

    def add(
        self,
        scores: Float[Tensor, "B G K"],
        objects: Bool[Tensor, "B G"],
        slots: Bool[Tensor, "B K"],
    ) -> None:
        """Add a frame of each video, and what is in it."""
        both = objects[:, :, None] & slots[:, None]
        self._scores = grown(self._scores, both.shape) + scores * both
        self._both = grown(self._both, both.shape) + both
        self._objects = grown(self._objects, objects.shape) + objects
        self._slots = grown(self._slots, slots.shape) + slots

    def present(self) -> Bool[Tensor, "B G"]:
        """Objects that any frame has."""
        return self._objects > 0

    def mean(self, num_frames: Int[Tensor, "B"], both_absent: float) -> Float[Tensor, "B G K"]:
        """Over all frames, with empty slots where there are fewer than objects.

        Args:
            both_absent: score of frames that have neither the object nor the slot.
        """
        count = self._objects.shape[1]
        frames, slots = num_frames[:, None, None].double(), grown(self._slots, (1, count))
        scores, both = (grown(values, (1, count, count)) for values in (self._scores, self._both))
        neither = frames - self._objects[:, :, None] - slots[:, None] + both
        return (scores + both_absent * neither) / frames.clamp(min=1)


def grown(values: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The values filled up with zeros to at least `shape` in each dimension but the first."""
    short = [max(wanted - has, 0) for has, wanted in zip(values.shape[1:], shape[1:])]
    return F.pad(values, [part for size in reversed(short) for part in (0, size)])


class JAndF:
    """J&F of videos that arrive slice by slice; call `add` for each slice of a batch in order, then `finish`.

    Args:
        boundaries: a key of `FORMS`.
    """

    def __init__(self, boundaries: Literal["exact", "tolerant"], device: torch.device | str = "cpu") -> None:
        self._form = FORMS[boundaries]
        self._means = {name: _mean(torch.device(device)) for name in ("j_and_f", "j", "f")}
        self._device = torch.device(device)
        self._start()

    def _start(self) -> None:
        self._regions, self._boundaries = FrameSums(self._device), FrameSums(self._device)
        self._num_frames: Tensor | int = 0

    def add(
        self,
        truth: Int[Tensor, "B T H W"],
        prediction: Int[Tensor, "B T H W"],
        tables: Int[Tensor, "B T G K"],
        real: Bool[Tensor, "B T"],
    ) -> None:
        """Add frames.

        Args:
            truth, prediction: ids below G and K; -1 on pixels that are left out. Object 0 is background.
            tables: their contingency.
            real: frames that are not padding.
        """
        num_objects, num_slots = tables.shape[-2:]
        overlap = intersection_over_union(tables)[..., 1:, :]
        for t in range(truth.shape[1]):
            frames = [
                self._frame(objects, slots, num_objects, num_slots)
                for objects, slots in zip(truth[:, t], prediction[:, t])
            ]
            objects, slots, f = (torch.stack(part) for part in zip(*frames))
            here = real[:, t, None]
            seen = (tables[:, t, 1:].sum(-1) > 0) & here, (tables[:, t].sum(-2) > 0) & here
            self._regions.add(overlap[:, t], *seen)
            self._boundaries.add(f, objects & here, slots & here)
        self._num_frames = self._num_frames + real.sum(1)

    def _frame(
        self, truth: Int[Tensor, "H W"], prediction: Int[Tensor, "H W"], num_objects: int, num_slots: int
    ) -> tuple[Bool[Tensor, "G"], Bool[Tensor, "K"], Float[Tensor, "G K"]]:
        """Which objects and slots have a boundary, and F of every two."""
        ids = torch.arange(max(num_objects, num_slots), device=truth.device)[:, None, None]
        objects = self._form.boundary(truth == ids[1:num_objects])
        slots = self._form.boundary(prediction == ids[:num_slots])
        has_object, has_slot = (masks.pixels.flatten(1).any(1) for masks in (objects, slots))
        return has_object, has_slot, boundary_f(objects, slots)

    def finish(self) -> None:
        """The videos of the current batch are complete."""
        assert isinstance(self._num_frames, Tensor), "finish() needs add() before it"
        sums = (self._regions, self._boundaries)
        scores = torch.stack([each.mean(self._num_frames, self._form.both_absent) for each in sums], 1)
        for values, present in zip(scores.cpu(), self._regions.present().cpu()):
            if present.any():
                self._update(values[:, present])
        self._start()

    def _update(self, scores: Float[Tensor, "two G K"]) -> None:
        """Add a video whose objects and slots have these J and F."""
        rows, columns = linear_sum_assignment(scores.mean(0).numpy(), maximize=True)
        matched = scores[:, rows, columns]
        values = matched if self._form.over_objects else matched.mean(1, keepdim=True)
        for mean, value in zip(self._means.values(), (values.mean(0), *values)):
            mean.update(value.to(self._device))

    def compute(self) -> dict[str, float]:
        """J&F, J and F over all processes, which must all call it; NaN without an object."""
        return {name: float(mean.compute()) for name, mean in self._means.items()}


class Figures(NamedTuple):
    """J&F and its two parts, in [0, 1]; NaN without an object."""

    j_and_f: float
    j: float
    f: float


def j_and_f(
    true: Int[Tensor, "B T H W"],
    predicted: Int[Tensor, "B T H W"],
    ignore: Bool[Tensor, "B T H W"],
    boundaries: Literal["exact", "tolerant"],
) -> Figures:
    """J&F of integer maps, id 0 of `true` being background."""
    found = JAndF(boundaries, true.device)
    for row in range(len(true)):
        number_objects, number_slots = Numbering((0,)), Numbering()
        numbered = number_objects(true[row, None]), number_slots(predicted[row, None])
        objects, slots = (ids.masked_fill(ignore[row, None], -1) for ids in numbered)
        tables = contingency(objects, slots, len(number_slots), len(number_objects))
        found.add(objects, slots, tables, torch.ones(tables.shape[:2], dtype=torch.bool, device=true.device))
        found.finish()
    return Figures(**found.compute())


def _mean(device: torch.device) -> Any:
    """In float64; updated without a value, because a process may be given none."""
    mean = MeanMetric(nan_strategy="disable").to(device)
    mean.set_dtype(torch.float64)
    mean.update(torch.zeros(0, device=device))
    return mean

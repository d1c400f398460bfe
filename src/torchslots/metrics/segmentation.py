"""Segmentation metrics of contingency tables: ARI, FG-ARI, mIoU, mBO.

A table [G, K] holds the pixels of each pair of object and slot, of a frame or a video; tables of frames add up to that
of the video. Counts are int64 and scores float64: the pair counts of a 24-frame video of 128x128 pixels reach 1e11 and
their products 1e22. Row 0 is the background; the foreground metrics leave it out. A row or column without pixels
changes no figure, so gaps in ids do not matter; `Numbering` keeps tables small where ids are large.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric

Tables = Int[Tensor, "*batch G K"]
Scores = Float[Tensor, "*batch"]
Score = Callable[[Tables], Scores]
"""A figure per table; NaN where the figure is not defined."""


_HALF = 0.5
"""IoU from which a slot has found an object."""
_DENSE = 2**20
"""Ids that span no more than this are counted, others sorted."""


class Numbering:
    """Ids as 0, 1, ... in the order in which they are met, the same in every call.

    Args:
        known: ids that have the first numbers, whether they are met or not.
    """

    def __init__(self, known: Iterable[int] = ()) -> None:
        self._ids = torch.tensor([*known], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def __call__(self, ids: Shaped[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The numbers of these ids, integers of any type."""
        ids = _wide(ids).contiguous()
        known = self._ids.to(ids.device)
        if not (_counts_up(known) and _between(ids, 0, len(known) - 1)):
            met = _distinct(ids)
            self._ids = torch.cat([known, met[~torch.isin(met, known)]])
        if _counts_up(self._ids):
            return ids
        order = self._ids.argsort()
        return order[torch.searchsorted(self._ids[order], ids.long())]


def _wide(ids: Shaped[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Ids in a signed type that every count of objects and slots fits."""
    return ids if ids.dtype in (torch.int32, torch.int64) else ids.long()


def _counts_up(ids: Int[Tensor, "n"]) -> bool:
    """Whether ids are 0, 1, ..., so that each is its own number."""
    return torch.equal(ids, torch.arange(len(ids), device=ids.device))


def _between(ids: Int[Tensor, "*shape"], low: int, high: int) -> bool:
    if not ids.numel():
        return True
    least, most = ids.aminmax()
    return int(least) >= low and int(most) <= high


def _distinct(ids: Int[Tensor, "*shape"]) -> Int[Tensor, "n"]:
    if not ids.numel():
        return ids.flatten()
    low, high = (int(end) for end in ids.aminmax())
    if high - low > _DENSE:
        return ids.unique()
    return torch.bincount((ids - low).flatten()).nonzero().flatten() + low


def contingency(
    truth: Integer[Tensor, "*batch H W"],
    prediction: Integer[Tensor, "*batch H W"],
    num_slots: int,
    num_objects: int | None = None,
    padding_mask: Bool[Tensor, "*batch H W"] | None = None,
) -> Tables:
    """Pixels of each pair of object and slot for each image of the batch [..., G, K].

    Args:
        num_slots: K; pixels with another slot id are left out.
        num_objects: G, background included. Pixels whose object id is G or more are left out, as in the reference
            implementations, whose one-hot code of such an id is all zeros. None: largest id in `truth` plus one.
            Negative ids are left out; where ids are negative or large, `Numbering` comes first.
        padding_mask: False on pixels that are left out.
    """
    truth, prediction = _wide(truth), _wide(prediction)
    if num_objects is None:
        num_objects = int(truth.max()) + 1 if truth.numel() else 1
    cells = num_objects * num_slots
    pair = truth.int() * num_slots + prediction.int()
    keep = (truth >= 0) & (truth < num_objects) & (prediction >= 0) & (prediction < num_slots)
    if padding_mask is not None:
        keep &= padding_mask
    pair = pair.masked_fill_(~keep, cells)
    images = pair.shape[:-2].numel()
    pair = pair.reshape(images, pair.shape[-2:].numel())
    dtype = torch.int32 if images * (cells + 1) < 2**31 else torch.int64
    pair = pair + torch.arange(images, device=pair.device, dtype=dtype)[:, None] * (cells + 1)
    counts = torch.bincount(pair.flatten(), minlength=images * (cells + 1)).view(images, cells + 1)
    return counts[:, :cells].reshape(*truth.shape[:-2], num_objects, num_slots)


def adjusted_rand_index(
    tables: Tables, *, foreground: bool = False, undefined: Literal["one", "nan"] = "one"
) -> Scores:
    """Agreement of two partitions beyond chance (Hubert and Arabie, 1985): 1 is perfect, 0 is chance; [...].

    With r, a, b the pairs of pixels that share a cell, an object, a slot, and n pixels:
    ARI = (r - a b / n(n-1)) / ((a + b) / 2 - a b / n(n-1)).

    Args:
        foreground: leave out the pixels whose object is 0.
        undefined: value where the denominator is 0 (no pixels, or both partitions trivial). "one": 1, as in SAVi, ISA
            and SlotDiffusion. "nan": NaN, as in multi_object_datasets, except for one object and one slot over the
            whole image, background included.
    """
    counts = tables[..., 1:, :] if foreground else tables
    pairs, objects, slots = _pairs(counts.flatten(-2)), _pairs(counts.sum(-1)), _pairs(counts.sum(-2))
    every = _pairs(counts.sum((-2, -1))[..., None])
    trivial = (objects == slots) & ((objects == 0) | (objects == every))
    objects, slots = objects.double(), slots.double()
    chance = objects * slots / every.clamp(min=1)
    index = (pairs - chance) / torch.where(trivial, 1.0, (objects + slots) / 2 - chance)
    if undefined == "one":
        return torch.where(trivial, 1.0, index)
    index = torch.where(trivial, torch.nan, index)
    return torch.where(_is_trivial(tables, foreground), 1.0, index)


def _pairs(counts: Int[Tensor, "*batch n"]) -> Int[Tensor, "*batch"]:
    return (counts * (counts - 1)).sum(-1)


def _is_trivial(tables: Tables, foreground: bool) -> Bool[Tensor, "*batch"]:
    """One slot and one object; in the foreground variant background pixels count as object 1.

    The source takes an argmax over the one-hot code without its first channel, which gives 0 for background.
    """
    present = tables > 0
    objects, slots = present.any(-1), present.any(-2)
    if foreground:
        objects = torch.cat([objects[..., :2].any(-1, keepdim=True), objects[..., 2:]], dim=-1)
    return (objects.sum(-1) == 1) & (slots.sum(-1) == 1)


def ari(tables: Tables) -> Scores:
    """Adjusted Rand index over all pixels, background included."""
    return adjusted_rand_index(tables)


def fg_ari(tables: Tables, least_objects: int = 0) -> Scores:
    """Adjusted Rand index over the pixels of objects; 1 where a video has none.

    Args:
        least_objects: NaN where fewer objects have pixels.
    """
    scores = adjusted_rand_index(tables, foreground=True)
    return torch.where(num_foreground(tables) < least_objects, torch.nan, scores)


def intersection_over_union(tables: Tables) -> Float[Tensor, "*batch G K"]:
    """IoU of every object with every slot; 0 where both are empty."""
    counts = tables.double()
    union = counts.sum(-1, keepdim=True) + counts.sum(-2, keepdim=True) - counts
    return counts / union.clamp(min=1)


def mean_iou(tables: Tables, *, foreground: bool = False) -> Scores:
    """Mean over objects of the IoU with the slot of one-to-one (Hungarian) matching; [...].

    An object for which no slot is left counts as 0. NaN where no object has pixels.

    Args:
        foreground: background gets no slot; it still counts in the union of slots that cover it.
    """
    first = int(foreground)
    count, objects = tables.shape[:-2].numel(), tables.shape[-2] - first
    overlap = (
        intersection_over_union(tables)[..., first:, :]
        .reshape(count, objects, tables.shape[-1])
        .cpu()
        .numpy()
    )
    present = (tables.sum(-1) > 0)[..., first:].reshape(count, objects).cpu().numpy()
    scores = [_matched(rows[seen]) for rows, seen in zip(overlap, present)]
    return torch.tensor(scores, dtype=torch.float64, device=tables.device).reshape(tables.shape[:-2])


def _matched(overlap: Any) -> float:
    if not len(overlap):
        return float("nan")
    return float(overlap[linear_sum_assignment(overlap, maximize=True)].sum()) / len(overlap)


def miou(tables: Tables) -> Scores:
    """Mean IoU with background as one more object."""
    return mean_iou(tables)


def fg_miou(tables: Tables) -> Scores:
    """Mean IoU over foreground objects; NaN where a video has none."""
    return mean_iou(tables, foreground=True)


def mbo(tables: Tables) -> Scores:
    """Mean over foreground objects of the best IoU of any slot; NaN where a video has none.

    One slot may be the best of several objects.
    """
    return _best(tables).sum(-1) / num_foreground(tables)


def _best(tables: Tables) -> Float[Tensor, "*batch objects"]:
    """IoU of each foreground object with the slot that overlaps it most."""
    return intersection_over_union(tables).amax(-1)[..., 1:]


def corloc(tables: Tables) -> Scores:
    """1 where any slot overlaps any foreground object by more than half (CorLoc), else 0; NaN without objects."""
    found = (_best(tables) > _HALF).any(-1).double()
    return torch.where(num_foreground(tables) > 0, found, torch.nan)


def recall(tables: Tables) -> Scores:
    """Part of the foreground objects that some slot overlaps by more than half; NaN where a video has none."""
    return (_best(tables) > _HALF).sum(-1).double() / num_foreground(tables)


def num_foreground(tables: Tables) -> Int[Tensor, "*batch"]:
    """Foreground objects with at least one pixel."""
    return (tables[..., 1:, :].sum(-1) > 0).sum(-1)


class _ScoreMean(Metric):
    """Mean of a score over videos, float64; NaN where no video has the score."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, score: Score, *shape: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.score = score
        self.add_state("total", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def compute(self) -> Float[Tensor, "*frames"]:
        return self.total / self.count


class VideoMean(_ScoreMean):
    """Mean of a score over videos, NaN scores left out.

    A video has one table over all its frames, so an object that changes its slot between frames is an error.
    """

    def update(self, tables: Int[Tensor, "B G K"]) -> None:
        """Add videos, one table each, summed over the frames that count."""
        values = self.score(tables)
        self.total += values.nansum()
        self.count += values.isfinite().sum()


class FrameMean(_ScoreMean):
    """Mean of a score over videos for each frame on its own: `FrameMean(score, num_frames)`."""

    def update(self, tables: Int[Tensor, "B T G K"], start: int = 0) -> None:
        """Add frames `start` to `start + T`; frames without a counted pixel (padding) are left out."""
        values = self.score(tables)
        real = (tables.sum((-2, -1)) > 0) & values.isfinite()
        frames = slice(start, start + tables.shape[1])
        self.total[frames] += torch.where(real, values, 0.0).sum(0)
        self.count[frames] += real.sum(0)

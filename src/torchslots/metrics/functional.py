"""Segmentation metrics of integer maps, each as one float.

All take `true` and `predicted`: integer maps of one shape, numpy arrays or tensors, [H, W], [T, H, W] or [B, T, H, W].
Ids may have gaps, may be negative, and mean nothing but "the same segment": another numbering gives the same figure.
Only 0 in `true` is the background. A clip counts as a whole: a slot must keep its object over all T frames. The
figure of a batch is the mean over its clips. `ignore` is an id in `true` whose pixels are left out.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.metrics import segmentation
from torchslots.metrics.segmentation import Score, Tables

IntegerMap = np.ndarray | Tensor
"""Integers [H, W], [T, H, W] or [B, T, H, W]."""


def fg_ari(true: IntegerMap, predicted: IntegerMap, ignore: int | None = None) -> float:
    """Adjusted Rand index over the pixels whose id in `true` is not 0 (FG-ARI): 1 is perfect, 0 is chance.

    A clip without foreground pixels, or with one object in one slot, counts as 1, as in the published evaluations.

    Args:
        true: Ids of objects, 0 for background.
        predicted: Ids of slots, of the same shape.
        ignore: Id in `true` whose pixels are left out; None: all count.

    Raises:
        UserError: maps that are not integers, not of one shape, or not of 2 to 4 dimensions.

    Example:
        >>> import numpy as np, torchslots
        >>> true = np.array([[0, 0, 7, 7], [0, 0, 3, 3]])
        >>> torchslots.metrics.fg_ari(true, np.array([[1, 1, 2, 2], [1, 1, 5, 5]]))
        1.0
    """
    return _mean(segmentation.fg_ari, true, predicted, ignore)


def ari(true: IntegerMap, predicted: IntegerMap, ignore: int | None = None) -> float:
    """Adjusted Rand index over all pixels, the background as one more object: 1 is perfect, 0 is chance.

    Arguments and errors are those of `fg_ari`. A clip without pixels counts as 1.

    Example:
        >>> import torch, torchslots
        >>> clip = torch.randint(0, 5, (6, 8, 8))
        >>> torchslots.metrics.ari(clip, 10 * clip + 3)
        1.0
    """
    return _mean(segmentation.ari, true, predicted, ignore)


def miou(true: IntegerMap, predicted: IntegerMap, ignore: int | None = None) -> float:
    """Mean intersection over union in [0, 1]: each object and the background with the slot that one-to-one matching
    (Hungarian) gives it.

    The mean runs over the ids that a clip has; one for which no slot is left counts as 0. Arguments and errors are
    those of `fg_ari`. Clips without pixels are left out; NaN without any clip.

    Example:
        >>> import numpy as np, torchslots
        >>> torchslots.metrics.miou(np.array([[0, 0, 1, 1]]), np.array([[4, 4, 4, 4]]))
        0.25
    """
    return _mean(segmentation.miou, true, predicted, ignore, background=False)


def fg_miou(true: IntegerMap, predicted: IntegerMap, ignore: int | None = None) -> float:
    """As `miou`, over objects alone: the background wants no slot, but slots still pay for the background they cover.

    Arguments and errors are those of `fg_ari`. Clips without foreground are left out; NaN without any other.

    Example:
        >>> import numpy as np, torchslots
        >>> torchslots.metrics.fg_miou(np.array([[0, 0, 1, 1]]), np.array([[4, 4, 4, 4]]))
        0.5
    """
    return _mean(segmentation.fg_miou, true, predicted, ignore)


def mbo(true: IntegerMap, predicted: IntegerMap, ignore: int | None = None) -> float:
    """Mean best overlap in [0, 1]: the best intersection over union that any slot has with each object, background left
    out.

    One slot may be the best of several objects. Arguments and errors are those of `fg_ari`. Clips without foreground
    are left out; NaN without any other.

    Example:
        >>> import numpy as np, torchslots
        >>> torchslots.metrics.mbo(np.array([[0, 8, 1, 1]]), np.array([[0, 4, 4, 4]]))
        0.5
    """
    return _mean(segmentation.mbo, true, predicted, ignore)


def average_precision(
    true: IntegerMap, predicted: IntegerMap, ignore: int | None = None, *, threshold: float = 0.5
) -> float:
    """TP / (TP + FP + FN) in [0, 1] of segments: those that agree by more than `threshold` in IoU are true positives.

    This is the average precision of integer maps, which have no confidences (Stringer et al., 2021; Schmidt et al.,
    2018). Every id of either map is a segment, the background among them. For precision and recall of the properties of
    objects see `torchslots.metrics.set_prediction`.

    Args:
        true, predicted, ignore: See `fg_ari`.
        threshold: Least IoU of a match, in [0.5, 1): at most one slot then matches an object.

    Raises:
        UserError: as `fg_ari`; a threshold outside of [0.5, 1).

    Example:
        >>> import numpy as np, torchslots
        >>> torchslots.metrics.average_precision(np.array([[0, 0, 1, 1, 1]]), np.array([[0, 0, 2, 2, 3]]))
        0.6666666666666666
    """
    if not 0.5 <= threshold < 1:
        raise UserError(f"threshold should lie in [0.5, 1), got {threshold}.")

    def score(tables: Tables) -> Tensor:
        matched = (segmentation.intersection_over_union(tables) > threshold).sum((-2, -1))
        segments = (tables.sum(-1) > 0).sum(-1) + (tables.sum(-2) > 0).sum(-1)
        return matched.double() / (segments - matched)

    return _mean(score, true, predicted, ignore, background=False)


def _mean(
    score: Score, true: IntegerMap, predicted: IntegerMap, ignore: int | None, background: bool = True
) -> float:
    """Mean of a score over the clips in which it is defined.

    Args:
        background: Row 0 of a clip's table is the background's, though it be empty; False: 0 is an id like others.
    """
    shape, other = list(np.shape(true)), list(np.shape(predicted))
    clips = zip(_clips(true, "true"), _clips(predicted, "predicted"))
    if shape != other:
        raise UserError(
            f"`true` and `predicted` should have one shape, got {shape} and {other}. Resize one of them to the nearest "
            "pixels."
        )
    scores = torch.stack([score(_table(*clip, ignore, background)) for clip in clips])
    return float(scores.nanmean())


def _clips(ids: IntegerMap, name: str) -> Int[Tensor, "B n"]:
    """A row of pixels for each clip.

    Raises:
        UserError: no integers, or not 2 to 4 dimensions.
    """
    values: Any = ids if isinstance(ids, Tensor) else np.asarray(ids)
    integers = (
        not values.dtype.is_floating_point if isinstance(values, Tensor) else values.dtype.kind in "iub"
    )
    if not integers or not 2 <= values.ndim <= 4:
        raise UserError(
            f"`{name}` should be integers [H, W], [T, H, W] or [B, T, H, W], got {values.dtype} {list(values.shape)}. "
            "Of soft masks give the argmax over slots."
        )
    pixels = values.cpu().long() if isinstance(values, Tensor) else torch.from_numpy(values.astype(np.int64))
    return pixels.flatten(1) if pixels.ndim == 4 else pixels.reshape(1, -1)


def _table(
    true: Int[Tensor, "n"], predicted: Int[Tensor, "n"], ignore: int | None, background: bool
) -> Int[Tensor, "G K"]:
    """Pixels of each object and slot, both numbered by the rank of their ids among those that there are."""
    if ignore is not None:
        true, predicted = true[true != ignore], predicted[true != ignore]
    ids, objects = true.unique(return_inverse=True)
    slot_ids, slots = predicted.unique(return_inverse=True)
    ranks = (ids != 0).cumsum(0) * (ids != 0) if background else torch.arange(len(ids))
    num_objects, num_slots = max(len(ids), 1) + int(background), max(len(slot_ids), 1)
    return segmentation.contingency(ranks[objects][None, None], slots[None, None], num_slots, num_objects)[0]

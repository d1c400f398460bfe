"""Segmentation metrics of integer maps, each as one float.

All take `true` and `predicted`: integer maps of one shape, numpy arrays or tensors, [H, W], [T, H, W] or [B, T, H, W].
Ids may have gaps, may be negative, and mean nothing but "the same segment": another numbering gives the same figure.
Only 0 in `true` is the background. A clip counts as a whole: a slot must keep its object over all T frames. The
figure of a batch is the mean over its clips. Pixels that `ignore` names are left out of labels and predictions.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from torchslots.io.errors import UserError, first_line
from torchslots.metrics import segmentation
from torchslots.metrics.boundary import FORMS, j_and_f
from torchslots.metrics.segmentation import Numbering, Score, Tables

IntegerMap = np.ndarray | Tensor
"""Integers [H, W], [T, H, W] or [B, T, H, W]."""
Ignored = int | Sequence[int] | np.ndarray | Tensor | None
"""An id in `true`, several ids, or a boolean map of the shape of `true`."""


def fg_ari(true: IntegerMap, predicted: IntegerMap, ignore: Ignored = None) -> float:
    """Adjusted Rand index over the pixels whose id in `true` is not 0 (FG-ARI): 1 is perfect, 0 is chance.

    A clip without foreground pixels, or with one object in one slot, counts as 1, as in the published evaluations.

    Args:
        true: Ids of objects, 0 for background.
        predicted: Ids of slots, of the same shape.
        ignore: What is left out: pixels of an id in `true` or of several ids, or those that a boolean map of the shape
            of `true` marks; None: nothing.

    Raises:
        UserError: maps that are not integers, not of one shape, without a pixel, or not of 2 to 4 dimensions; an
            `ignore` of another kind.

    Examples:
        >>> import numpy as np, torchslots
        >>> true = np.array([[0, 0, 7, 7], [0, 0, 3, 3]])
        >>> torchslots.metrics.fg_ari(true, np.array([[1, 1, 2, 2], [1, 1, 5, 5]]))
        1.0
    """
    return _mean(segmentation.fg_ari, true, predicted, ignore)


def ari(true: IntegerMap, predicted: IntegerMap, ignore: Ignored = None) -> float:
    """Adjusted Rand index over all pixels, the background as one more object: 1 is perfect, 0 is chance.

    Arguments and errors are those of `fg_ari`. A clip without pixels counts as 1.

    Examples:
        >>> import torch, torchslots
        >>> clip = torch.randint(0, 5, (6, 8, 8))
        >>> torchslots.metrics.ari(clip, 10 * clip + 3)
        1.0
    """
    return _mean(segmentation.ari, true, predicted, ignore)


def miou(true: IntegerMap, predicted: IntegerMap, ignore: Ignored = None) -> float:
    """Mean intersection over union in [0, 1]: each object and the background with the slot that one-to-one matching
    (Hungarian) gives it.

    The mean runs over the ids that a clip has; one for which no slot is left counts as 0. Arguments and errors are
    those of `fg_ari`. Clips without pixels are left out; NaN without any clip.

    Examples:
        >>> import numpy as np, torchslots
        >>> torchslots.metrics.miou(np.array([[0, 0, 1, 1]]), np.array([[4, 4, 4, 4]]))
        0.25
    """
    return _mean(segmentation.miou, true, predicted, ignore, background=False)


def fg_miou(true: IntegerMap, predicted: IntegerMap, ignore: Ignored = None) -> float:
    """As `miou`, over objects alone: the background wants no slot, but slots still pay for the background they cover.

    Arguments and errors are those of `fg_ari`. Clips without foreground are left out; NaN without any other.

    Examples:
        >>> import numpy as np, torchslots
        >>> torchslots.metrics.fg_miou(np.array([[0, 0, 1, 1]]), np.array([[4, 4, 4, 4]]))
        0.5
    """
    return _mean(segmentation.fg_miou, true, predicted, ignore)


def mbo(true: IntegerMap, predicted: IntegerMap, ignore: Ignored = None) -> float:
    """Mean best overlap in [0, 1]: the best intersection over union that any slot has with each object, background left
    out.

    One slot may be the best of several objects. Arguments and errors are those of `fg_ari`. Clips without foreground
    are left out; NaN without any other.

    Examples:
        >>> import numpy as np, torchslots
        >>> torchslots.metrics.mbo(np.array([[0, 8, 1, 1]]), np.array([[0, 4, 4, 4]]))
        0.5
    """
    return _mean(segmentation.mbo, true, predicted, ignore)


def corloc(true: IntegerMap, predicted: IntegerMap, ignore: Ignored = None) -> float:
    """Part of the clips in which any slot has an intersection over union of more than half with any object (CorLoc).

    Arguments and errors are those of `fg_ari`. Clips without foreground are left out; NaN without any other.

    Examples:
        >>> import numpy as np, torchslots
        >>> torchslots.metrics.corloc(np.array([[0, 8, 8, 1]]), np.array([[0, 4, 4, 4]]))
        1.0
    """
    return _mean(segmentation.corloc, true, predicted, ignore)


def recall(true: IntegerMap, predicted: IntegerMap, ignore: Ignored = None) -> float:
    """Part of the objects with which some slot has an intersection over union of more than half.

    Arguments and errors are those of `fg_ari`. Clips without foreground are left out; NaN without any other.

    Examples:
        >>> import numpy as np, torchslots
        >>> torchslots.metrics.recall(np.array([[0, 8, 8, 1]]), np.array([[0, 4, 4, 4]]))
        0.5
    """
    return _mean(segmentation.recall, true, predicted, ignore)


def jf(
    true: IntegerMap,
    predicted: IntegerMap,
    ignore: Ignored = None,
    *,
    boundaries: Literal["exact", "tolerant"] = "tolerant",
) -> float:
    """J&F in [0, 1]: mean of the intersection over union (J) and the F of boundaries (F) of objects and their slots.

    Both are means over the frames of a clip; slots are matched to objects one to one. See
    `torchslots.metrics.boundary.j_and_f` for the two apart. Clips without foreground are left out; NaN without any
    other. The figure of a batch is the mean over its clips ("exact"), or over the objects of all of them ("tolerant").

    Args:
        true: Ids of objects, see `fg_ari`.
        predicted: Ids of slots.
        ignore: What is left out.
        boundaries: "tolerant", as DAVIS' official program for unsupervised segmentation computes it; "exact", with
            boundaries that must coincide, where absence from a frame counts 0.

    Raises:
        UserError: as `fg_ari`; other `boundaries`.

    Examples:
        >>> import numpy as np, torchslots
        >>> torchslots.metrics.jf(np.array([[0, 8, 8, 0]] * 4), np.array([[0, 4, 4, 0]] * 4))
        1.0
    """
    if boundaries not in FORMS:
        raise UserError(f"`boundaries` should be {' or '.join(FORMS)}, got {boundaries!r}.")
    objects, slots, ignored = (
        pixels if pixels.ndim == 4 else pixels.reshape(1, -1, *pixels.shape[-2:])
        for pixels in _checked(true, predicted, ignore)
    )
    return j_and_f(objects, slots, ignored, boundaries).j_and_f


def average_precision(
    true: IntegerMap, predicted: IntegerMap, ignore: Ignored = None, *, threshold: float = 0.5
) -> float:
    """TP / (TP + FP + FN) in [0, 1] of segments: those that agree by more than `threshold` in IoU are true positives.

    This is the average precision of integer maps, which have no confidences (Stringer et al., 2021; Schmidt et al.,
    2018). Every id of either map is a segment, the background among them. For precision and recall of the properties of
    objects see `torchslots.metrics.set_prediction`.

    Args:
        true: Ids of objects, see `fg_ari`.
        predicted: Ids of slots.
        ignore: What is left out.
        threshold: Least IoU of a match, in [0.5, 1): at most one slot then matches an object.

    Raises:
        UserError: as `fg_ari`; a threshold outside of [0.5, 1).

    Examples:
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
    score: Score, true: IntegerMap, predicted: IntegerMap, ignore: Ignored, background: bool = True
) -> float:
    """Mean of a score over the clips in which it is defined.

    Args:
        background: Row 0 of a clip's table is the background's, though it be empty; False: 0 is an id like others.
    """
    objects, slots, ignored = (_clips(pixels) for pixels in _checked(true, predicted, ignore))
    tables = [_table(*clip, background=background) for clip in zip(objects, slots, ignored)]
    return float(torch.stack([score(table) for table in tables]).nanmean())


def _checked(
    true: IntegerMap, predicted: IntegerMap, ignore: Ignored
) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"], Bool[Tensor, "*shape"]]:
    """Both maps, and the pixels that are left out.

    Raises:
        UserError: as `fg_ari`.
    """
    objects, slots = _integers(true, "true"), _integers(predicted, "predicted")
    shape, other = list(objects.shape), list(slots.shape)
    if shape != other:
        raise UserError(
            f"`true` and `predicted` should have one shape, got {shape} and {other}. Resize one of them to the nearest "
            "pixels."
        )
    return objects, slots, _ignored(ignore, objects)


def _integers(ids: IntegerMap, name: str) -> Int[Tensor, "*shape"]:
    values = _array(ids, name)
    if values.dtype.kind not in "iub" or not 2 <= values.ndim <= 4:
        raise UserError(
            f"`{name}` should be integers [H, W], [T, H, W] or [B, T, H, W], got {values.dtype} {list(values.shape)}. "
            "Of soft masks give the argmax over slots."
        )
    if not values.size:
        raise UserError(f"`{name}` has no pixel: its shape is {list(values.shape)}. Give at least one clip.")
    return torch.from_numpy(values.astype(np.int64))


def _array(values: Any, name: str) -> np.ndarray:
    """As numpy's array.

    Raises:
        UserError: rows of several lengths.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy()
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise UserError(f"`{name}` is no array: {first_line(error)}. Give rows of one length.") from error


def _ignored(ignore: Ignored, true: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """The pixels that `ignore` names.

    Raises:
        UserError: it is neither ids nor a boolean map of that shape.
    """
    if ignore is None:
        return torch.zeros_like(true, dtype=torch.bool)
    found = _array(list(ignore) if isinstance(ignore, set | frozenset | range) else ignore, "ignore")
    if found.dtype == bool and found.shape == true.shape:
        return torch.from_numpy(found.copy())
    if found.ndim < 2 and (found.dtype.kind in "iu" or not found.size):
        return torch.isin(true, torch.from_numpy(found.astype(np.int64)))
    got = repr(ignore) if found.ndim == 0 else f"{found.dtype} {list(found.shape)}"
    raise UserError(
        f"`ignore` should be an id, several ids, or a boolean map {list(true.shape)}, got {got}. Of other maps give a "
        "comparison, such as `true == 255`."
    )


def _clips(pixels: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "B n"]:
    """A row of pixels for each clip."""
    return pixels.flatten(1) if pixels.ndim == 4 else pixels.reshape(1, -1)


def _table(
    true: Int[Tensor, "n"], predicted: Int[Tensor, "n"], ignored: Bool[Tensor, "n"], background: bool
) -> Int[Tensor, "G K"]:
    """Pixels of each object and slot, both numbered as they come."""
    true, predicted = true[~ignored], predicted[~ignored]
    number_objects, number_slots = Numbering((0,) if background else ()), Numbering()
    objects, slots = number_objects(true)[None, None], number_slots(predicted)[None, None]
    sizes = max(len(number_slots), 1), max(len(number_objects), 1 + int(background))
    return segmentation.contingency(objects, slots, *sizes)[0]

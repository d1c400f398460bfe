"""Average precision of predicted sets of objects (Locatello et al. 2020, section 4.2).

`torchslots.data.objects` defines the 19 values of an object.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from torchslots.data.objects import ATTRIBUTES, NUM_PROPERTIES, SCENE_SIZE

THRESHOLDS = (float("inf"), 1.0, 0.5, 0.25, 0.125)
"""Distances in units of CLEVR's scenes, below which a prediction can be right."""
DEFINITIONS = {
    f"ap_{threshold:g}": "Average precision of predicted objects, all images ranked together by confidence; right is a "
    "prediction whose nearest true object of the same size, material, shape and colour is not yet taken"
    + ("." if threshold == float("inf") else f" and is less than {threshold:g} units of the scene away.")
    for threshold in THRESHOLDS
}
"""What each figure of `AveragePrecision.compute` means; all lie in [0, 1]."""
LABELS = {
    f"ap_{threshold:g}": f"AP at {'any distance' if threshold == float('inf') else f'{threshold:g}'}"
    for threshold in THRESHOLDS
}
"""Names of the same figures in tables."""
_FARTHEST = 10_000.0
_CHUNK = 4096
_STATES = ("predicted", "predicted_sizes", "true", "true_sizes")


def ranking(confidence: NDArray[np.floating]) -> NDArray[np.int64]:
    """Predictions from the most to the least confident, in the reference's order.

    It reverses numpy's default sort, which is not stable: the order of equal confidences is arbitrary.
    """
    return np.argsort(confidence.reshape(-1))[::-1]


def nearest_objects(
    predicted: NDArray[np.floating], true: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Index of the nearest true object with all four attributes of each prediction [B, K], and the distance to it; -1
    and 10,000 if there is none."""
    found, distances = [], []
    for start in range(0, max(len(predicted), 1), _CHUNK):
        part, other = predicted[start : start + _CHUNK], true[start : start + _CHUNK]
        alike = (_codes(part)[:, :, None] == _codes(other)[:, None]) & (other[:, None, :, -1] != 0)
        apart = (other[:, None, :, :3] - part[:, :, None, :3]) * np.float32(SCENE_SIZE)
        distance = np.where(alike, np.sqrt(np.square(apart).sum(-1)), _FARTHEST)
        nearest = distance.argmin(-1)
        distances.append(np.take_along_axis(distance, nearest[..., None], -1)[..., 0])
        found.append(np.where(distances[-1] < _FARTHEST, nearest, -1))
    return np.concatenate(found), np.concatenate(distances)


def _codes(objects: NDArray[np.floating]) -> NDArray[np.int64]:
    """One number for the four attributes of each object."""
    code = np.zeros(objects.shape[:2], np.int64)
    for place in ATTRIBUTES.values():
        code = code * (place.stop - place.start) + objects[..., place].argmax(-1)
    return code


def average_precision(
    predicted: NDArray[np.floating],
    true: NDArray[np.floating],
    thresholds: tuple[float, ...] = THRESHOLDS,
    order: NDArray[np.integer] | None = None,
) -> NDArray[np.float64]:
    """Average precision at each threshold, all images' predictions ranked together.

    A prediction is right if the nearest true object with its attributes is closer than the threshold and was not taken
    by a prediction ranked before; otherwise it is wrong, even if another such object is close enough.

    Args:
        predicted: [B, K, 19]; rows of confidence minus infinity are padding.
        true: [B, n, 19]; rows of zeros are padding. Without any object the result is NaN.
        thresholds: distances; infinity: attributes alone.
        order: indices into the B * K predictions, the most confident first; None: `ranking` of them.
    """
    confidence = predicted[..., -1].reshape(-1)
    order = ranking(confidence) if order is None else np.asarray(order)
    order = order[confidence[order] != -np.inf]
    nearest, distance = nearest_objects(predicted, true)
    images = np.arange(len(true))[:, None] * true.shape[1]
    claims = np.where(nearest >= 0, images + nearest, -1).reshape(-1)[order]
    ranked = distance.reshape(-1)[order]
    num_objects = float(true[..., -1].sum(dtype=np.float64))
    scores = []
    for threshold in thresholds:
        valid = np.flatnonzero((claims >= 0) & (np.isinf(threshold) | (ranked < threshold)))
        right = np.zeros(len(order), bool)
        right[valid[np.unique(claims[valid], return_index=True)[1]]] = True
        scores.append(_area(right, num_objects))
    return np.array(scores)


def _area(right: NDArray[np.bool_], num_objects: float) -> float:
    """Area under the precision-recall curve, precision made monotone; in float32 steps as the reference."""
    if not num_objects:
        return float("nan")
    hits = np.cumsum(right)
    recall = (hits / num_objects).astype(np.float32).astype(np.float64)
    precision = (hits / np.arange(1, len(right) + 1)).astype(np.float32).astype(np.float64)
    recall, precision = np.concatenate([[0.0], recall, [1.0]]), np.concatenate([[0.0], precision, [0.0]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * precision[1:]).sum())


class AveragePrecision(Metric):
    """Average precision over all images, ranked together, as `ap_inf`, `ap_1`, `ap_0.5`, `ap_0.25`, `ap_0.125`.

    Images may have sets of different sizes. The sets are stored until `compute`, 76 bytes an object.
    """

    full_state_update = False

    def __init__(self, thresholds: tuple[float, ...] = THRESHOLDS, **options: Any) -> None:
        super().__init__(**options)
        self.thresholds = thresholds
        for name in _STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, predicted: Tensor, true: Tensor) -> None:
        """Add the sets [..., K, 19] and [..., n, 19] of some images."""
        for sets, rows, sizes in ((predicted, *_STATES[:2]), (true, *_STATES[2:])):
            sets = sets.detach().float().flatten(0, -3)
            getattr(self, rows).append(sets.flatten(0, 1))
            getattr(self, sizes).append(torch.full((len(sets),), sets.shape[1], device=sets.device))

    def compute(self) -> dict[str, float]:
        """The score at each threshold; NaN without any object."""
        states = [dim_zero_cat(getattr(self, name)).cpu().numpy() for name in _STATES if getattr(self, name)]
        if not states:
            return {_name(threshold): float("nan") for threshold in self.thresholds}
        predicted, true = _padded(states[0], states[1], -np.inf), _padded(states[2], states[3], 0.0)
        scores = average_precision(predicted, true, self.thresholds)
        return {_name(threshold): float(score) for threshold, score in zip(self.thresholds, scores)}


def _name(threshold: float) -> str:
    return f"ap_{threshold:g}"


def _padded(rows: NDArray[np.float32], sizes: NDArray[np.int64], confidence: float) -> NDArray[np.float32]:
    """Sets of different sizes as [B, n, 19], padded by rows of zeros with the given confidence."""
    padded = np.zeros((len(sizes), sizes.max(initial=0), NUM_PROPERTIES), np.float32)
    padded[..., -1] = confidence
    padded[np.arange(padded.shape[1]) < sizes[:, None]] = rows
    return padded

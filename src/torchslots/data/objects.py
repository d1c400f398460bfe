"""The 19 properties of a CLEVR object as a vector (Locatello et al. 2020, section 4.2).

Coordinates x, y, z, mapped from [-3, 3] to [0, 1]; one-hot size, material, shape and colour; 1. Padding is all zeros.
The order of the labels is that of TFDS `clevr`, which is neither alphabetical nor that of CLEVR's own files.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_PROPERTIES = 19
SCENE_SIZE = 6.0
"""Units of the scene to one unit of a coordinate."""
LABELS = {
    "size": ("small", "large"),
    "material": ("rubber", "metal"),
    "shape": ("cube", "sphere", "cylinder"),
    "color": ("gray", "blue", "brown", "yellow", "red", "green", "purple", "cyan"),
}
"""Names of each attribute's values, in the order of their integer labels."""


def _places() -> dict[str, slice]:
    start, places = 3, {}
    for name, labels in LABELS.items():
        places[name] = slice(start, start + len(labels))
        start += len(labels)
    return places


ATTRIBUTES = _places()
"""Place of each attribute's one-hot vector."""


class ObjectProperties(NamedTuple):
    """One object by names; `position` in the scene's units, `confidence` in [0, 1] that it exists."""

    position: tuple[float, float, float]
    size: str
    material: str
    shape: str
    color: str
    confidence: float

    def words(self) -> str:
        """Its four attributes as text."""
        return f"{self.size} {self.color} {self.material} {self.shape}"


def decode_object(numbers: NDArray[np.floating]) -> ObjectProperties:
    """The names for the vector of one object, true or predicted."""
    x, y, z = ((float(value) - 0.5) * SCENE_SIZE for value in numbers[:3])
    labels = {name: LABELS[name][int(numbers[place].argmax())] for name, place in ATTRIBUTES.items()}
    return ObjectProperties((x, y, z), **labels, confidence=float(numbers[-1]))


def encode_objects(
    positions: NDArray[np.floating], labels: Mapping[str, NDArray[np.integer]], num_rows: int
) -> NDArray[np.float32]:
    """Objects as rows of 19 numbers [num_rows, 19], padded with zeros; objects beyond are dropped.

    Args:
        positions: [n, 3] in the scene's units, -3 to 3.
        labels: integer labels [n] of `size`, `material`, `shape`, `color`.
    """
    count = min(len(positions), num_rows)
    rows = np.zeros((num_rows, NUM_PROPERTIES), np.float32)
    rows[:count, :3] = (positions[:count].astype(np.float32) + np.float32(3)) / np.float32(SCENE_SIZE)
    for name, place in ATTRIBUTES.items():
        rows[np.arange(count), place.start + labels[name][:count]] = 1
    rows[:count, -1] = 1
    return rows

"""Sample images of three Tetris pieces on black, 35 x 35 pixels, in batches.

The 19 shapes, 6 colours and names are those of the published set (Kabra et al., Multi-Object Datasets, 2019). Ours are
the cells of 4 pixels, the positions (any where pieces do not overlap), and the order of shapes.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

SIZE = 35
"""Height and width of an image in pixels."""
CELL = 4
"""Edge of a cell in pixels; a piece has four cells."""
NUM_PIECES = 3
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255))
_PIECES = {
    "I": ((1, 1, 1, 1),),
    "O": ((1, 1), (1, 1)),
    "T": ((1, 1, 1), (0, 1, 0)),
    "S": ((0, 1, 1), (1, 1, 0)),
    "Z": ((1, 1, 0), (0, 1, 1)),
    "J": ((1, 0, 0), (1, 1, 1)),
    "L": ((0, 0, 1), (1, 1, 1)),
}
_SPRITE = 4 * CELL


def _turned() -> list[np.ndarray]:
    """Each piece in its distinct quarter turns, as cells."""
    found: dict[bytes, np.ndarray] = {}
    for rows in _PIECES.values():
        for quarter in range(4):
            cells = np.ascontiguousarray(np.rot90(np.array(rows, bool), quarter))
            found.setdefault(bytes(cells.shape) + cells.tobytes(), cells)
    return list(found.values())


SHAPES = tuple(_turned())
"""The 19 turned pieces as cells; `shape` is an index into it."""
_EXTENTS = np.array([cells.shape for cells in SHAPES]) * CELL
"""Height and width of each shape in pixels."""
_SPRITES = np.stack(
    [
        np.pad(
            np.kron(cells, np.ones((CELL, CELL), bool)), [(0, _SPRITE - CELL * side) for side in cells.shape]
        )
        for cells in SHAPES
    ]
)


class Tetrominoes(NamedTuple):
    """A batch of images and their entities; entity 0 is the background."""

    image: UInt8[np.ndarray, "B 35 35 3"]
    mask: UInt8[np.ndarray, "B 4 35 35 1"]
    """0 or 255."""
    x: Float32[np.ndarray, "B 4"]
    """Column of a piece's left edge, in pixels."""
    y: Float32[np.ndarray, "B 4"]
    """Row of its upper edge."""
    shape: Float32[np.ndarray, "B 4"]
    color: Float32[np.ndarray, "B 4 3"]
    """Red, green, blue in [0, 1]."""
    visibility: Float32[np.ndarray, "B 4"]


def sample_tetrominoes(count: int, rng: np.random.Generator) -> Tetrominoes:
    """Sample images; where pieces overlap all three are sampled again."""
    shapes = rng.integers(len(SHAPES), size=(count, NUM_PIECES))
    corners = _corners(shapes, rng)
    masks = _masks(shapes, corners)
    while len(bad := np.flatnonzero((masks.sum(1) > 1).any((1, 2)))):
        shapes[bad] = rng.integers(len(SHAPES), size=(len(bad), NUM_PIECES))
        corners[bad] = _corners(shapes[bad], rng)
        masks[bad] = _masks(shapes[bad], corners[bad])
    colors = np.array(COLORS, np.uint8)[rng.integers(len(COLORS), size=(count, NUM_PIECES))]
    image = np.einsum("bphw,bpc->bhwc", masks.astype(np.uint8), colors)
    background = ~masks.any(1, keepdims=True)
    return Tetrominoes(
        image=image,
        mask=np.concatenate([background, masks], 1).astype(np.uint8)[..., None] * np.uint8(255),
        x=_with_background(corners[..., 1]),
        y=_with_background(corners[..., 0]),
        shape=_with_background(shapes),
        color=_with_background(colors / 255),
        visibility=np.ones((count, NUM_PIECES + 1), np.float32),
    )


def _corners(shapes: Int64[np.ndarray, "B P"], rng: np.random.Generator) -> Int64[np.ndarray, "B P 2"]:
    """Upper and left edges that keep the pieces within the image."""
    return rng.integers(SIZE - _EXTENTS[shapes] + 1)


def _masks(
    shapes: Int64[np.ndarray, "B P"], corners: Int64[np.ndarray, "B P 2"]
) -> Bool[np.ndarray, "B P 35 35"]:
    canvas = np.zeros((*shapes.shape, SIZE + _SPRITE, SIZE + _SPRITE), bool)
    offsets = np.arange(_SPRITE)
    rows = corners[..., 0, None, None] + offsets[:, None]
    columns = corners[..., 1, None, None] + offsets
    index, piece = np.ogrid[: shapes.shape[0], : shapes.shape[1]]
    canvas[index[..., None, None], piece[..., None, None], rows, columns] = _SPRITES[shapes]
    return canvas[..., :SIZE, :SIZE]


def _with_background(values: np.ndarray) -> np.ndarray:
    """Prepend a row of zeros for the background."""
    return np.concatenate([np.zeros_like(values[:, :1]), values], 1).astype(np.float32)

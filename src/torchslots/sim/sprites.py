"""Sample images of coloured squares, ellipses and hearts on grey, 64 x 64 pixels, in batches.

Like Multi-dSprites, coloured on grayscale (Kabra et al., Multi-Object Datasets, 2019), with its names; the ranges of
sizes and colours are ours. Later sprites occlude earlier ones.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

SIZE = 64
"""Height and width of an image in pixels."""
SPRITES = (2, 5)
"""Fewest and most in an image."""
NUM_ENTITIES = 1 + SPRITES[1]
SQUARE, ELLIPSE, HEART = 1.0, 2.0, 3.0
_REACH = 0.17
"""Half the extent of a sprite of scale 1, in image widths."""
_LEAST_SEEN = 16
"""Fewest visible pixels of a sprite, or the image is sampled again."""


class Sprites(NamedTuple):
    """A batch of images and their entities; entity 0 is the background, absent entities are zeros."""

    image: UInt8[np.ndarray, "B 64 64 3"]
    mask: UInt8[np.ndarray, "B 64 64 6 1"]
    """0 or 255; entities last, as published."""
    x: Float32[np.ndarray, "B 6"]
    """Centre in [0, 1], from the left."""
    y: Float32[np.ndarray, "B 6"]
    """Centre in [0, 1], from the top."""
    shape: Float32[np.ndarray, "B 6"]
    """1 square, 2 ellipse, 3 heart."""
    color: Float32[np.ndarray, "B 6 3"]
    """Red, green, blue in [0, 1]."""
    visibility: Float32[np.ndarray, "B 6"]
    orientation: Float32[np.ndarray, "B 6"]
    """Radians."""
    scale: Float32[np.ndarray, "B 6"]


def sample_sprites(count: int, rng: np.random.Generator) -> Sprites:
    """Sample images; those with a hidden sprite are sampled again."""
    values, ids = _sample(count, rng)
    while len(bad := np.flatnonzero(_hidden(values, ids))):
        fresh, ids[bad] = _sample(len(bad), rng)
        for name, some in fresh.items():
            values[name][bad] = some
    mask = ids[..., None] == np.arange(NUM_ENTITIES)
    image = np.take_along_axis(values["color"], ids.reshape(count, -1, 1), 1).reshape(count, SIZE, SIZE, 3)
    values["visibility"][:, 0] = 1
    return Sprites(
        image=(image * 255 + 0.5).astype(np.uint8),
        mask=mask[..., None].astype(np.uint8) * np.uint8(255),
        **{name: each.astype(np.float32) for name, each in values.items()},
    )


def _sample(
    count: int, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], Int64[np.ndarray, "B 64 64"]]:
    """Properties by name, and the entity of each pixel."""
    present = np.arange(NUM_ENTITIES) <= rng.integers(SPRITES[0], SPRITES[1] + 1, count)[:, None]
    present[:, 0] = False
    shape = (count, NUM_ENTITIES)
    values = {
        "x": rng.uniform(0.1, 0.9, shape),
        "y": rng.uniform(0.1, 0.9, shape),
        "shape": rng.integers(1, 4, shape).astype(np.float64),
        "visibility": np.ones(shape),
        "orientation": rng.uniform(0, 2 * np.pi, shape),
        "scale": rng.uniform(0.5, 1.0, shape),
    }
    values = {name: each * present for name, each in values.items()}
    values["color"] = rng.uniform(0.1, 1.0, (*shape, 3)) * present[..., None]
    values["color"][:, 0] = rng.uniform(0, 0.9, (count, 1))
    inside = _inside(values) & present[..., None, None]
    ids = np.where(inside, np.arange(NUM_ENTITIES)[:, None, None], 0).max(1)
    return values, ids


def _hidden(values: dict[str, np.ndarray], ids: Int64[np.ndarray, "B 64 64"]) -> Bool[np.ndarray, "B"]:
    seen = (ids[:, None] == np.arange(NUM_ENTITIES)[:, None, None]).sum((2, 3))
    return ((seen < _LEAST_SEEN) & (values["visibility"] > 0))[:, 1:].any(1)


def _inside(values: dict[str, np.ndarray]) -> Bool[np.ndarray, "B E 64 64"]:
    """Pixels whose centres are inside each sprite, occluded or not."""
    at = (np.arange(SIZE) + 0.5) / SIZE
    across = at - values["x"][..., None, None]
    down = at[:, None] - values["y"][..., None, None]
    reach = _REACH * np.maximum(values["scale"], 0.1)[..., None, None]
    cosine, sine = (wave(values["orientation"])[..., None, None] for wave in (np.cos, np.sin))
    u, v = (cosine * across + sine * down) / reach, (cosine * down - sine * across) / reach
    kind = values["shape"][..., None, None]
    square = np.maximum(np.abs(u), np.abs(v)) < 0.75
    ellipse = u * u + (v / 0.6) ** 2 < 1
    a, b = u * 1.25, 0.2 - v * 1.25
    heart = (a * a + b * b - 1) ** 3 < a * a * b**3
    return np.where(kind == SQUARE, square, np.where(kind == ELLIPSE, ellipse, heart))

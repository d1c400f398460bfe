"""Procedural surfaces: solids with patterns, floors and skies. Linear colours 0..1, components [3, n]."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

Points = Float32[np.ndarray, "3 n"]
Colors = Float32[np.ndarray, "3 n"]
Vector = tuple[float, float, float]

FLOOR_GRAY = 0.0953
"""MOVi-A's floor: CLEVR's gray in linear light."""


@dataclass(frozen=True)
class SolidTexture:
    """A pattern through a body: bands of three colours along a sum of plane waves."""

    name: str
    palette: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    sharpness: float

    @property
    def mean(self) -> Vector:
        """The colours' average."""
        r, g, b = (float(value) for value in self.palette.mean(0))
        return r, g, b

    def color(self, points: Points) -> Colors:
        """The colour at `points` inside [-1, 1]^3."""
        height = np.zeros_like(points[0])
        for wave, phase in zip(self.waves, self.phases):
            height += np.sin(points[0] * wave[0] + points[1] * wave[1] + points[2] * wave[2] + phase)
        height *= np.float32(self.sharpness / np.sqrt(len(self.waves)))
        first = np.clip(0.5 + height, 0, 1)
        second = np.clip(0.5 + height - np.float32(0.8 * self.sharpness), 0, 1)
        low, middle, high = self.palette[:, :, None]
        return low + (middle - low) * first + (high - middle) * second


@dataclass(frozen=True)
class Backdrop:
    """Floor and sky. `waves` are the floor's relief (none: plain)."""

    name: str
    floor: np.ndarray
    floor_relief: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    sky_low: np.ndarray
    sky_high: np.ndarray


def sample_solid_texture(rng: np.random.Generator) -> SolidTexture:
    """Stripes, checks or blotches in three colours."""
    raise NotImplementedError


def sample_backdrop(textured: bool, rng: np.random.Generator) -> Backdrop:
    """MOVi-A's plain gray floor, or a floor with relief under a sky."""
    gray = np.full(3, FLOOR_GRAY)
    return Backdrop("clevr", gray, gray, np.zeros((0, 2)), np.zeros(0), np.full(3, 0.02), np.full(3, 0.02))

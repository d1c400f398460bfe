"""Procedural textures of solids, floors and skies. Colours are linear, 0..1, as components [3, n]."""

import colorsys
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, UInt8

Points = Float32[np.ndarray, "3 n"]
Colors = Float32[np.ndarray, "3 n"]
Vector = tuple[float, float, float]
Rng = np.random.Generator

FLOOR_GRAY = 0.0953
"""MOVi-A's floor: CLEVR's gray in linear light."""
_TILE, _SKY_HEIGHT, _SKY_WIDTH, _SKYLINE = 256, 64, 256, 2048
_GROUNDS = {
    "sand": ((0.32, 0.26, 0.18), (0.46, 0.40, 0.31), 1.9),
    "grass": ((0.05, 0.08, 0.03), (0.20, 0.22, 0.11), 1.2),
    "asphalt": ((0.06, 0.065, 0.075), (0.17, 0.175, 0.185), 1.0),
    "earth": ((0.09, 0.055, 0.035), (0.24, 0.16, 0.11), 1.6),
    "concrete": ((0.17, 0.165, 0.155), (0.30, 0.29, 0.275), 2.1),
    "carpet": ((0.13, 0.05, 0.05), (0.26, 0.13, 0.12), 0.8),
    "snow": ((0.36, 0.39, 0.44), (0.52, 0.54, 0.57), 2.2),
}
"""Darkest and lightest colour, and the exponent of the noise spectrum (large: only coarse forms)."""


@dataclass(frozen=True)
class SolidTexture:
    """A solid texture: bands of three colours along a sum of plane waves."""

    name: str
    palette: Float32[np.ndarray, "3 3"]
    waves: Float32[np.ndarray, "waves 3"]
    phases: Float32[np.ndarray, "waves"]
    sharpness: float

    @property
    def mean(self) -> Vector:
        """The colours' average."""
        r, g, b = (float(value) for value in self.palette.mean(0))
        return r, g, b

    def color(self, points: Points) -> Colors:
        """Colours at points inside [-1, 1]^3."""
        height = np.zeros_like(points[0])
        for (x, y, z), phase in zip(self.waves, self.phases):
            height += np.sin(points[0] * x + points[1] * y + points[2] * z + phase)
        height *= np.float32(self.sharpness / math.sqrt(len(self.waves)))
        first = np.clip(0.5 + height, 0, 1)
        second = np.clip(0.5 + height - np.float32(0.8 * self.sharpness), 0, 1)
        low, middle, high = self.palette[:, :, None]
        return low + (middle - low) * first + (high - middle) * second


class Relief:
    """A square floor texture that repeats, stored at several sizes against aliasing (a mipmap)."""

    def __init__(self, image: Float32[np.ndarray, "3 N N"], metres: float) -> None:
        self.size = image.shape[1]
        self.texel = metres / self.size
        levels = [image]
        while levels[-1].shape[1] > 1:
            half = levels[-1].shape[1] // 2
            levels.append(levels[-1].reshape(3, half, 2, half, 2).mean((2, 4)))
        self.texels = np.concatenate([level.reshape(3, -1) for level in levels], 1)
        counts = [level.shape[1] ** 2 for level in levels]
        self.starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32)

    def color(self, points: Points, footprint: Float32[np.ndarray, "n"]) -> Colors:
        """Colours on the floor; `footprint` is the extent of a ray on it in metres."""
        level = np.log2(np.maximum(footprint / np.float32(self.texel), 1)).astype(np.int32)
        level = np.minimum(level, len(self.starts) - 1)
        across, down = (self._texel(values) >> level for values in points[:2])
        return self.texels[:, self.starts[level] + down * (self.size >> level) + across]

    def _texel(self, values: Float32[np.ndarray, "n"]) -> Int32[np.ndarray, "n"]:
        return np.floor(values / np.float32(self.texel)).astype(np.int32) & (self.size - 1)


@dataclass(frozen=True)
class Sky:
    """Clouds (rows from the horizon up) above a skyline; `line` is its elevation all around, in quarter turns."""

    clouds: Float32[np.ndarray, "3 P Q"]
    line: Float32[np.ndarray, "R"]
    land: Float32[np.ndarray, "3"]

    def color(self, ways: Points) -> Colors:
        """Light from a direction (any length)."""
        rise = np.arctan2(np.maximum(ways[2], 0), np.hypot(ways[0], ways[1])) * np.float32(2 / math.pi)
        turn = np.arctan2(ways[1], ways[0]) * np.float32(0.5 / math.pi) + np.float32(0.5)
        row = (np.sqrt(rise) * (_SKY_HEIGHT - 1)).astype(np.int32)
        column = (turn * (_SKY_WIDTH - 1)).astype(np.int32)
        line = self.line[(turn * (_SKYLINE - 1)).astype(np.int32)]
        shade = self.land[:, None] * (np.float32(0.7) + np.float32(0.6) * rise / line)
        return np.where(rise < line, shade, self.clouds[:, row, column])


@dataclass(frozen=True)
class Backdrop:
    """Floor and sky; without images the floor is plain and the sky a gradient from `horizon` to `zenith`."""

    name: str
    floor: Vector
    horizon: Vector = (0.0165, 0.0165, 0.0165)
    zenith: Vector = (0.004, 0.004, 0.004)
    relief: Relief | None = None
    sky: Sky | None = None

    def floor_color(self, points: Points, footprint: Float32[np.ndarray, "n"]) -> Colors:
        """Reflectance of the floor at world points."""
        if self.relief is None:
            return np.broadcast_to(np.array(self.floor, np.float32)[:, None], points.shape)
        return self.relief.color(points, footprint)

    def sky_color(self, ways: Points) -> Colors:
        """Light from a direction (any length)."""
        if self.sky is not None:
            return self.sky.color(ways)
        low, high = np.array([self.horizon, self.zenith], np.float32)[:, :, None]
        rise = np.clip(4 * ways[2] / np.sqrt(ways[0] ** 2 + ways[1] ** 2 + 1e-6), 0, 1)
        return low + (high - low) * rise


def sample_solid_texture(rng: Rng) -> SolidTexture:
    """Sample stripes, bands, checks or blotches in three colours."""
    kind = ("stripes", "checks", "blotches", "bands")[rng.integers(4)]
    if kind == "stripes":
        waves = rng.normal(size=(1, 3)) * 6
    elif kind == "bands":
        waves = np.eye(3)[[2]] * rng.uniform(3, 9)
    elif kind == "checks":
        waves = np.eye(3) * rng.uniform(4, 10)
    else:
        waves = rng.normal(size=(6, 3)) * rng.uniform(2.5, 5)
    phases = rng.uniform(0, 2 * math.pi, len(waves)).astype(np.float32)
    name = f"{kind}_{int(rng.integers(1 << 24)):06x}"
    return SolidTexture(name, _palette(rng), waves.astype(np.float32), phases, float(rng.uniform(1.5, 8)))


def _palette(rng: Rng) -> Float32[np.ndarray, "3 3"]:
    """Sample a colour, a second of similar hue, and a third of another hue."""
    hue = rng.uniform()
    colors = [
        colorsys.hsv_to_rgb(hue, rng.uniform(0.1, 0.95), rng.uniform(0.15, 0.9)),
        colorsys.hsv_to_rgb((hue + rng.uniform(-0.1, 0.1)) % 1, rng.uniform(0, 0.7), rng.uniform(0.1, 1.0)),
        colorsys.hsv_to_rgb((hue + rng.uniform(0.3, 0.7)) % 1, rng.uniform(0.3, 1), rng.uniform(0.3, 1.0)),
    ]
    return (np.array(colors) ** 2.2).astype(np.float32)


def plain_backdrop(rng: Rng) -> Backdrop:
    """MOVi-A's gray floor; `rng` is not used."""
    return Backdrop("clevr", (FLOOR_GRAY, FLOOR_GRAY, FLOOR_GRAY))


def sample_backdrop(rng: Rng) -> Backdrop:
    """Sample a textured ground and a sky with a skyline."""
    kind = list(_GROUNDS)[rng.integers(len(_GROUNDS))]
    low, high, exponent = _GROUNDS[kind]
    height = 0.5 + 0.25 * _noise(_TILE, _TILE, exponent, rng)
    tint = _channels(rng.uniform(0.8, 1.2, 3))
    image = (_channels(low) + (_channels(high) - _channels(low)) * height) * tint
    relief = Relief(np.clip(image, 0.01, 0.9).astype(np.float32), metres=float(rng.uniform(7, 14)))
    r, g, b = (float(value) for value in image.mean((1, 2)))
    name = f"{kind}_{int(rng.integers(1 << 24)):06x}"
    return Backdrop(name, (r, g, b), relief=relief, sky=_sample_sky(np.array(low), rng))


def _sample_sky(ground: np.ndarray, rng: Rng) -> Sky:
    """Sample a blue or overcast sky, with clouds and a skyline of hills or trees."""
    rise = np.linspace(0, 1, _SKY_HEIGHT)[None, :, None] ** 2
    zenith = _channels(rng.uniform([0.1, 0.2, 0.4], [0.3, 0.4, 0.7]))
    haze = _channels(rng.uniform(0.55, 0.95, 3))
    clouds = np.clip(0.4 * _noise(_SKY_HEIGHT, _SKY_WIDTH, 1.8, rng), 0, 0.7)
    sky = haze + (zenith - haze) * rise**0.5
    sky = sky + (0.95 - sky) * clouds
    level, relief = rng.uniform(0.01, 0.09), rng.uniform(0.002, 0.02)
    line = level + relief * _noise(1, _SKYLINE, rng.uniform(0.8, 1.6), rng)[0]
    land = ground * rng.uniform(0.5, 1.3, 3)
    return Sky(sky.astype(np.float32), np.maximum(line, 0.004).astype(np.float32), land.astype(np.float32))


def _noise(rows: int, columns: int, exponent: float, rng: Rng) -> np.ndarray:
    """Periodic noise of amplitude frequency^-exponent, mean 0 and standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None] * rows, np.fft.rfftfreq(columns)[None] * columns)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(rows, columns))) * np.maximum(frequency, 1.0) ** -exponent
    values = np.fft.irfft2(spectrum, s=(rows, columns))
    return (values - values.mean()) / values.std()


def _channels(color) -> np.ndarray:
    return np.asarray(color, np.float64)[:, None, None]


Light = Float32[np.ndarray, "*any"]


def film(light: Light) -> Light:
    """Display intensity of scene light by a film's curve, which lifts shadows and compresses highlights.

    Fitted to colours of published MOVi-A clips whose light and reflectance are known: 0.017 gives 0.14, 0.037 gives
    0.21, 0.4 gives 0.45. Reflections of lamps become white.
    """
    bent = np.maximum(light, 0) ** np.float32(0.62)
    return 2.19 * bent / (1 + 3.07 * bent) + 0.02 * light


def daylight(light: Light) -> Light:
    """Display intensity of outdoor light: nearly linear, compressed towards white."""
    return light * (1 + light / 9) / (1 + 0.6 * light)


def to_srgb(linear: Light) -> UInt8[np.ndarray, "*any"]:
    """8-bit sRGB of display intensities, clipped to [0, 1]."""
    linear = np.clip(linear, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - 0.055)
    return (curved * 255 + 0.5).astype(np.uint8)

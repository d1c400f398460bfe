"""Images of more than 8 bits, or of floats, as 8 bits: the range from black to white."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageSequence

from torchslots.io.errors import note

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Pillow's modes of more than 8 bits."""
_DEPTHS = (8, 10, 12, 14, 16)
_INT_TAGS, _ANY_TAGS = (280, 281), (340, 341)
"""TIFF's MinSampleValue and MaxSampleValue, of integers, and SMinSampleValue and SMaxSampleValue."""


class Levels(NamedTuple):
    """The values that become black and white, and where they are known from."""

    black: float
    white: float
    source: str


def deep_values(image: Image.Image) -> ndarray | None:
    """Values of an image of more than 8 bits [H, W] or [H, W, 3], as they are stored; None: it has 8 bits.

    Pillow keeps 8 bits of 16-bit colours, so those of a PNG are read by PyAV.
    """
    if image.mode in DEEP_MODES:
        return np.asarray(image)
    file = getattr(image, "filename", "")
    if image.format != "PNG" or not file or not _has_deep_colours(Path(file)):
        return None
    import av

    with av.open(file, format="png_pipe") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb48le")


def _has_deep_colours(png: Path) -> bool:
    """Whether the header of a PNG says 16 bits a channel, of RGB, RGBA or grey with alpha."""
    with png.open("rb") as file:
        head = file.read(26)
    return head[12:16] == b"IHDR" and head[24] == 16 and head[25] in (2, 4, 6)


def to_bytes(values: ndarray, levels: Levels) -> UInt8[ndarray, "..."]:
    """Values as 8 bits; those outside the levels are clipped, and what is not a number is black."""
    bits = np.log2(levels.white + 1)
    if levels.black == 0 and bits in _DEPTHS and values.dtype.kind in "ui":
        return (values.astype(np.int64) >> (int(bits) - 8)).clip(0, 255).astype(np.uint8)
    span = max(levels.white - levels.black, np.finfo(np.float64).tiny)
    part = np.nan_to_num((values.astype(np.float64) - levels.black) / span, nan=0.0, posinf=1.0, neginf=0.0)
    return (255 * part.clip(0, 1)).round().astype(np.uint8)


def levels_of(files: Sequence[Path]) -> Levels:
    """The levels of the images of one video: by the first file's tags, else by the range of all of them.

    Integers without a range of their own are taken for the least of 8, 10, 12, 14 and 16 bits that holds them; floats
    for [0, 1] or [0, 255] where they lie within, others for their range. What is not stated in a file is noted.
    """
    return _levels(tuple((file, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=256)
def _levels(files: tuple[tuple[Path, int], ...]) -> Levels:
    with Image.open(files[0][0]) as image:
        stated = _stated(image)
    if stated is not None:
        return stated
    low, high, whole = np.inf, -np.inf, True
    for file, _ in files:
        with Image.open(file) as image:
            for page in ImageSequence.Iterator(image):
                values = deep_values(page)
                if values is None:
                    continue
                whole &= values.dtype.kind in "ui"
                values = values[np.isfinite(values)]
                if values.size:
                    low, high = min(low, float(values.min())), max(high, float(values.max()))
    levels = _assumed(low, high, whole)
    name = files[0][0] if len(files) == 1 else f"{files[0][0].parent} ({len(files)} images)"
    if levels.white != 65535:
        spread = f"its values {low:g} to {high:g} are {levels.source}"
        note(f"{name} does not say which value is white; {spread}.", everywhere=True)
    return levels


def _assumed(low: float, high: float, whole: bool) -> Levels:
    if whole and low >= 0 and high < 1 << 16:
        bits = next(bits for bits in _DEPTHS if high < 1 << bits)
        return Levels(0, (1 << bits) - 1, f"read as {bits} bits")
    for white in () if whole else (1, 255):
        if low >= 0 and high <= white:
            return Levels(0, white, f"read as 0 to {white}")
    return Levels(low, high, "spread over black to white")


def _stated(image: Image.Image) -> Levels | None:
    """The range that a TIFF's tags state; None: none."""
    tags = getattr(image, "tag_v2", {})
    for low, high in (_ANY_TAGS, _INT_TAGS):
        if high in tags:
            return Levels(_number(tags.get(low, 0)), _number(tags[high]), "stated by the file")
    about = str(tags.get(270, ""))
    low, high = (re.search(rf"^{name}=([-+.\deE]+)", about, re.M) for name in ("min", "max"))
    if about.startswith("ImageJ") and low and high and float(low[1]) < float(high[1]):
        return Levels(float(low[1]), float(high[1]), "stated by the file")
    return None


def _number(value: object) -> float:
    return float(value[0] if isinstance(value, tuple) else value)  # type: ignore[arg-type]

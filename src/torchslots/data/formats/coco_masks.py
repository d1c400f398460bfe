"""Masks of COCO's annotation files: polygons, run lengths, and run lengths as text, decoded by `pycocotools`.

What `pycocotools` would read beyond the mask's end, or fill with what happens to lie in memory, is refused before.
"""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Bool
from pycocotools import mask

from torchslots.data.formats.example import MalformedExample
from torchslots.io.errors import first_line

_COCO: Any = mask
"""Its types know fewer kinds of masks than it reads."""
_MOST_SIDES = 10
"""Sides of the image that a polygon may lie outside of it."""


def decode_mask(segmentation: Any, height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """The pixels of one annotation.

    Args:
        segmentation: List of polygons [x1, y1, x2, y2, ...] in pixels, whose union counts; or `{"size": [H, W],
            "counts": ...}` with run lengths down the columns, as a list or as text.

    Raises:
        MalformedExample: it is none of these, or not of this size.
    """
    if isinstance(segmentation, list):
        runs = _COCO.merge(_COCO.frPyObjects(_polygons(segmentation, height, width), height, width))
    elif isinstance(segmentation, dict):
        runs = _runs(segmentation, height, width)
    else:
        raise MalformedExample(f"a mask that is {_short(segmentation)}, neither polygons nor run lengths")
    with warnings.catch_warnings():
        # numpy 2 warns of a method that pycocotools (2.0.11) does not have in its new form.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        try:
            return _COCO.decode(runs).astype(bool)
        except ValueError as error:
            raise MalformedExample(f"run lengths that cannot be decoded ({first_line(error)})") from error


def _polygons(polygons: list[Any], height: int, width: int) -> list[list[float]]:
    far = _MOST_SIDES * max(height, width)
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise MalformedExample(f"a polygon {_short(polygon)}, not pairs x, y of three points or more")
        if not all(isinstance(value, int | float) and abs(value) <= far for value in polygon):
            raise MalformedExample(
                f"a polygon {_short(polygon)} that is not within an image of {height} x {width}"
            )
    if not polygons:
        raise MalformedExample("a mask without polygons")
    return polygons


def _runs(segmentation: dict[str, Any], height: int, width: int) -> Any:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list | tuple) or tuple(size) != (height, width):
        raise MalformedExample(f"a mask of size {_short(size)}, but its image is {[height, width]}")
    if isinstance(counts, str):
        total = _text_total(counts)
    elif isinstance(counts, list) and all(isinstance(count, int) and count >= 0 for count in counts):
        total = sum(counts)
    else:
        raise MalformedExample(f"run lengths {_short(counts)}, neither whole numbers nor text")
    if total != height * width:
        raise MalformedExample(f"run lengths of {total} pixels, but its image has {height * width}")
    return _COCO.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation


def _text_total(text: str) -> int:
    """Pixels of run lengths as text: groups of 5 bits, from the fourth count on as differences to that two before.

    Raises:
        MalformedExample: it ends within a count, holds other letters, or a count below zero.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        group = ord(letter) - 48
        if not 0 <= group < 64 or shift > 30:
            raise MalformedExample(f"run lengths with {letter!r} where it cannot stand")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= (1 << shift) * bool(group & 16)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift or min(counts, default=0) < 0:
        raise MalformedExample("run lengths that are cut off or below zero")
    return sum(counts)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:36]} ..."

"""Marks on pictures of slots: each region's number, and what tells a predicted frame from one that was seen."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from torchslots.draw import Ids, Pixels

_PREDICTED = (255, 140, 0)


def number_slots(picture: Pixels, ids: Ids) -> Pixels:
    """Write each slot's number into the middle of its region.

    Args:
        picture: [H, W, 3]
        ids: slot of each pixel [H, W].
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(9, picture.shape[0] // 16))
    for slot in np.unique(ids).tolist():
        row, column = _middle(np.asarray(ids) == slot)
        pen.text(
            (column, row),
            str(slot),
            (255, 255, 255),
            font,
            anchor="mm",
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )
    return np.asarray(image)


def _middle(region: NDArray[np.bool_]) -> tuple[int, int]:
    """Of the pixels farthest from the region's edge, and so inside it whatever its shape, the most central one."""
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(region, 1)))[1:-1, 1:-1]
    deepest = np.argwhere(depth == depth.max())
    row, column = deepest[np.square(deepest - deepest.mean(0)).sum(1).argmin()].tolist()
    return row, column


def mark_predicted(frame: Pixels) -> Pixels:
    """Frame in orange, with the word `predicted`: what a model expects and was not shown [H, W, 3]."""
    image = Image.fromarray(np.ascontiguousarray(frame))
    pen = ImageDraw.Draw(image)
    height, width = frame.shape[:2]
    pen.rectangle((0, 0, width - 1, height - 1), outline=_PREDICTED, width=max(1, height // 64))
    font = ImageFont.load_default(size=max(8, height // 16))
    place = width - 3 - height // 64, 1 + height // 64
    pen.text(place, "predicted", _PREDICTED, font, anchor="ra", stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(image)

"""Where the objects are in the first frame: boxes from JSON, masks from pictures, checked."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int
from numpy import ndarray
from PIL import Image
from scipy import ndimage

from torchslots.errors import UserError

_FORMATS, _YES_NO = ("yxyx", "xyxy"), (None, True, False)


class Hint(NamedTuple):
    """Where the objects are in the first frame, in the coordinates of the whole frame.

    `boxes` are (ymin, xmin, ymax, xmax), in [0, 1] or, with `in_pixels`, in pixels; a row of zeros is an
    absent object. `ids` are 0 for background and 1 to n for objects. `where` names the source in messages.
    """

    boxes: Float32[ndarray, "n 4"] | None = None
    in_pixels: bool = False
    ids: Int[ndarray, "H W"] | None = None
    where: str = "boxes"


def read_boxes(file: Path) -> Hint:
    """First-frame boxes from JSON.

    Either a list of (ymin, xmin, ymax, xmax) in [0, 1], or `{"boxes": [...], "format": "yxyx" or "xyxy",
    "normalized": true or false}`, where false means pixels of the original frame.

    Raises:
        UserError: not such a file, or a box that is empty or outside the frame.
    """
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read as JSON: {error}. Write [[ymin, xmin, ymax, xmax], ...]."
        ) from error
    found = {"boxes": found} if isinstance(found, list) else found
    known = isinstance(found, dict) and "boxes" in found
    if not known or found.get("format", "yxyx") not in _FORMATS or found.get("normalized") not in _YES_NO:
        raise UserError(
            f'{file} should be [[ymin, xmin, ymax, xmax], ...] or {{"boxes": ..., "format": "yxyx" or '
            '"xyxy", "normalized": true or false}.'
        )
    flip, in_pixels = found.get("format") == "xyxy", found.get("normalized") is False
    return box_hint(found["boxes"], in_pixels=in_pixels, where=str(file), flip=flip)


def box_hint(boxes: Any, *, in_pixels: bool = False, where: str = "boxes", flip: bool = False) -> Hint:
    """A checked hint from rows of four numbers.

    Args:
        flip: the rows are (xmin, ymin, xmax, ymax).

    Raises:
        UserError: not rows of four numbers, or a box that is empty or, in [0, 1], outside the frame.
    """
    try:
        rows = np.asarray(boxes, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: boxes should be rows of four numbers, got {boxes!r:.80}.") from error
    if rows.ndim != 2 or rows.shape[1] != 4 or not len(rows) or not np.isfinite(rows).all():
        raise UserError(
            f"{where}: boxes should be one or more rows of four finite numbers, got {boxes!r:.80}."
        )
    rows = rows[:, [1, 0, 3, 2]] if flip else rows
    limit = np.inf if in_pixels else 1.001
    for i, (ymin, xmin, ymax, xmax) in enumerate(rows.tolist()):
        absent = ymin == xmin == ymax == xmax == 0
        if not absent and not (-0.001 <= ymin < ymax <= limit and -0.001 <= xmin < xmax <= limit):
            raise UserError(
                f"{where}: box {i} is ymin {ymin:g}, xmin {xmin:g}, ymax {ymax:g}, xmax {xmax:g}. It needs "
                'min < max in [0, 1]; files may say "normalized": false (pixels), "format": "xyxy" (x first).'
            )
    return Hint(boxes=rows, in_pixels=in_pixels, where=where)


def read_mask(file: Path) -> Hint:
    """First-frame mask from an indexed or grey picture: 0 is background, every other value an object.

    Raises:
        UserError: no picture, a colour picture, or a mask without objects.
    """
    try:
        with Image.open(file) as image:
            mode, values = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read as a picture: {error}. A mask is an indexed or grey PNG."
        ) from error
    if values.ndim != 2:
        raise UserError(
            f"{file} is a colour picture ({mode}). A mask is an indexed or grey PNG: 0 is background."
        )
    return mask_hint(values, where=str(file))


def mask_hint(values: ndarray, *, where: str = "masks") -> Hint:
    """A hint from integer ids [H, W]; objects are numbered 1 to n in the order of their ids.

    Raises:
        UserError: not such an array, or only background.
    """
    if values.ndim != 2:
        raise UserError(f"{where}: a mask should be integer ids [H, W], got {list(values.shape)}.")
    found = np.unique(values)
    objects = found[found != 0]
    if not len(objects):
        raise UserError(f"{where} holds only background (0). Give each object a number of its own.")
    ids = np.where(values == 0, 0, np.searchsorted(objects, values) + 1).astype(np.int32)
    return Hint(boxes=_boxes_of(ids, len(objects)), ids=ids, where=where)


def _boxes_of(ids: Int[ndarray, "H W"], count: int) -> Float32[ndarray, "n 4"]:
    boxes = [box_of(place, ids.shape) for place in ndimage.find_objects(ids, max_label=count)]
    return np.array(boxes, dtype=np.float32)


def box_of(place: tuple[slice, slice], size: tuple[int, ...]) -> tuple[float, float, float, float]:
    """A region's (ymin, xmin, ymax, xmax) in [0, 1] of an image of `size`."""
    rows, columns = place
    height, width = size
    return rows.start / height, columns.start / width, rows.stop / height, columns.stop / width

"""The crop of a frame for a model, the way back from its masks to the frame, and hints for the first frame."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from torchslots.data.transforms import mask_boxes
from torchslots.io.errors import UserError

_FORMATS, _YES_NO = ("yxyx", "xyxy"), (None, True, False)


class FirstFrameHint(NamedTuple):
    """Conditioning: boxes or masks of the objects in the first frame, in coordinates of the whole frame."""

    boxes: Float32[ndarray, "n 4"] | None = None
    """(ymin, xmin, ymax, xmax); a row of zeros is an absent object. None: no hint."""
    in_pixels: bool = False
    """Whether boxes are in pixels, in place of [0, 1]."""
    ids: Int[ndarray, "H W"] | None = None
    """0 for background, 1 to n for objects; None: only boxes."""
    where: str = "boxes"
    """Name of the source, for errors."""


def read_boxes(file: Path) -> FirstFrameHint:
    """First-frame boxes from JSON.

    Either a list of (ymin, xmin, ymax, xmax) in [0, 1], or `{"boxes": [...], "format": "yxyx" or "xyxy",
    "normalized": true or false}`, where false means pixels of the original frame.

    Raises:
        UserError: another kind of file, or a box that is empty or outside the frame.
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


def box_hint(
    boxes: Any, *, in_pixels: bool = False, where: str = "boxes", flip: bool = False
) -> FirstFrameHint:
    """A checked hint from rows of four numbers.

    Args:
        flip: rows are (xmin, ymin, xmax, ymax).

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
    return FirstFrameHint(boxes=rows, in_pixels=in_pixels, where=where)


def read_mask(file: Path) -> FirstFrameHint:
    """First-frame mask from an indexed or grey image: 0 is background, every other value is an object.

    Raises:
        UserError: not an image, a colour image, or a mask without objects.
    """
    try:
        with Image.open(file) as image:
            mode, values = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read as an image: {error}. Give an indexed or grey PNG."
        ) from error
    if values.ndim != 2:
        raise UserError(
            f"{file} is a colour image ({mode}). Give an indexed or grey PNG with 0 for background."
        )
    return mask_hint(values, where=str(file))


def mask_hint(values: ndarray, *, where: str = "masks") -> FirstFrameHint:
    """A hint from integer ids [H, W]; objects are numbered 1 to n in the order of their ids.

    Raises:
        UserError: an array of another shape, or only background.
    """
    if values.ndim != 2:
        raise UserError(f"{where}: a mask should be integer ids [H, W], got {list(values.shape)}.")
    found = np.unique(values)
    objects = found[found != 0]
    if not len(objects):
        raise UserError(f"{where} has only background (0). Give each object its own id.")
    ids = np.where(values == 0, 0, np.searchsorted(objects, values) + 1).astype(np.int32)
    boxes = mask_boxes(torch.from_numpy(ids)[None], len(objects))[0].numpy()
    return FirstFrameHint(boxes=boxes, ids=ids, where=where)


@dataclass(frozen=True)
class View:
    """The crop of a frame for a model, and the way back.

    It is the largest rectangle of the model's shape in the middle of the frame, resized to the model's resolution.

    Args:
        height, width: of the frame, in pixels.
        resolution: height and width of the model's frames.
    """

    height: int
    width: int
    resolution: tuple[int, int]

    @property
    def crop(self) -> tuple[int, int, int, int]:
        """Top, left, bottom and right of the rectangle, in pixels of the frame."""
        high, wide = self.resolution
        scale = min(self.height / high, self.width / wide)
        rows, columns = max(1, round(high * scale)), max(1, round(wide * scale))
        top, left = (self.height - rows) // 2, (self.width - columns) // 2
        return top, left, top + rows, left + columns

    def canvas(self, max_side: int) -> tuple[int, int]:
        """Height and width of the frame, shrunk so that neither is over `max_side` pixels."""
        scale = min(1.0, max_side / max(self.height, self.width))
        return max(1, round(self.height * scale)), max(1, round(self.width * scale))

    def describe(self) -> dict[str, Any]:
        """The frame's size in pixels, and the crop, in [0, 1]."""
        top, left, bottom, right = self.crop
        seen = (top / self.height, left / self.width, bottom / self.height, right / self.width)
        return {"frame_size": [self.height, self.width], "seen": [round(edge, 5) for edge in seen]}

    def shrink(self, frames: UInt8[ndarray, "T H W 3"]) -> Float[Tensor, "1 T 3 h w"]:
        """Frames cropped and resized for the model, in [0, 1]."""
        top, left, bottom, right = self.crop
        seen = torch.from_numpy(np.ascontiguousarray(frames[:, top:bottom, left:right])).permute(0, 3, 1, 2)
        antialias = bottom - top > 2 * self.resolution[0]
        small = F.interpolate(seen.float() * (1 / 255), self.resolution, mode="bilinear", antialias=antialias)
        return small[None].clamp(0, 1)

    def enlarge(self, masks: Float[Tensor, "T K h w"], size: tuple[int, int]) -> Int[ndarray, "T H W"]:
        """Ids of the slots of largest mask on a canvas of `size`, the lowest among equals; 0 outside the crop."""
        top, left, bottom, right = (
            round(edge * new / old)
            for edge, new, old in zip(self.crop, size * 2, (self.height, self.width) * 2)
        )
        canvas = np.zeros((len(masks), *size), dtype=np.int32)
        canvas[:, top:bottom, left:right] = _winners(masks, (bottom - top, right - left)).numpy()
        return canvas

    def paste(self, images: UInt8[ndarray, "T h w 3"]) -> UInt8[ndarray, "T H W 3"]:
        """Images at the model's resolution, pasted into frames that are black outside the crop."""
        top, left, bottom, right = self.crop
        frames = np.zeros((len(images), self.height, self.width, 3), np.uint8)
        for frame, image in zip(frames, images):
            frame[top:bottom, left:right] = resized(image, (bottom - top, right - left))
        return frames

    def conditioning(self, hint: FirstFrameHint) -> dict[str, Tensor]:
        """The hint in the crop: `boxes` [1, 1, n, 4]; of a mask also `segmentations` [1, 1, h, w].

        Raises:
            UserError: an object outside the crop, or a mask of another size than the frame.
        """
        batch = {} if hint.boxes is None else {"boxes": torch.from_numpy(self._boxes(hint))[None, None]}
        if hint.ids is not None:
            top, left, bottom, right = self.crop
            ids = torch.from_numpy(hint.ids[top:bottom, left:right].astype(np.float32))[None, None]
            batch["segmentations"] = F.interpolate(ids, self.resolution, mode="nearest-exact").int()
        return batch

    def _boxes(self, hint: FirstFrameHint) -> Float[ndarray, "n 4"]:
        if hint.ids is not None and hint.ids.shape != (self.height, self.width):
            raise UserError(
                f"{hint.where} is {hint.ids.shape[1]}x{hint.ids.shape[0]} pixels, the first frame "
                f"{self.width}x{self.height}. Give a mask of the frame's size."
            )
        top, left, bottom, right = self.crop
        boxes = np.array(hint.boxes, dtype=np.float32)
        boxes = boxes if hint.in_pixels else boxes * _pair(self.height, self.width)
        absent = (boxes == 0).all(1)
        seen = (boxes - _pair(top, left)) / _pair(bottom - top, right - left)
        seen = np.where(absent[:, None], 0, seen.clip(0, 1)).astype(np.float32)
        lost = np.flatnonzero(~absent & ((seen[:, 2] <= seen[:, 0]) | (seen[:, 3] <= seen[:, 1])))
        if len(lost):
            raise UserError(
                f"{hint.where}: object {lost[0]} is outside the part that the model sees, rows {top} to {bottom} "
                f"and columns {left} to {right} of a {self.width}x{self.height} frame. Leave it out, or crop "
                "the video."
            )
        return seen


def _winners(masks: Float[Tensor, "T K h w"], size: tuple[int, int]) -> Int[Tensor, "T H W"]:
    """The slot with the largest enlarged mask, by more than rounding, by which alone copies of a slot differ."""
    best = torch.zeros(len(masks), 1, *size)
    winner = torch.zeros(len(masks), 1, *size, dtype=torch.int32)
    for slot in range(masks.shape[1]):
        large = F.interpolate(masks[:, slot : slot + 1], size, mode="bilinear")
        winner = torch.where(large > best * (1 + 1e-5), slot, winner)
        best = torch.maximum(best, large)
    return winner[:, 0]


def _pair(rows: int, columns: int) -> Float[ndarray, "4"]:
    return np.array([rows, columns, rows, columns], dtype=np.float32)


def resized(frame: UInt8[ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[ndarray, "h w 3"]:
    """The frame at another size, height first."""
    if frame.shape[:2] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.LANCZOS))

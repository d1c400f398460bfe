"""What a model sees of a frame, the way back from its masks to the frame, and hints for the first frame."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from torchslots.data.fitting import RESIZERS
from torchslots.data.transforms import mask_boxes
from torchslots.io.errors import UserError
from torchslots.io.json_files import read_json

ViewKind = Literal["crop", "squeeze", "whole"]
_LONGEST = 8
"""Times that a whole frame may be longer than its short side."""
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
    found = read_json(file, "Write [[ymin, xmin, ymax, xmax], ...].")
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


def mask_hint(values: ndarray, *, where: str = "masks") -> FirstFrameHint:
    """A hint from integer ids [H, W]; objects are numbered 1 to n in the order of their ids.

    Raises:
        UserError: an array of another shape or type, or only background.
    """
    if values.ndim != 2 or values.dtype.kind not in "iub":
        raise UserError(
            f"{where}: a mask should be integer ids [H, W], got {values.dtype} {list(values.shape)}. Of soft masks "
            "give the argmax over objects."
        )
    found = np.unique(values)
    objects = found[found != 0]
    if not len(objects):
        raise UserError(f"{where} has only background (0). Give each object its own id.")
    ids = np.where(values == 0, 0, np.searchsorted(objects, values) + 1).astype(np.int32)
    boxes = mask_boxes(torch.from_numpy(ids)[None], len(objects))[0].numpy()
    return FirstFrameHint(boxes=boxes, ids=ids, where=where)


class Patches(NamedTuple):
    """How a model takes frames that a vision transformer cuts into patches: frames of any size that they divide."""

    size: int
    """Side of a patch in pixels."""
    antialias: bool = False
    """Whether frames were resized with antialiasing in training; otherwise they are only where they shrink much."""


@dataclass(frozen=True)
class View:
    """What a model sees of a frame, and the way back.

    Args:
        height, width: of the frame, in pixels.
        resolution: height and width of the model's frames.
        kind: `crop` is the largest rectangle of the resolution's shape in the middle of the frame, resized to the
            resolution; `squeeze` and `whole` are all of the frame, which `squeeze` changes in shape.
        patches: of models on a vision transformer, whose frames are resized by bicubic interpolation and whose masks
            are those of patches; None: of others.
    """

    height: int
    width: int
    resolution: tuple[int, int]
    kind: ViewKind = "crop"
    patches: Patches | None = None

    @property
    def crop(self) -> tuple[int, int, int, int]:
        """Top, left, bottom and right of what is seen, in pixels of the frame."""
        if self.kind != "crop":
            return 0, 0, self.height, self.width
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
        """The frame's size in pixels, the kind of view, and what is seen, in [0, 1]."""
        top, left, bottom, right = self.crop
        seen = (top / self.height, left / self.width, bottom / self.height, right / self.width)
        return {
            "frame_size": [self.height, self.width],
            "view": self.kind,
            "seen": [round(edge, 5) for edge in seen],
        }

    def shrink(self, frames: UInt8[ndarray, "T H W 3"]) -> Float[Tensor, "1 T 3 h w"]:
        """Frames as the model sees them, in [0, 1]."""
        small = torch.cat([self._shrink(frame) for frame in frames])
        return small.contiguous(memory_format=torch.channels_last)[None]

    def _shrink(self, frame: UInt8[ndarray, "H W 3"]) -> Float[Tensor, "1 3 h w"]:
        """One frame as the model sees it: no floats of a whole slice at full size."""
        top, left, bottom, right = self.crop
        seen = torch.from_numpy(np.ascontiguousarray(frame[None, top:bottom, left:right])).permute(0, 3, 1, 2)
        shrunk = self._shrunk_twice()
        if self.patches is not None:
            antialias = shrunk or self.patches.antialias
            resize = RESIZERS["bicubic_antialias" if antialias else "bicubic"]
            small = resize(seen, *self.resolution)
            return small if small.is_floating_point() else small.float() * (1 / 255)
        small = F.interpolate(seen.float().mul_(1 / 255), self.resolution, mode="bilinear", antialias=shrunk)
        return small.clamp(0, 1)

    def _shrunk_twice(self) -> bool:
        """Whether a side of what is seen shrinks to less than half; those of a crop shrink alike."""
        top, left, bottom, right = self.crop
        sides = [(bottom - top) / self.resolution[0]]
        if self.kind != "crop":
            sides.append((right - left) / self.resolution[1])
        return max(sides) > 2

    def enlarge(self, masks: Float[Tensor, "T K h w"], size: tuple[int, int]) -> Int[ndarray, "T H W"]:
        """Ids of the slots of largest mask on a canvas of `size`, the lowest among equals; 0 outside the crop."""
        top, left, bottom, right = (
            round(edge * new / old)
            for edge, new, old in zip(self.crop, size * 2, (self.height, self.width) * 2)
        )
        canvas = np.zeros((len(masks), *size), dtype=np.int32)
        margin = _ROUNDING if self.patches is None else 0.0
        canvas[:, top:bottom, left:right] = winners_at(masks, (bottom - top, right - left), margin).numpy()
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


def view_of(
    frame: tuple[int, int],
    resolution: tuple[int, int],
    kind: ViewKind | None = None,
    patches: Patches | None = None,
) -> View:
    """The view of a frame of that height and width.

    Args:
        resolution: height and width of the model's frames; of `whole` ones the short side counts, and the long side is
            cut to whole patches.
        kind: None: `squeeze` for models on patches, which see all of the frame on the grid that they were trained on;
            `crop` for others.
        patches: None: the model takes frames of its resolution alone.

    Raises:
        UserError: a whole frame for a model of one resolution, or one that is far too long.
    """
    kind = kind or ("crop" if patches is None else "squeeze")
    if kind == "whole":
        resolution = _whole(frame, resolution, patches)
    return View(*frame, resolution, kind, patches)


def _whole(frame: tuple[int, int], resolution: tuple[int, int], patches: Patches | None) -> tuple[int, int]:
    """The resolution of a frame at its own shape: as high as wide as the model's, or longer by whole patches."""
    if patches is None:
        raise UserError(
            f"This model is built for frames of {resolution[0]} x {resolution[1]} and cannot see others: a whole frame "
            "at its own shape needs a model on the patches of a vision transformer. Use --view squeeze (all of the "
            "frame, changed in shape) or crop."
        )
    short, ratio = min(resolution), max(frame) / min(frame)
    if ratio > _LONGEST:
        raise UserError(
            f"A frame of {frame[1]}x{frame[0]} pixels is {ratio:.0f} times as long as its short side, and whole frames "
            f"may be {_LONGEST} times. Use --view crop or squeeze, or cut the frames."
        )
    long = int(short * max(frame) / min(frame)) // patches.size * patches.size
    long = max(long, short)
    return (short, long) if frame[0] <= frame[1] else (long, short)


_ROUNDING = 1e-5
"""Part by which a mask has to be larger: copies of a slot differ by rounding alone."""
_MANY = 0.4
"""Part of the cells between small pixels from which on all is compared rather than what is between two slots."""
_ROWS = 24
"""Rows that are enlarged at once: their masks stay in the processor's cache."""


def winners_at(
    masks: Float[Tensor, "T K h w"], size: tuple[int, int], margin: float = 0.0
) -> Int[Tensor, "T H W"]:
    """The slot of the largest mask after bilinear enlarging, the lowest among equals.

    Bilinear interpolation is one of columns, then one of rows: the masks are widened, and get their height where they
    are compared, so that there is no mask of full size. The values are those of one interpolation. Where one slot is
    the largest at all four corners of a cell of the small masks it is so between them, and nothing is enlarged.

    Args:
        margin: part by which the mask of a later slot has to be larger than that of an earlier one.
    """
    winner = torch.zeros(len(masks), *size, dtype=torch.int32)
    rows, columns = _places(masks.shape[-2], size[0]), _places(masks.shape[-1], size[1])
    for frame, found in zip(masks, winner):
        wide = F.interpolate(frame[None], (frame.shape[-2], size[1]), mode="bilinear")[0]
        sole = _sole_winners(frame, max(margin, _ROUNDING))
        if int((sole < 0).sum()) > _MANY * sole.numel():
            _compare_all(wide, rows, found, margin)
        else:
            found.copy_(sole[rows.first][:, columns.first])
            y, x = (found < 0).nonzero(as_tuple=True)
            found[y, x] = _compare(_between(wide, rows, y, x), margin)
    return winner


class _Places(NamedTuple):
    """The two small pixels that bilinear interpolation mixes at each large one, and the weight of the second."""

    first: Int[Tensor, "large"]
    second: Int[Tensor, "large"]
    weight: Float[Tensor, "large"]


def _places(small: int, large: int) -> _Places:
    scale = float(np.float32(small) / np.float32(large))  # the roundings are those of `F.interpolate`
    place = ((torch.arange(large).double() + 0.5) * scale - 0.5).clamp(min=0).float()
    first = place.floor().long().clamp(max=small - 1)
    return _Places(first, (first + 1).clamp(max=small - 1), place - first)


def _sole_winners(masks: Float[Tensor, "K h w"], margin: float) -> Int[Tensor, "h w"]:
    """The slot that is the largest at a pixel and its right, lower and lower right neighbours; -1 where none is."""
    padded = F.pad(masks[None], (0, 1, 0, 1), mode="replicate")[0]
    corners = [padded[:, i : i + masks.shape[1], j : j + masks.shape[2]] for i in (0, 1) for j in (0, 1)]
    least, most = torch.stack(corners).amin(0), torch.stack(corners).amax(0)
    best, slot = least.max(0)
    most.scatter_(0, slot[None], 0)
    return torch.where(best > most.amax(0) * (1 + 2 * margin), slot.int(), -1)


def _between(
    wide: Float[Tensor, "K h W"], rows: _Places, y: Int[Tensor, "n"], x: Int[Tensor, "n"]
) -> Float[Tensor, "K n"]:
    """Widened masks at pixels (y, x) of the full height."""
    flat, width = wide.flatten(1), wide.shape[-1]
    upper, lower = (flat.index_select(1, place[y] * width + x) for place in (rows.first, rows.second))
    return _mixed(upper, lower, rows.weight[y])


def _compare_all(
    wide: Float[Tensor, "K h W"], rows: _Places, found: Int[Tensor, "H W"], margin: float
) -> None:
    """Write the winners of all pixels, a few rows at once."""
    for top in range(0, len(found), _ROWS):
        first, second, weight = (values[top : top + _ROWS] for values in rows)
        large = _mixed(wide.index_select(1, first), wide.index_select(1, second), weight[:, None])
        found[top : top + _ROWS] = _compare(large, margin)


def _mixed(upper: Tensor, lower: Tensor, weight: Tensor) -> Tensor:
    """Both rows' values, the lower ones of that weight, rounded as by `F.interpolate`; takes their memory."""
    return lower.mul_(weight).addcmul_(upper, 1 - weight)


def _compare(values: Float[Tensor, "K *n"], margin: float) -> Int[Tensor, "*n"]:
    """The slot whose value is larger than those of all earlier ones, and not surpassed.

    By numpy into kept arrays: each step is a pass over a few hundred kilobytes, where torch would allocate its result.
    """
    each = values.numpy()
    best, found = each[0].copy(), np.zeros(each.shape[1:], dtype=np.uint8 if len(each) <= 256 else np.int32)
    limit, larger, number = np.empty_like(best), np.empty(best.shape, dtype=bool), np.empty_like(found)
    for slot in range(1, len(each)):
        np.greater(each[slot], np.multiply(best, np.float32(1 + margin), out=limit), out=larger)
        np.multiply(larger, found.dtype.type(slot), out=number)
        np.maximum(found, number, out=found)
        np.maximum(best, each[slot], out=best)
    return torch.from_numpy(found.astype(np.int32))


def _pair(rows: int, columns: int) -> Float[ndarray, "4"]:
    return np.array([rows, columns, rows, columns], dtype=np.float32)


def resized(frame: UInt8[ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[ndarray, "h w 3"]:
    """The frame at another size, height first."""
    if frame.shape[:2] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.LANCZOS))

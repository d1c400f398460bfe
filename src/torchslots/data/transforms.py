"""Window sampling, cropping, resizing, flow and depth targets: functions from one sample to one sample.

The operations follow SAVi (supplement, and its released input pipeline). Until `video_to_float`, or a resize, `video`
may be uint8 in 0..255; until `flow_to_rgb`, `flow` is [T, 2, H, W] in pixels, row first. Random operations take what
was sampled (`start`, `Crop`) as an argument.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int, Integer, Shaped, UInt8, UInt16
from torch import Tensor

Sample = dict[str, Any]
LABELS = ("segmentations", "ignore", "classes", "overlaps")
"""Maps of what the pixels show; `overlaps` [T, 2, H, W], numbers of two annotations that must not lie on one pixel,
leaves the sample before it is handed out."""
_SPATIAL = ("video", *LABELS, "flow", "depth", "padding_mask")
_IN_TIME = (*_SPATIAL, "boxes", "properties")
_NEAREST = (*LABELS, "padding_mask")


class Crop(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int


def frame_size(sample: Sample) -> tuple[int, int]:
    """Height and width of a sample's frames, in pixels."""
    present = next(key for key in _SPATIAL if key in sample)
    return sample[present].shape[-2], sample[present].shape[-1]


# Time


def strided_window_start(num_frames: int, length: int, rng: np.random.Generator) -> int:
    """First frame of one of the ceil(num_frames / length) windows that lie end to end, uniformly sampled."""
    return length * int(rng.integers(max(1, math.ceil(num_frames / length))))


def chunk_starts(num_frames: int, length: int) -> range:
    """First frames of the floor(num_frames / length) whole windows that lie end to end; what is left is dropped."""
    return range(0, num_frames - length + 1, length)


def chunk_start(num_frames: int, length: int, rng: np.random.Generator) -> int:
    """One of `chunk_starts`, all equally likely; 0 where there is none."""
    return length * int(rng.integers(max(1, num_frames // length)))


def window_start(num_frames: int, length: int, rng: np.random.Generator) -> int:
    """First frame of a window anywhere in the video, uniformly sampled."""
    return int(rng.integers(max(1, num_frames - length + 1)))


def fit_length(values: Tensor, dim: int, length: int) -> Tensor:
    """Cut or zero-pad the end of one dimension to `length`."""
    present = values.shape[dim]
    if present >= length:
        return values.narrow(dim, 0, length)
    shape = list(values.shape)
    shape[dim] = length - present
    return torch.cat([values, values.new_zeros(shape)], dim)


def take_window(sample: Sample, start: int, length: int) -> Sample:
    """`length` frames from `start`; beyond the video's end they are zero and their `padding_mask` False."""
    return _map(sample, _IN_TIME, lambda value: fit_length(value[start:], 0, length))


def back_and_forth(sample: Sample, length: int) -> Sample:
    """`length` frames: a shorter clip is played forward and backward in turn, a single image stands still."""
    count = len(sample["padding_mask"])
    if count >= length:
        return sample
    there_and_back = [*range(count), *range(count - 2, 0, -1)]
    order = torch.tensor([there_and_back[frame % len(there_and_back)] for frame in range(length)])
    return _map(sample, _IN_TIME, lambda value: value[order])


# Space


def crop(sample: Sample, area: Crop, min_box_area: float = 0.0) -> Sample:
    """Cut all frames to one rectangle, and the boxes with them.

    Args:
        min_box_area: A box is dropped when its share of the cut frame is less than this times its share of the whole
            frame (SAVi's `relative_box_area_threshold`).
    """
    height, width = frame_size(sample)
    rows, columns = slice(area.top, area.top + area.height), slice(area.left, area.left + area.width)
    cut = _map(sample, _SPATIAL, lambda value: value[..., rows, columns])
    return _map(cut, ("boxes",), lambda boxes: crop_boxes(boxes, area, height, width, min_box_area))


def crop_boxes(
    boxes: Float[Tensor, "T n 4"], area: Crop, height: int, width: int, min_box_area: float = 0.0
) -> Float[Tensor, "T n 4"]:
    """Boxes relative to `area` instead of the height x width frame, clipped; empty ones become zeros."""
    scale = torch.tensor([height, width, height, width], dtype=boxes.dtype)
    offset = torch.tensor([area.top, area.left, area.top, area.left], dtype=boxes.dtype)
    extent = torch.tensor([area.height, area.width, area.height, area.width], dtype=boxes.dtype)
    moved = (boxes * scale - offset) / extent
    clipped = moved.clamp(0.0, 1.0)
    keep = ((clipped[..., 2:] - clipped[..., :2]) > 0).all(-1) & (boxes != 0).any(-1)
    if min_box_area > 0:
        keep &= _area(clipped) >= min_box_area * _area(boxes)
    return torch.where(keep[..., None], clipped, 0.0)


def sample_crop(height: int, width: int, min_object_covered: float, rng: np.random.Generator) -> Crop:
    """A random rectangle, distributed as TensorFlow's `sample_distorted_bounding_box` over the whole frame.

    Width to height is uniform in 3/4..4/3, the area 8 % to 100 % of the frame; rectangles that keep less than
    `min_object_covered` of the frame are sampled again, a hundred times before the whole frame is taken.
    """
    for _ in range(100):
        aspect = np.float32(rng.random(dtype=np.float32) * np.float32(4 / 3 - 3 / 4) + np.float32(3 / 4))
        area = _sample_rectangle(height, width, float(aspect), rng)
        if area is not None and area.height * area.width >= min_object_covered * height * width:
            return area
    return Crop(0, 0, height, width)


def _sample_rectangle(height: int, width: int, aspect: float, rng: np.random.Generator) -> Crop | None:
    smallest, largest = 0.08 * height * width, 1.0 * height * width
    low, high = round(math.sqrt(smallest / aspect)), round(math.sqrt(largest / aspect))
    if round(high * aspect) > width:
        high = int((width + 0.5 - 1e-7) / aspect)
        high -= round(high * aspect) > width
    high = min(high, height)
    rows = int(rng.integers(min(low, high), high + 1))
    rows += rows * round(rows * aspect) < smallest
    rows -= rows * round(rows * aspect) > largest
    columns = round(rows * aspect)
    if not smallest <= rows * columns <= largest or rows > height or columns > width:
        return None
    top = int(rng.integers(height - rows)) if rows < height else 0
    left = int(rng.integers(width - columns)) if columns < width else 0
    return Crop(top, left, rows, columns)


def random_resized_crop(
    sample: Sample, area: Crop, height: int, width: int, min_box_area: float = 0.0
) -> Sample:
    """Cut all frames to one rectangle and resize it (SAVi++'s only augmentation)."""
    return resize(crop(sample, area, min_box_area), height, width)


def small_size(height: int, width: int, size: int, max_size: int | None = None) -> tuple[int, int]:
    """Height and width when the shorter side becomes `size`, or less where the longer one would pass `max_size`."""
    if max_size is not None and max(height, width) / min(height, width) * size > max_size:
        size = int(max_size * min(height, width) / max(height, width))
    ratio = np.float32(size) / np.float32(min(height, width))
    return int(np.round(np.float32(height) * ratio)), int(np.round(np.float32(width) * ratio))


def resize_small(sample: Sample, size: int, max_size: int | None = None) -> Sample:
    """Resize so that the shorter side has `size` pixels; see `small_size`."""
    return resize(sample, *small_size(*frame_size(sample), size, max_size))


def resize_bilinear(values: Shaped[Tensor, "T C H W"], height: int, width: int) -> Float[Tensor, "T C h w"]:
    """Bilinear; uint8 becomes float in [0, 1] after resizing, which is exact for whole-number ratios."""
    resized = F.interpolate(values.float(), (height, width), mode="bilinear", antialias=False)
    return resized * (1 / 255) if values.dtype == torch.uint8 else resized


ResizeFrames = Callable[[Tensor, int, int], Tensor]
"""(frames, height, width) -> resized frames."""


def resize(sample: Sample, height: int, width: int, resize_video: ResizeFrames = resize_bilinear) -> Sample:
    """Resize frames: bilinear without antialiasing for values, nearest with half-pixel centres for integers.

    `resize_video` is for `video` alone. Flow vectors are scaled with the frame; boxes are relative and stay.
    """
    full = frame_size(sample)
    if full == (height, width):
        return sample
    resized = _map(sample, _NEAREST, lambda value: resize_nearest(value, height, width))
    resized = _map(resized, ("flow", "depth"), lambda value: resize_bilinear(value, height, width))
    resized = _map(resized, ("video",), lambda value: resize_video(value, height, width))
    scale = torch.tensor([height / full[0], width / full[1]]).view(2, 1, 1)
    return _map(resized, ("flow",), lambda flow: flow * scale)


def resize_nearest(
    values: Shaped[Tensor, "*lead H W"], height: int, width: int
) -> Shaped[Tensor, "*lead h w"]:
    """The last two dimensions resized to the pixel under each new pixel's centre (torch's `nearest-exact`)."""
    rows, columns = _nearest(values.shape[-2], height), _nearest(values.shape[-1], width)
    return values[..., rows[:, None], columns]


def _nearest(size: int, new_size: int) -> Integer[Tensor, "new_size"]:
    centers = (np.arange(new_size, dtype=np.float32) + np.float32(0.5)) * (
        np.float32(size) / np.float32(new_size)
    )
    return torch.from_numpy(np.minimum(np.floor(centers).astype(np.int64), size - 1))


# Values


def video_to_float(sample: Sample) -> Sample:
    """uint8 `video` as float32 in [0, 1]."""
    video = sample.get("video")
    if video is None or video.dtype != torch.uint8:
        return sample
    return {**sample, "video": video.float() * (1 / 255)}


def decode_range(
    values: UInt16[np.ndarray, "*shape"], limits: Float32[np.ndarray, "2"]
) -> Float32[np.ndarray, "*shape"]:
    """Map uint16 0..65535 linearly to float32 between two limits."""
    low, high = np.float32(limits[0]), np.float32(limits[1])
    return values.astype(np.float32) / np.float32(65535) * (high - low) + low


def flow_to_rgb(sample: Sample) -> Sample:
    """`flow` [T, 2, H, W] in pixels as a colour wheel [T, 3, H, W] in [0, 1]; see `flow_image`."""
    return _map(sample, ("flow",), lambda flow: flow_image(flow).float() * (1 / 255))


def flow_image(flow: Float[Tensor, "T 2 H W"]) -> UInt8[Tensor, "T 3 H W"]:
    """Direction as hue, speed as saturation (full at 2 % of the diagonal), zero is white; uint8 [T, 3, H, W].

    The angle is atan2(column, row), as in SAVi, whose code names the two the other way round.
    """
    row, column = flow[:, 0], flow[:, 1]
    hue = (torch.atan2(column, row) / math.pi + 1) / 2
    diagonal = math.sqrt(flow.shape[-2] ** 2 + flow.shape[-1] ** 2)
    saturation = (torch.sqrt(row**2 + column**2) * 50 / diagonal).clamp(0, 1)
    wheel = torch.stack([(6 * hue - 3).abs() - 1, 2 - (6 * hue - 2).abs(), 2 - (6 * hue - 4).abs()], 1)
    image = 1 - saturation[:, None] + saturation[:, None] * wheel.clamp(0, 1)
    return (image * 255.5).floor().to(torch.uint8)


def transform_depth(sample: Sample, kind: Literal["log_plus", "log", "invert_plus"]) -> Sample:
    """Distance d as a target: ln(1 + d), ln d or 1 / (1 + d)."""
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "log_plus": torch.log1p,
        "log": torch.log,
        "invert_plus": lambda depth: 1 / (1 + depth),
    }
    return _map(sample, ("depth",), kinds[kind])


def dense_boxes(
    values: Float32[np.ndarray, "M 4"],
    frames: Integer[np.ndarray, "M"],
    row_lengths: Integer[np.ndarray, "N"],
    num_frames: int,
    max_instances: int,
) -> Float[Tensor, "T n 4"]:
    """Boxes of tracks (one list per object, an entry per frame where it is visible) as a table, zeros elsewhere.

    Args:
        values: The boxes of all objects, one after the other; `frames` has the frame of each.
        row_lengths: Number of boxes of each object; objects beyond `max_instances` are dropped.
    """
    track = np.repeat(np.arange(len(row_lengths)), row_lengths)
    valid = (track < max_instances) & (frames < num_frames)
    boxes = np.zeros((num_frames, max_instances, 4), np.float32)
    boxes[frames[valid], track[valid]] = values[valid]
    return torch.from_numpy(boxes)


def number_by_rank(sample: Sample) -> Sample:
    """Renumber a clip's ids as 0, 1, ... in their order, and the rows of `boxes` with them.

    Where no id is 0 the smallest becomes 0, and its box is dropped. Ids without a row in `boxes`
    have none afterwards.
    """
    if "segmentations" not in sample:
        return sample
    ids = sample["segmentations"]
    values, ranks = ids.unique(return_inverse=True)
    numbered = {**sample, "segmentations": ranks.to(ids.dtype)}
    if "boxes" in sample:
        boxes = sample["boxes"]
        rows = values[1 : boxes.shape[1] + 1].long() - 1
        known = (rows < boxes.shape[1]).nonzero().flatten()
        numbered["boxes"] = torch.zeros_like(boxes)
        numbered["boxes"][:, known] = boxes[:, rows[known]]
    return numbered


def overlapping(sample: Sample) -> tuple[int, int, int] | None:
    """Frame and numbers of the first two annotations that overlap and must not; None: none do."""
    pairs = sample.get("overlaps")
    if pairs is None or not bool(pairs.any()):
        return None
    frame, row, column = pairs.any(1).nonzero()[0].tolist()
    first, second = pairs[frame, :, row, column].tolist()
    return frame, first, second


def masks_to_int(sample: Sample) -> Sample:
    """`segmentations` and `classes` as int32, the type that batches carry."""
    return _map(sample, ("segmentations", "classes"), lambda ids: ids.to(torch.int32))


def _map(sample: Sample, keys: tuple[str, ...], change: Callable[[Tensor], Tensor]) -> Sample:
    return {key: change(value) if key in keys else value for key, value in sample.items()}


def _area(boxes: Float[Tensor, "*lead 4"]) -> Float[Tensor, "*lead"]:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def mask_boxes(ids: Int[Tensor, "T H W"], max_instances: int) -> Float[Tensor, "T n 4"]:
    """The box around each object in each frame: (ymin, xmin, ymax, xmax) in [0, 1], zeros where absent.

    The far edges lie after the last pixel: a mask that fills the frame has the box (0, 0, 1, 1).
    """
    boxes = torch.zeros(len(ids), max_instances, 4)
    for k in range(min(max_instances, int(ids.max()) if ids.numel() else 0)):
        here = ids == k + 1
        (top, bottom), (left, right) = _extent(here.any(2)), _extent(here.any(1))
        boxes[:, k] = torch.stack([top, left, bottom, right], 1)
    return boxes


def _extent(line: Bool[Tensor, "T L"]) -> tuple[Float[Tensor, "T"], Float[Tensor, "T"]]:
    """First True and one past the last, as fractions of the length; zeros where there is none."""
    length, seen = line.shape[1], line.any(1)
    first, last = line.int().argmax(1), length - line.flip(1).int().argmax(1)
    return torch.where(seen, first / length, 0.0), torch.where(seen, last / length, 0.0)

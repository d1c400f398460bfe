"""The features of a MOVi record (Greff et al., Kubric, 2022), their types and shapes, and decoding."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchslots.data.formats.example import (
    MalformedExample,
    RawFeature,
    decode_bytes,
    decode_floats,
    decode_ints,
)
from torchslots.data.formats.png import decode_frames
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.io.errors import UserError, first_line


class Ragged(NamedTuple):
    """A list for each object: all values in one array, and the number of each object's."""

    values: np.ndarray
    row_lengths: np.ndarray


class VideoShape(NamedTuple):
    """Sizes that the shapes of features consist of."""

    num_frames: int
    height: int
    width: int
    num_instances: int


class _Kind(NamedTuple):
    """How a feature is stored: numpy's type, and its shape in letters of `VideoShape` (M: any number)."""

    dtype: Any
    shape: tuple[str | int, ...]


_IMAGES = ("video", "segmentations", "depth", "normal", "object_coordinates")
_RAGGED = {"instances/bboxes": _Kind(np.float32, ("M", 4)), "instances/bbox_frames": _Kind(np.int32, ("M",))}
_STRINGS = ("metadata/video_name", "background", "instances/asset_id")
_NUMBERS = {
    "metadata/width": _Kind(np.int32, ()),
    "metadata/height": _Kind(np.int32, ()),
    "metadata/num_frames": _Kind(np.int32, ()),
    "metadata/num_instances": _Kind(np.uint16, ()),
    "metadata/depth_range": _Kind(np.float32, (2,)),
    "metadata/forward_flow_range": _Kind(np.float32, (2,)),
    "metadata/backward_flow_range": _Kind(np.float32, (2,)),
    "background_color": _Kind(np.float32, (3,)),
    "forward_flow": _Kind(np.uint16, ("T", "H", "W", 2)),
    "backward_flow": _Kind(np.uint16, ("T", "H", "W", 2)),
    "camera/focal_length": _Kind(np.float32, ()),
    "camera/sensor_width": _Kind(np.float32, ()),
    "camera/field_of_view": _Kind(np.float32, ()),
    "camera/positions": _Kind(np.float32, ("T", 3)),
    "camera/quaternions": _Kind(np.float32, ("T", 4)),
    "instances/mass": _Kind(np.float32, ("N",)),
    "instances/friction": _Kind(np.float32, ("N",)),
    "instances/restitution": _Kind(np.float32, ("N",)),
    "instances/scale": _Kind(np.float32, ("N",)),
    "instances/color": _Kind(np.float32, ("N", 3)),
    "instances/shape_label": _Kind(np.int64, ("N",)),
    "instances/size_label": _Kind(np.int64, ("N",)),
    "instances/color_label": _Kind(np.int64, ("N",)),
    "instances/material_label": _Kind(np.int64, ("N",)),
    "instances/category": _Kind(np.int64, ("N",)),
    "instances/is_dynamic": _Kind(np.bool_, ("N",)),
    "instances/visibility": _Kind(np.uint16, ("N", "T")),
    "instances/positions": _Kind(np.float32, ("N", "T", 3)),
    "instances/quaternions": _Kind(np.float32, ("N", "T", 4)),
    "instances/velocities": _Kind(np.float32, ("N", "T", 3)),
    "instances/angular_velocities": _Kind(np.float32, ("N", "T", 3)),
    "instances/image_positions": _Kind(np.float32, ("N", "T", 2)),
    "instances/bboxes_3d": _Kind(np.float32, ("N", "T", 8, 3)),
    "events/collisions/instances": _Kind(np.uint16, ("M", 2)),
    "events/collisions/frame": _Kind(np.int32, ("M",)),
    "events/collisions/force": _Kind(np.float32, ("M",)),
    "events/collisions/position": _Kind(np.float32, ("M", 3)),
    "events/collisions/image_position": _Kind(np.float32, ("M", 2)),
    "events/collisions/contact_normal": _Kind(np.float32, ("M", 3)),
}
SIZES = ("metadata/num_frames", "metadata/height", "metadata/width", "metadata/num_instances")
_MOST_OF: dict[str, int] = dict(zip(SIZES, (100_000, 16_384, 16_384, 10_000)))
"""Bounds of sizes, checked before anything of such a size is made."""


class MoviRecord:
    """One example; its features are decoded on request."""

    def __init__(self, raw: dict[str, RawFeature], file: Path, number: int) -> None:
        self._raw, self.file, self.number = raw, file, number

    @property
    def names(self) -> list[str]:
        """Features of the record; a ragged one counts once."""
        return sorted({name.partition("/ragged_")[0] for name in self._raw})

    def has(self, name: str) -> bool:
        """Whether the record holds a feature."""
        return name in self._raw or f"{name}/ragged_flat_values" in self._raw

    @cached_property
    def shape(self) -> VideoShape:
        """Sizes from the record's metadata."""
        return self._decode("metadata", lambda: VideoShape(*self._sizes()))

    def feature(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """A feature as TFDS gives it.

        Args:
            start: First frame to decode; only for features that are images or flow, others are decoded whole.
            stop: One past the last frame; None: to the end.

        Raises:
            UserError: the record has no such feature.
            CorruptRecord: the feature cannot be decoded.
        """
        if name in _IMAGES:
            return self._decode(name, lambda: self._images(name, start, stop))
        if name.endswith("_flow"):
            return self._decode(name, lambda: self._flow(name, start, stop))
        if name in _RAGGED:
            return self._decode(name, lambda: self._ragged(name))
        if name in _STRINGS:
            return self._decode(name, lambda: self._text(name))
        return self._decode(name, lambda: self._numbers(name, _NUMBERS.get(name, _Kind(None, ("M",)))))

    def _get(self, name: str) -> RawFeature:
        if name not in self._raw:
            raise UserError(
                f"{self.file}: record {self.number} has no feature `{name}`, only: {', '.join(self.names)}. "
                "Leave it out of the recipe's `keys`, or use a data set that has it."
            )
        return self._raw[name]

    def _decode(self, name: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (MalformedExample, ValueError, IndexError) as error:
            raise CorruptRecord(
                self.file, self.number, f"has a broken feature `{name}`: {first_line(error)}"
            ) from error

    def _sizes(self) -> list[int]:
        sizes = {name: int(decode_ints(self._get(name))[0]) for name in SIZES}
        for name, size in sizes.items():
            if not 0 <= size <= _MOST_OF[name]:
                raise MalformedExample(f"{size} as `{name}`, where 0 to {_MOST_OF[name]} are possible")
        return list(sizes.values())

    def _images(self, name: str, start: int, stop: int | None) -> np.ndarray:
        frames = decode_bytes(self._get(name), start, stop)
        wanted = len(range(*slice(start, stop).indices(self.shape.num_frames)))
        if len(frames) != wanted:
            raise MalformedExample(f"{len(frames)} frames where {wanted} are expected")
        return decode_frames(frames)

    def _flow(self, name: str, start: int, stop: int | None) -> np.ndarray:
        shape = self.shape
        begin, end, _ = slice(start, stop).indices(shape.num_frames)
        size = shape.height * shape.width * 2
        values = decode_ints(self._get(name), begin * size, end * size)
        return values.astype(np.uint16).reshape(end - begin, shape.height, shape.width, 2)

    def _ragged(self, name: str) -> Ragged:
        kind = _RAGGED[name]
        values = self._numbers(f"{name}/ragged_flat_values", kind)
        lengths = self._numbers(f"{name}/ragged_row_lengths_0", _Kind(np.int64, ("M",)))
        rows = lengths.tolist()
        if min(rows, default=0) < 0 or sum(rows) != len(values) or len(rows) > _MOST_OF[SIZES[-1]]:
            raise MalformedExample(f"{len(values)} rows that lists of {rows[:4]} ... rows do not make")
        if name == "instances/bbox_frames" and (values < 0).any():
            raise MalformedExample("frames with numbers below zero")
        return Ragged(values, lengths)

    def _text(self, name: str) -> Any:
        items = decode_bytes(self._get(name))
        return np.array(items, object) if name == "instances/asset_id" else np.bytes_(items[0])

    def _numbers(self, name: str, kind: _Kind) -> Any:
        raw = self._get(name)
        if kind.dtype is None:
            kind = _Kind({1: object, 2: np.float32, 3: np.int64}.get(raw.kind or 1), kind.shape)
        if kind.dtype is object:
            return np.array(decode_bytes(raw), object)
        values = (decode_floats if kind.dtype == np.float32 else decode_ints)(raw).astype(
            kind.dtype, copy=False
        )
        sizes: dict[str | int, int] = {"M": -1}
        if {"T", "H", "W", "N"} & set(kind.shape):
            sizes.update(zip("THWN", self.shape))
        return values.reshape([sizes[size] if isinstance(size, str) else size for size in kind.shape])

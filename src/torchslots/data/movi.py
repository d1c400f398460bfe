"""MOVi-A to F (Greff et al., Kubric, 2022) from their published TFDS folders, without TensorFlow.

`MoviReader` gives any feature of any example as TFDS would. `MoviClips` gives training clips and whole videos
as SAVi's input pipeline prepares them, and decodes only the frames and features that these need.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from torchslots.data import transforms
from torchslots.data.example import (
    MalformedExample,
    RawFeature,
    decode_bytes,
    decode_floats,
    decode_ints,
    scan_example,
)
from torchslots.data.png import decode_frames
from torchslots.data.tfds import TfdsSplit, find_folder
from torchslots.data.tfrecord import CorruptRecord
from torchslots.data.transforms import Sample
from torchslots.errors import UserError
from torchslots.training.recipe import DataConfig


class Ragged(NamedTuple):
    """One list per object, of differing lengths: all values in a row, and how many belong to each object."""

    values: np.ndarray
    row_lengths: np.ndarray


class VideoShape(NamedTuple):
    """Sizes that other features' shapes are made of."""

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
_SIZES = ("metadata/num_frames", "metadata/height", "metadata/width", "metadata/num_instances")


class Record:
    """One example, found in its file but decoded only where asked."""

    def __init__(self, raw: dict[str, RawFeature], file: Path, number: int) -> None:
        self._raw, self.file, self.number = raw, file, number

    @property
    def names(self) -> list[str]:
        """Features in the record; ragged ones under their own name."""
        return sorted({name.partition("/ragged_")[0] for name in self._raw})

    def has(self, name: str) -> bool:
        """Whether the record holds a feature."""
        return name in self._raw or f"{name}/ragged_flat_values" in self._raw

    def shape(self) -> VideoShape:
        """Sizes by the record's own metadata."""
        return self._decode("metadata", lambda: VideoShape(*(int(self._scalar(name)) for name in _SIZES)))

    def feature(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """A feature as TFDS gives it.

        Args:
            start: First frame to decode, of the features that are frames or flow; the rest come whole.
            stop: One past the last frame; None: to the end.

        Raises:
            UserError: the record has no such feature.
            CorruptRecord: the feature does not hold what it should.
        """
        if name in _IMAGES:
            return self._decode(name, lambda: decode_frames(decode_bytes(self._get(name), start, stop)))
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
            raise CorruptRecord(self.file, self.number, f"has a broken feature `{name}`: {error}") from error

    def _scalar(self, name: str) -> np.ndarray:
        return decode_ints(self._get(name))[0]

    def _flow(self, name: str, start: int, stop: int | None) -> np.ndarray:
        shape = self.shape()
        begin, end, _ = slice(start, stop).indices(shape.num_frames)
        size = shape.height * shape.width * 2
        values = decode_ints(self._get(name), begin * size, end * size)
        return values.astype(np.uint16).reshape(end - begin, shape.height, shape.width, 2)

    def _ragged(self, name: str) -> Ragged:
        kind = _RAGGED[name]
        values = self._numbers(f"{name}/ragged_flat_values", kind)
        return Ragged(values, self._numbers(f"{name}/ragged_row_lengths_0", _Kind(np.int64, ("M",))))

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
            sizes.update(zip("THWN", self.shape()))
        return values.reshape([sizes[size] if isinstance(size, str) else size for size in kind.shape])


class MoviReader:
    """All examples of one split, in TFDS order."""

    def __init__(self, root: Path, name: str = "movi_a", split: str = "train", resolution: int = 0) -> None:
        """Find the files; `root` is the folder of the data set or one of its parents.

        Args:
            resolution: Of several resolutions take the smallest with at least so many pixels.

        Raises:
            UserError: nothing is found there, or shards are missing.
        """
        self.records = TfdsSplit(find_folder(root, name, resolution), split)

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """The example's file and number in it, in the form of TFDS' own example ids."""
        file, record = self.records.place(index)
        return f"{file.name}__{record}"

    def record(self, index: int, names: Collection[str] | None = None) -> Record:
        """Read an example; features beyond `names` and the sizes in metadata are not even looked up.

        Raises:
            CorruptRecord: it cannot be read.
        """
        file, number = self.records.place(index)
        payload = self.records.read(index)
        try:
            return Record(scan_example(payload, _stored(names)), file, number)
        except MalformedExample as error:
            raise CorruptRecord(file, number, f"is no tf.train.Example: {error}") from error

    def example(self, index: int, features: Collection[str] | None = None) -> dict[str, Any]:
        """Decode features of an example as TFDS would: arrays, bytes, `Ragged`; names joined by "/".

        Args:
            features: None: everything that is there.

        Raises:
            UserError: a feature is not there.
            CorruptRecord: the record cannot be read.
        """
        record = self.record(index, features)
        return {name: record.feature(name) for name in (record.names if features is None else features)}


def _stored(names: Collection[str] | None) -> set[str] | None:
    if names is None:
        return None
    ragged = {f"{name}/{part}" for name in names for part in ("ragged_flat_values", "ragged_row_lengths_0")}
    return {*names, *_SIZES, *ragged}


class MoviClips:
    """Clips (training) and whole videos (evaluation) of a MOVi split, as a recipe's `DataConfig` asks for
    them.
    """

    def __init__(self, root: Path, split: str, config: DataConfig, train: bool = True) -> None:
        """Find the files: those of `config.dataset` below `root`, or whatever `root` itself holds.

        Args:
            train: False: never a clip at a random place, but the first `config.num_frames` frames of each video.

        Raises:
            UserError: nothing is found there, or shards are missing.
        """
        self.config, self.train = config, train
        self.reader = MoviReader(root, config.dataset, split, config.resolution)

    def __len__(self) -> int:
        return len(self.reader)

    def name(self, index: int) -> str:
        """File and number of the example."""
        return self.reader.name(index)

    def sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        """One clip at a random place; without `rng`, the whole video (its beginning, where not `train`).

        Raises:
            UserError: the data lack a key that the recipe wants.
            CorruptRecord: the record cannot be read.
        """
        rng = rng if self.train else None
        return finish(self.raw(index, rng), self.config, rng)

    def raw(self, index: int, rng: np.random.Generator | None) -> Sample:
        """The same before cropping, resizing and colouring: `flow` in pixels, `depth` as distance."""
        config = self.config
        record = self.reader.record(index, _features(config.keys))
        num_frames = record.shape().num_frames
        if num_frames < 1:
            raise CorruptRecord(record.file, record.number, "has no frames")
        start, length = 0, num_frames if self.train else config.num_frames
        if rng is not None and self.train:
            length = config.num_frames
            start = transforms.strided_window_start(num_frames, length, rng)
        sample = decode_clip(record, config, start, min(start + length, num_frames))
        return {**transforms.take_window(sample, 0, length), "name": self.name(index)}


def _features(keys: Collection[str]) -> set[str]:
    return {feature for key in keys for feature in _NEEDS.get(key, ())}


_NEEDS = {
    "video": ("video",),
    "segmentations": ("segmentations",),
    "boxes": ("instances/bboxes", "instances/bbox_frames"),
    "flow": ("backward_flow", "forward_flow", "metadata/backward_flow_range", "metadata/forward_flow_range"),
    "depth": ("depth", "metadata/depth_range"),
}


def decode_clip(record: Record, config: DataConfig, start: int, stop: int) -> Sample:
    """Frames `start` to `stop` of a record as tensors; keys that no MOVi record can give are refused."""
    sample: Sample = {}
    for key in config.keys:
        if key == "boxes":
            sample[key] = _boxes(record, config.max_instances)[start:stop]
        elif key == "flow":
            sample[key] = _flow(record, start, stop)
        elif key == "depth":
            limits = record.feature("metadata/depth_range")
            sample[key] = _channels_first(
                transforms.decode_range(record.feature("depth", start, stop), limits)
            )
        elif key == "video":
            sample[key] = _channels_first(record.feature("video", start, stop))
        elif key == "segmentations":
            sample[key] = torch.from_numpy(record.feature("segmentations", start, stop)[..., 0])
        elif key not in ("padding_mask", "name"):
            known = ", ".join([*_NEEDS, "padding_mask", "name"])
            raise UserError(f"`keys` asks for `{key}`, which MOVi does not have. It has: {known}.")
    shape = record.shape()
    sample["padding_mask"] = torch.ones(stop - start, shape.height, shape.width, dtype=torch.bool)
    return transforms.limit_instances(sample, config.max_instances)


def _channels_first(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def _boxes(record: Record, max_instances: int) -> torch.Tensor:
    boxes, frames = record.feature("instances/bboxes"), record.feature("instances/bbox_frames")
    num_frames = record.shape().num_frames
    try:
        return transforms.dense_boxes(
            boxes.values, frames.values, boxes.row_lengths, num_frames, max_instances
        )
    except (ValueError, IndexError) as error:
        raise CorruptRecord(record.file, record.number, f"has boxes that do not fit: {error}") from error


def _flow(record: Record, start: int, stop: int) -> torch.Tensor:
    """Backward flow where there is one, as in SAVi; -255..255 when the record does not say its range."""
    name = "backward_flow" if record.has("backward_flow") else "forward_flow"
    scale = f"metadata/{name}_range"
    limits = record.feature(scale) if record.has(scale) else np.array([-255.0, 255.0])
    return _channels_first(transforms.decode_range(record.feature(name, start, stop), limits))


def finish(sample: Sample, config: DataConfig, rng: np.random.Generator | None) -> Sample:
    """Crop (training, where the recipe says so) or resize; depth and flow become targets, masks int32."""
    height, width = transforms.frame_size(sample)
    if rng is not None and config.min_object_covered is not None:
        area = transforms.draw_crop(height, width, config.min_object_covered, rng)
        sample = transforms.random_resized_crop(sample, area, config.resolution, config.resolution)
    else:
        sample = transforms.resize_small(sample, config.resolution)
    sample = transforms.transform_depth(sample, config.depth_transform)
    sample = transforms.video_to_float(transforms.flow_to_rgb(sample))
    return transforms.masks_to_int(sample)

"""MOVi-A to F (Greff et al., Kubric, 2022) from their published TFDS folders, without TensorFlow.

`MoviReader` gives any feature of any example as TFDS would. `MoviClips` gives training clips and whole videos
as SAVi's input pipeline prepares them, and decodes only the frames and features that these need.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchslots.data import transforms
from torchslots.data.clips import clip_window, finish_clip
from torchslots.data.config import DataConfig
from torchslots.data.formats.example import MalformedExample, scan_example
from torchslots.data.formats.tfds import TfdsSplit, find_folder
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.sets.movi_schema import SIZES, MoviRecord, Ragged
from torchslots.data.transforms import Sample
from torchslots.io.errors import UserError
from torchslots.io.progress import progress

__all__ = ["MoviClips", "MoviReader", "Ragged"]


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

    def record(self, index: int, names: Collection[str] | None = None) -> MoviRecord:
        """Read an example; features beyond `names` and the sizes in metadata are not even looked up.

        Raises:
            CorruptRecord: it cannot be read.
        """
        file, number = self.records.place(index)
        payload = self.records.read(index)
        try:
            return MoviRecord(scan_example(payload, _stored(names)), file, number)
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
    return {*names, *SIZES, *ragged}


_NEEDS = {
    "video": ("video",),
    "segmentations": ("segmentations",),
    "boxes": ("instances/bboxes", "instances/bbox_frames"),
    "flow": ("backward_flow", "forward_flow", "metadata/backward_flow_range", "metadata/forward_flow_range"),
    "depth": ("depth", "metadata/depth_range"),
}


class MoviClips:
    """Clips (training) and whole videos (evaluation) of a MOVi split, as a recipe's `DataConfig` asks."""

    def __init__(self, root: Path, split: str, config: DataConfig, train: bool = True) -> None:
        """Find the files: those of `config.dataset` below `root`, or whatever `root` itself holds.

        Args:
            train: False: no clip at a random place, but the first `config.num_frames` frames of each video.

        Raises:
            UserError: nothing is found there, shards are missing, or the recipe wants keys that MOVi lacks.
        """
        unknown = set(config.keys) - {*_NEEDS, "padding_mask", "name"}
        if unknown:
            raise UserError(
                f"The recipe asks for `{unknown.pop()}`, which MOVi lacks. It has: {', '.join(_NEEDS)}."
            )
        self.config, self.split, self.train = config, split, train
        self.reader = MoviReader(root, config.dataset, split, config.resolution)
        self._chosen = range(len(self.reader))
        if config.max_objects is not None:
            self._chosen = _with_few_objects(self.reader, config.max_objects)
        self._features = {feature for key in config.keys for feature in _NEEDS.get(key, ())}

    def __len__(self) -> int:
        return len(self._chosen)

    def name(self, index: int) -> str:
        """File and number of the example."""
        return self.reader.name(self._chosen[index])

    def sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        """One clip at a random place; without `rng`, the whole video (its beginning, where not `train`).

        Raises:
            UserError: the data lack a key that the recipe wants.
            CorruptRecord: the record cannot be read.
        """
        record = self.reader.record(self._chosen[index], self._features)
        num_frames = _num_frames(record)
        rng = rng if self.train else None
        start, length = clip_window(num_frames, self.config, self.train, rng)
        stored = decode_clip(record, self.config, start, min(start + length, num_frames))
        return {**finish_clip(stored, self.config, length, rng), "name": self.name(index)}

    def stored(self, index: int) -> Sample:
        """A whole video before windowing, cropping, resizing and colouring; what `finish_clip` takes."""
        record = self.reader.record(self._chosen[index], self._features)
        return decode_clip(record, self.config, 0, _num_frames(record))


def _with_few_objects(reader: MoviReader, most: int) -> list[int]:
    """Examples of at most so many objects. All records are read for it; corrupt ones stay, to be met when
    used.
    """
    chosen = []
    with progress("Counting objects", len(reader), "videos") as advance:
        for index in range(len(reader)):
            try:
                count = reader.record(index, ()).shape().num_instances
            except CorruptRecord:
                count = 0
            chosen += [index] if count <= most else []
            advance(1)
    return chosen


def _num_frames(record: MoviRecord) -> int:
    num_frames = record.shape().num_frames
    if num_frames < 1:
        raise CorruptRecord(record.file, record.number, "has no frames")
    return num_frames


def decode_clip(record: MoviRecord, config: DataConfig, start: int, stop: int) -> Sample:
    """Frames `start` to `stop` of a record as tensors; only the keys that the recipe wants are decoded."""
    sample: Sample = {}
    if "video" in config.keys:
        sample["video"] = _channels_first(record.feature("video", start, stop))
    if "segmentations" in config.keys:
        sample["segmentations"] = torch.from_numpy(record.feature("segmentations", start, stop)[..., 0])
    if "boxes" in config.keys:
        sample["boxes"] = _boxes(record, config.max_instances)[start:stop]
    if "flow" in config.keys:
        sample["flow"], sample["flow_range"] = _flow(record, start, stop)
    if "depth" in config.keys:
        sample["depth"] = _channels_first(record.feature("depth", start, stop))
        sample["depth_range"] = torch.from_numpy(record.feature("metadata/depth_range"))
    shape = record.shape()
    sample["padding_mask"] = torch.ones(stop - start, shape.height, shape.width, dtype=torch.bool)
    return transforms.limit_instances(sample, config.max_instances)


def _channels_first(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def _boxes(record: MoviRecord, max_instances: int) -> torch.Tensor:
    boxes, frames = record.feature("instances/bboxes"), record.feature("instances/bbox_frames")
    num_frames = record.shape().num_frames
    try:
        return transforms.dense_boxes(
            boxes.values, frames.values, boxes.row_lengths, num_frames, max_instances
        )
    except (ValueError, IndexError) as error:
        raise CorruptRecord(record.file, record.number, f"has boxes that do not fit: {error}") from error


def _flow(record: MoviRecord, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and range of the flow: backward where there is one, as in SAVi; -255..255 if none is stated."""
    name = "backward_flow" if record.has("backward_flow") else "forward_flow"
    scale = f"metadata/{name}_range"
    limits = record.feature(scale) if record.has(scale) else np.array([-255.0, 255.0], np.float32)
    return _channels_first(record.feature(name, start, stop)), torch.from_numpy(limits)

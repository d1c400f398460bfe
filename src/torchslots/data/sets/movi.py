"""MOVi-A to F (Greff et al., Kubric, 2022) from their published TFDS folders, without TensorFlow.

`MoviReader` reads any feature of any example as TFDS does, and clips as SAVi's input pipeline does. Only the frames and
features that are needed are decoded.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchslots.data.clips import Example
from torchslots.data.formats.tfds import TfdsSplit, find_folder
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.sets.movi_schema import SIZES, MoviRecord, Ragged
from torchslots.data.transforms import dense_boxes
from torchslots.io.counts import count_text
from torchslots.io.errors import first_line

_NEEDS = {
    "video": ("video",),
    "segmentations": ("segmentations",),
    "boxes": ("instances/bboxes", "instances/bbox_frames"),
    "flow": ("backward_flow", "forward_flow", "metadata/backward_flow_range", "metadata/forward_flow_range"),
    "depth": ("depth", "metadata/depth_range"),
}


class MoviReader:
    """All examples of one split, in TFDS order."""

    title, keys = "MOVi", tuple(_NEEDS)

    def __init__(self, root: Path, name: str = "movi_a", split: str = "train", resolution: int = 0) -> None:
        """Find the files; `root` is the folder of the data set or one of its parents.

        Args:
            resolution: Of several stored resolutions take the smallest of at least so many pixels, else the largest.

        Raises:
            UserError: no such data set or split, or missing shards.
        """
        self.records = TfdsSplit(find_folder(root, name, resolution), split)

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """The example's file, and its number in the file."""
        return self.records.name(index)

    @property
    def files(self) -> str:
        """Number and size of the record files."""
        size = sum(file.path.stat().st_size for file in self.records.files)
        return f"{count_text(len(self.records.files), 'file')} of {size / 1e6:,.1f} MB"

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """Find an example; `keys` None: all features, ragged ones flattened.

        Raises:
            CorruptRecord: it cannot be read.
            UserError: it lacks a feature.
        """
        wanted = None if keys is None else {name for key in keys for name in _NEEDS.get(key, ())}
        record = self.record(index, wanted)
        num_frames = record.shape.num_frames
        if num_frames < 1:
            raise CorruptRecord(record.file, record.number, "has no frames")
        if keys is None:
            return Example(num_frames, lambda start, stop: _features(record, start, stop))
        return Example(num_frames, lambda start, stop: _arrays(record, keys, start, stop))

    def num_objects(self, index: int) -> int:
        """Objects in the video, by its metadata."""
        return self.record(index, ()).shape.num_instances

    def record(self, index: int, names: Collection[str] | None = None) -> MoviRecord:
        """Read an example; only the features `names` and the sizes in the metadata are parsed.

        Raises:
            CorruptRecord: it cannot be read.
        """
        return MoviRecord(self.records.scan(index, _stored(names)), *self.records.place(index))

    def example(self, index: int, features: Collection[str] | None = None) -> dict[str, Any]:
        """Decode features of an example as TFDS does, by names joined by "/": arrays, bytes, `Ragged`.

        Args:
            features: None: all.

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


def splits(root: Path, name: str) -> Sequence[str]:
    """The splits of a set below a folder.

    Raises:
        UserError: the set is not there.
    """
    return find_folder(root, name).splits


def _features(record: MoviRecord, start: int, stop: int) -> Mapping[str, Any]:
    features = {}
    for name in record.names:
        value = record.feature(name, start, stop)
        if isinstance(value, Ragged):
            features[f"{name} (of {len(value.row_lengths)} objects)"] = value.values
        else:
            features[name] = value
    return features


def _arrays(record: MoviRecord, keys: Collection[str], start: int, stop: int) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    if "video" in keys:
        arrays["video"] = record.feature("video", start, stop)
    if "segmentations" in keys:
        arrays["segmentations"] = record.feature("segmentations", start, stop)[..., 0]
    if "boxes" in keys:
        arrays["boxes"] = _boxes(record)[start:stop]
    if "flow" in keys:
        arrays["flow"], arrays["flow_range"] = _flow(record, start, stop)
    if "depth" in keys:
        arrays["depth"] = record.feature("depth", start, stop)
        arrays["depth_range"] = record.feature("metadata/depth_range")
    return arrays


def _boxes(record: MoviRecord) -> np.ndarray:
    (boxes, lengths), (frames, _) = (record.feature(name) for name in _NEEDS["boxes"])
    if len(boxes) != len(frames):
        reason = f"has {len(boxes)} boxes but the frames of {len(frames)}"
        raise CorruptRecord(record.file, record.number, reason)
    try:
        return dense_boxes(boxes, frames, lengths, record.shape.num_frames, len(lengths)).numpy()
    except (ValueError, IndexError) as error:
        raise CorruptRecord(
            record.file, record.number, f"has boxes that do not fit: {first_line(error)}"
        ) from error


def _flow(record: MoviRecord, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and range of the flow: backward where stored, as in SAVi; without a stored range -255..255."""
    name = "backward_flow" if record.has("backward_flow") else "forward_flow"
    scale = f"metadata/{name}_range"
    limits = record.feature(scale) if record.has(scale) else np.array([-255.0, 255.0], np.float32)
    return record.feature(name, start, stop), limits

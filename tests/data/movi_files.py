"""Recorded MOVi shards in a folder of their own, and variations of their records."""

import gzip
import json
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from recorded import GOLDEN
from torchslots.data.formats.example import (
    decode_bytes,
    decode_floats,
    decode_ints,
    encode_example,
    scan_example,
)
from torchslots.data.formats.tfrecord import RecordFile, write_records

VERSION = "32x32/1.0.0"
Feature = list[bytes] | np.ndarray
"""A decoded feature: a list of bytes, float32 [n] or int64 [n]."""
_DECODE = {2: decode_floats, 3: decode_ints}
"""By the number of the list in tf.train.Feature; others hold bytes, or were written empty."""


def parse_example(record: bytes, names: Collection[str] | None = None) -> dict[str, Feature]:
    """Decode the named features of a serialized Example (None: all)."""
    found = scan_example(record, names)
    return {name: _DECODE.get(raw.kind or 1, decode_bytes)(raw) for name, raw in found.items()}


def copy_movi(letter: str, root: Path) -> Path:
    """root/movi_a/32x32/1.0.0 with the recorded files; returns the innermost folder."""
    target = root / f"movi_{letter}" / VERSION
    target.mkdir(parents=True)
    for name, content in movi_contents(letter).items():
        (target / name).write_bytes(content)
    return target


def movi_contents(letter: str) -> dict[str, bytes]:
    """Names and contents of a recorded folder's files; its shards are kept packed by gzip."""
    files = [
        file
        for file in (GOLDEN / f"data_movi_{letter}" / f"movi_{letter}" / VERSION).iterdir()
        if file.is_file()
    ]
    packed = {file.stem: gzip.decompress(file.read_bytes()) for file in files if file.suffix == ".gz"}
    return packed | {file.name: file.read_bytes() for file in files if file.suffix != ".gz"}


def shard(folder: Path, split: str = "train", index: int = 0) -> Path:
    """One of the folder's record files."""
    return sorted(folder.glob(f"*-{split}.tfrecord*"))[index]


def rewrite(file: Path, change: Callable[[dict[str, Feature]], None]) -> None:
    """Change the features of every record of a file."""
    records = RecordFile(file)
    examples = [parse_example(records.read(i)) for i in range(len(records))]
    for example in examples:
        change(example)
    write_records(file, [encode_example(example) for example in examples])


def forget_info(folder: Path) -> None:
    """Remove dataset_info.json, so that files are found by name."""
    (folder / "dataset_info.json").unlink()


def edit_info(folder: Path, split: str, lengths: list[int]) -> None:
    """Let dataset_info.json list other record counts."""
    file = folder / "dataset_info.json"
    info = json.loads(file.read_text())
    for entry in info["splits"]:
        if entry["name"] == split:
            entry["shardLengths"] = [str(length) for length in lengths]
    file.write_text(json.dumps(info))


def cut_frames(example: dict[str, Feature], num_frames: int) -> None:
    """Shorten a video: frames, flow, depth, and boxes of frames that are gone."""
    old = int(example["metadata/num_frames"][0])
    for name in ("video", "segmentations", "depth", "normal", "object_coordinates"):
        example[name] = example[name][:num_frames]
    for name in ("forward_flow", "backward_flow"):
        example[name] = example[name].reshape(old, -1)[:num_frames].reshape(-1)
    for name in ("instances/bboxes", "instances/bbox_frames"):
        del example[f"{name}/ragged_flat_values"], example[f"{name}/ragged_row_lengths_0"]
    count = int(example["metadata/num_instances"][0])
    frames = np.tile(np.arange(num_frames), count)
    example["instances/bbox_frames/ragged_flat_values"] = frames
    example["instances/bbox_frames/ragged_row_lengths_0"] = np.full(count, num_frames)
    example["instances/bboxes/ragged_flat_values"] = np.tile([0.1, 0.2, 0.6, 0.7], len(frames)).astype(
        np.float32
    )
    example["instances/bboxes/ragged_row_lengths_0"] = np.full(count, num_frames)
    example["metadata/num_frames"] = np.array([num_frames])


def flip_byte(file: Path, offset: int) -> None:
    """Damage a file in one place; its size and (nearly) its time of change stay."""
    data = bytearray(file.read_bytes())
    data[offset] ^= 0xFF
    file.write_bytes(data)

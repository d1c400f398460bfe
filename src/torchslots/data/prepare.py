"""Cache a data set as a recipe needs it, in preprocessed arrays that are memory-mapped.

`prepare` writes whole videos, already resized, with flow as an image and depth as the target, in the narrowest exact
type. For recipes with random crops the frames stay as stored. Samples that `sets/prepared.py` reads equal those of the
original data set.

```
out/train/meta.json          the settings, number of videos
out/train/00000/index.json   names and lengths of the videos in this shard; written last
out/train/00000/video.npy    all their frames
```
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchslots.data.catalog import open_dataset
from torchslots.data.clips import Clips, finish_clip, finish_cropped, without_overlaps
from torchslots.data.config import DataConfig
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.sets.prepared import (
    OWN_FILES,
    RANGES,
    TARGETS,
    PreparedArrays,
    as_stored,
    differing,
    fingerprint,
    made_with,
    read_index,
    shard_folder,
    unpack,
)
from torchslots.data.transforms import Sample
from torchslots.io.arrays import CHECKSUMS, row_checksums
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError
from torchslots.io.files import atomic_file, write_file
from torchslots.io.json_files import sealed
from torchslots.io.progress import progress
from torchslots.io.workers import in_order

_VIDEOS_PER_SHARD = 64
_DEFAULT = DataConfig()


class Prepared(NamedTuple):
    """Result of `prepare`."""

    folder: Path
    num_videos: int
    left_out: list[str]
    """Messages of corrupt records."""
    num_bytes: int


def data_prepare(
    root: Path,
    out: Path,
    *,
    splits: tuple[str, ...] = ("train", "validation"),
    config: DataConfig = _DEFAULT,
    num_workers: int = 0,
    skip_corrupt: bool = False,
) -> None:
    """Cache what a recipe needs of a data set, to train with `--data prepared --root OUT`.

    With `--features RECIPE` the features of that recipe's frozen vision transformer are stored in place of its training
    frames: see `torchslots data prepare --features RECIPE --help`.

    Args:
        root: Folder of the data set.
        out: Folder to write; the same command resumes after an interruption.
        splits: Splits to prepare.
        config: The recipe's data settings.
        num_workers: Processes that write; 0 or 1: this one.
        skip_corrupt: Leave out records that cannot be read; otherwise the first one stops the command.

    Raises:
        UserError: no such data set or split, or as `prepare`.
    """
    for split in splits:
        dataset = open_whole(root, split, config)
        done = prepare(dataset, out, num_workers=num_workers, skip_corrupt=skip_corrupt)
        print(f"{done.folder}: {count_text(done.num_videos, 'video')}, {done.num_bytes / 1e6:,.1f} MB")
        for message in done.left_out:
            print(f"left out: {message}")


def open_whole(root: Path, split: str, config: DataConfig) -> Clips:
    """A split's whole videos, however short.

    Raises:
        UserError: no such data set or split.
    """
    whole = replace(config, windows="end_to_end", eval_chunks=None)
    return open_dataset(config.dataset, root, split, whole, True)


def estimated_bytes(dataset: Clips) -> float:
    """About what `prepare` writes, by its first video."""
    packed = _video(dataset, 0)
    size = sum(packed[key].nbytes for key in TARGETS if key in packed) / dataset.num_frames(0)
    return size * sum(dataset.num_frames(index) for index in range(len(dataset)))


def prepare(dataset: Clips, out: Path, *, num_workers: int = 0, skip_corrupt: bool = False) -> Prepared:
    """Write all videos of a split below `out`; the same call resumes after an interruption.

    Args:
        dataset: Opened with the `DataConfig` of the recipe that trains on the result.
        num_workers: Processes that write shards; 0 or 1: this one.
        skip_corrupt: Leave out records that cannot be read; otherwise the first one raises.

    Raises:
        UserError: the data set is itself a prepared one; `out` was prepared with other settings or cannot be written;
            data cannot be read.
    """
    if isinstance(dataset.source, PreparedArrays):
        raise UserError("This data set cannot be prepared: it is prepared already. Prepare the original one.")
    folder = Path(out) / dataset.split
    wanted = fingerprint(dataset.config) | {"num_examples": len(dataset)}
    _begin(folder, wanted)
    starts = range(0, len(dataset), _VIDEOS_PER_SHARD)
    parts = [range(start, min(start + _VIDEOS_PER_SHARD, len(dataset))) for start in starts]
    missing = {shard_folder(folder, number): part for number, part in enumerate(parts)}
    missing = {place: part for place, part in missing.items() if not (place / "index.json").exists()}
    tasks = [(dataset, skip_corrupt, place, part) for place, part in missing.items()]
    with progress("Preparing", len(dataset), "videos") as advance:
        advance(len(dataset) - sum(map(len, missing.values())))
        with in_order(_write_shard, tasks, num_workers) as counts:
            for count in counts:
                advance(count)
    return _end(folder, wanted, len(parts))


def _begin(folder: Path, wanted: dict[str, Any]) -> None:
    meta = folder / "meta.json"
    if not meta.exists():
        _write_json(meta, {"made_for": wanted, "complete": False})
        return
    made = read_index(meta)["made_for"]
    field = differing(made, wanted)
    if field is not None:
        raise UserError(
            f"{folder} was prepared with `{field}` = {made_with(made, field)!r}, now it is {wanted[field]!r}. "
            "Choose another folder with --out, or remove this one."
        )


def _end(folder: Path, made_for: dict[str, Any], num_shards: int) -> Prepared:
    entries = [read_index(shard_folder(folder, shard) / "index.json") for shard in range(num_shards)]
    left_out = [message for entry in entries for message in entry["left_out"]]
    counts = [len(entry["names"]) for entry in entries]
    _write_json(folder / "meta.json", {"made_for": made_for, "complete": True, "videos_in_shards": counts})
    num_bytes = sum(file.stat().st_size for file in folder.glob("*/*.npy"))
    return Prepared(folder, sum(counts), left_out, num_bytes)


def _write_shard(dataset: Clips, skip_corrupt: bool, place: Path, indices: range) -> int:
    """Write one shard's arrays and, last, its index. Returns its number of examples, left out ones included."""
    videos: dict[str, Sample] = {}
    left_out = []
    for index in indices:
        try:
            videos[dataset.name(index)] = _video(dataset, index)
        except CorruptRecord as error:
            if not skip_corrupt:
                raise
            left_out.append(str(error))
    for key in next(iter(videos.values()), {}):
        if key in (*TARGETS, *RANGES):
            _write_array(place / f"{key}.npy", [video[key] for video in videos.values()])
    shapes = [tuple(video["padding_mask"].shape) for video in videos.values()]
    index = {"names": list(videos), "shapes": shapes, "left_out": left_out, "checksums": True}
    _write_json(place / "index.json", index)
    return len(indices)


def _video(dataset: Clips, index: int) -> Sample:
    """What is written of one video: as it is stored where a crop follows, else finished and packed."""
    stored, name = dataset.stored(index), dataset.name(index)
    if not as_stored(dataset.config):
        whole = replace(dataset.config, renumber=False)
        finish = finish_cropped if dataset.config.dataset == OWN_FILES else finish_clip
        finished = finish(stored, whole, len(stored["padding_mask"]), None)
        finished = without_overlaps(finished, name, index)
        return {key: _pack(key, value) for key, value in finished.items()}
    stored = without_overlaps(stored, name, index)
    return {key: value[None] if key in RANGES else value for key, value in stored.items()}


def _pack(key: str, values: Tensor) -> Tensor:
    """The narrowest type from which `unpack` gets the same numbers."""
    if key in ("segmentations", "classes") and int(values.max()) < 256:
        return values.to(torch.uint8)
    if key in ("video", "flow"):
        for steps, kind in ((255, torch.uint8), (1020, torch.uint16)):
            packed = (values * steps).round().clamp(0, steps).to(kind)
            if torch.equal(unpack(key, packed), values):
                return packed
    return values


def _write_array(file: Path, parts: list[Tensor]) -> None:
    """Write all frames as one array of one type; where the packed types of videos differ, none is packed."""
    if len({part.dtype for part in parts}) > 1:
        parts = [unpack(file.stem, part) for part in parts]
    shapes = sorted({tuple(part.shape[1:]) for part in parts})
    if len(shapes) > 1:
        raise UserError(
            f"`{file.stem}` differs in size among the videos: {shapes[0]}, {shapes[1]}. Give them one size."
        )
    rows = np.concatenate([part.numpy() for part in parts])
    write_array(file.with_suffix(CHECKSUMS), row_checksums(rows))
    write_array(file, rows)


def write_array(file: Path, array: np.ndarray) -> None:
    """Write an array as a .npy file, as a whole or not at all."""
    with atomic_file(file) as part, part.open("wb") as stream:
        np.save(stream, array)


def _write_json(file: Path, values: dict[str, Any]) -> None:
    write_file(file, json.dumps(sealed(values), indent=1))

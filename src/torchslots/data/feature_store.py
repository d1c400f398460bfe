"""Store the features of all frames of a split once, in memory-mapped arrays.

```
out/train_features/meta.json                 the backbone's digest, how frames were prepared, number of videos
out/train_features/black_features.npy        features of one black frame, for padding
out/train_features/00000/index.json          names and lengths of the videos in this shard
out/train_features/00000/features.npy        features [frames, N, C] of all their frames
out/train_features/00000/feature_keys.npy    keys, where a loss compares them
```

A shard's folder appears when all of it is on the disk. So the same command resumes after an interruption.
`sets/prepared_features.py` reads them.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from torchslots.data.clips import Clips
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.loader import eval_batches
from torchslots.data.sets.prepared import made_with, read_index, shard_folder
from torchslots.data.sets.prepared_features import KEYS, TOKENS
from torchslots.io.arrays import CHECKSUMS, row_checksums
from torchslots.io.errors import UserError
from torchslots.io.files import atomic_file, atomic_folder, check_space, locked, remove_partial, write_file
from torchslots.io.json_files import sealed
from torchslots.io.progress import progress
from torchslots.models.types import Batch

_SHARD_BYTES = 256_000_000
"""Bytes of a shard, at least one video: the most work that an interruption loses."""
_ADVICE = (
    "Free some space or choose another folder with --out. Finished shards stay: the same command goes on."
)

Encode = Callable[[Float[Tensor, "n 3 H W"]], Mapping[str, np.ndarray]]
"""Frames in [0, 1] to their arrays by key, as they are stored."""


class Layout(NamedTuple):
    """What is stored of one frame: `grid` patches of `size` channels, twice where there are keys."""

    grid: tuple[int, int]
    size: int
    keys: bool
    dtype: str = "float16"

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays."""
        return (TOKENS, KEYS) if self.keys else (TOKENS,)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return len(self.names) * math.prod(self.grid) * self.size * np.dtype(self.dtype).itemsize


class Plan(NamedTuple):
    """A split's videos in shards; `num_frames` of each video, 0: it cannot be read."""

    folder: Path
    layout: Layout
    num_frames: list[int]
    shards: list[range]

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(self.num_frames) * self.layout.frame_bytes

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards that are not written yet."""
        places = enumerate(shard_folder(self.folder, number) for number in range(len(self.shards)))
        return [number for number, place in places if not (place / "index.json").exists()]

    def frames(self, shards: Iterable[int]) -> int:
        """Frames of some shards."""
        return sum(self.num_frames[index] for shard in shards for index in self.shards[shard])


class Stored(NamedTuple):
    """Result of `store`."""

    folder: Path
    num_videos: int
    left_out: list[str]
    """Messages of corrupt records."""
    num_bytes: int


def plan(clips: Clips, folder: Path, layout: Layout) -> Plan:
    """Count the frames of all videos, and divide them into shards."""
    counts, shards, start, frames = [], [], 0, 0
    with progress("Counting frames", len(clips), "videos") as advance:
        for index in range(len(clips)):
            counts.append(_num_frames(clips, index))
            frames += counts[-1]
            advance()
            if frames * layout.frame_bytes >= _SHARD_BYTES or index == len(clips) - 1:
                shards.append(range(start, index + 1))
                start, frames = index + 1, 0
    return Plan(folder, layout, counts, shards)


def _num_frames(clips: Clips, index: int) -> int:
    try:
        return clips.num_frames(index)
    except CorruptRecord:
        return 0


def begin(plan: Plan, made: Mapping[str, Any]) -> None:
    """Check, before anything is computed, that a split's features can be written, or an earlier call be resumed.

    Raises:
        UserError: the folder holds features of another backbone or of frames prepared otherwise; too little space.
    """
    meta, wanted = plan.folder / "meta.json", _wanted(plan, made)
    if meta.exists():
        found = read_index(meta)["made_for"]
        field = next((name for name, value in wanted.items() if made_with(found, name) != value), None)
        if field is not None:
            raise UserError(
                f"{plan.folder} holds features with `{field}` = {made_with(found, field)!r}, now it is "
                f"{wanted[field]!r}. Choose another folder with --out, or remove this one."
            )
    needed = plan.frames(plan.missing) * plan.layout.frame_bytes
    check_space(plan.folder, needed, _ADVICE)


def store(
    clips: Clips,
    plan: Plan,
    made: Mapping[str, Any],
    encode: Encode,
    *,
    black: Float[Tensor, "1 3 H W"],
    frames_at_once: int = 16,
    num_workers: int = 0,
    skip_corrupt: bool = False,
) -> Stored:
    """Write the features of all videos of a split; the same call resumes after an interruption.

    Args:
        made: What they depend on, kept beside them.
        black: A black frame.
        num_workers: Processes that read frames; 0: this one.
        skip_corrupt: Leave out records that cannot be read; otherwise the first one raises.

    Raises:
        UserError: as `begin`; another process writes there; data cannot be read; the disk is full.
    """
    busy = f"Another process is storing features in {plan.folder}. Wait for it, or choose another folder."
    with locked(plan.folder / ".lock", busy, advice=_ADVICE):
        begin(plan, made)
        remove_partial(plan.folder)
        meta, wanted = plan.folder / "meta.json", _wanted(plan, made)
        if not meta.exists():
            _write_json(meta, {"made_for": wanted, "complete": False})
        for name, array in encode(black).items():
            _save(plan.folder / f"black_{name}.npy", array)
        with progress("Storing features", sum(plan.num_frames), "frames") as advance:
            missing = plan.missing
            advance(sum(plan.num_frames) - plan.frames(missing))
            videos = _Numbered(
                clips, [index for shard in missing for index in plan.shards[shard]], skip_corrupt
            )
            batches = eval_batches(videos, batch_size=1, num_workers=num_workers) if missing else iter(())
            for number in missing:
                _write_shard(
                    plan, number, islice(batches, len(plan.shards[number])), encode, frames_at_once, advance
                )
        return _end(plan, wanted)


def _wanted(plan: Plan, made: Mapping[str, Any]) -> dict[str, Any]:
    layout = plan.layout
    sizes = {"grid": list(layout.grid), "size": layout.size, "keys": layout.keys, "type": layout.dtype}
    return {**made, **sizes, "num_examples": len(plan.num_frames), "num_frames": sum(plan.num_frames)}


class _Numbered:
    """Some whole videos of a data set; one that is left out is its message alone."""

    def __init__(self, clips: Clips, indices: Sequence[int], skip_corrupt: bool) -> None:
        self.clips, self.indices, self.skip_corrupt = clips, indices, skip_corrupt

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.clips.name(self.indices[index])

    def sample(self, index: int, rng: np.random.Generator | None) -> Batch:
        try:
            return self.clips.sample(self.indices[index], None)
        except CorruptRecord as error:
            if not self.skip_corrupt:
                raise
            return {"left_out": str(error)}


def _write_shard(
    plan: Plan,
    number: int,
    batches: Iterator[Batch],
    encode: Encode,
    frames_at_once: int,
    advance: Callable[..., None],
) -> None:
    """Encode and write videos, in a folder that appears when all of them are on the disk."""
    names, shapes, left_out = [], [], []
    sums: dict[str, list[int]] = {name: [] for name in plan.layout.names}
    with atomic_folder(shard_folder(plan.folder, number), advice=_ADVICE) as folder:
        with ExitStack() as stack:
            files = {
                name: stack.enter_context((folder / f"{name}.npy").open("w+b")) for name in plan.layout.names
            }
            for file in files.values():
                _write_header(file, plan.layout, 0)
            for batch in batches:
                if "left_out" in batch:
                    left_out += batch["left_out"]
                    continue
                video, name = batch["video"][0], batch["name"][0]
                for frames in video.split(frames_at_once):
                    for key, rows in _append(files, encode(frames), plan.layout, name).items():
                        sums[key].extend(rows)
                    advance(len(frames))
                names.append(name)
                shapes.append((len(video), *plan.layout.grid))
            for file in files.values():
                _write_header(file, plan.layout, sum(shape[0] for shape in shapes))
        index = {"names": names, "shapes": shapes, "left_out": left_out, "checksums": True}
        for name, rows in sums.items():
            with (folder / name).with_suffix(CHECKSUMS).open("wb") as stream:
                np.save(stream, np.array(rows, np.uint32))
        (folder / "index.json").write_text(json.dumps(sealed(index), indent=1))


def _write_header(file: BinaryIO, layout: Layout, num_frames: int) -> None:
    """The header of an array of `num_frames` rows; it has the same length for any number of them."""
    file.seek(0)
    shape = (num_frames, math.prod(layout.grid), layout.size)
    header = {"descr": np.dtype(layout.dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _append(
    files: Mapping[str, BinaryIO], arrays: Mapping[str, np.ndarray], layout: Layout, name: str
) -> dict[str, list[int]]:
    """Write the features of some frames; returns the checksums of the rows.

    Raises:
        UserError: frames of another size, or values beyond the range of the stored type.
    """
    sums: dict[str, list[int]] = {}
    for key, file in files.items():
        array, row = arrays[key], (math.prod(layout.grid), layout.size)
        if array.shape[1:] != row:
            raise UserError(
                f"The frames of {name} give {array.shape[1]} patches, the recipe's {row[0]}: they are not "
                f"{layout.grid[0]} x {layout.grid[1]}. Give all frames one size with --config.square or a crop."
            )
        if not np.isfinite(array).all():
            raise UserError(
                f"Features of {name} are not finite in {layout.dtype}. Store them with --feature-type float32; if that "
                "does not help, the backbone's weights are broken."
            )
        rows = np.ascontiguousarray(array, layout.dtype)
        sums[key] = row_checksums(rows).tolist()
        file.write(rows.data)
    return sums


def _end(plan: Plan, made: dict[str, Any]) -> Stored:
    entries = [
        read_index(shard_folder(plan.folder, shard) / "index.json") for shard in range(len(plan.shards))
    ]
    left_out = [message for entry in entries for message in entry["left_out"]]
    counts = [len(entry["names"]) for entry in entries]
    _write_json(plan.folder / "meta.json", {"made_for": made, "complete": True, "videos_in_shards": counts})
    num_bytes = sum(file.stat().st_size for file in plan.folder.glob("*/*.npy"))
    return Stored(plan.folder, sum(counts), left_out, num_bytes)


def _save(file: Path, array: np.ndarray) -> None:
    with atomic_file(file, advice=_ADVICE) as part, part.open("wb") as stream:
        np.save(stream, array)


def _write_json(file: Path, values: dict[str, Any]) -> None:
    write_file(file, json.dumps(sealed(values), indent=1), advice=_ADVICE)

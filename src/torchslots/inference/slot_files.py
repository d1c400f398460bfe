"""Write the slots of all videos of a data set to files, to train other models on them.

A folder holds `slots_00000.npz` and so on, each with the slots of `shard_size` videos, and slots.json, which says what
they are of. Of each file:

| array | shape | what |
|---|---|---|
| `slots` | [N, K, D] | float32, the frames of all its videos one after the other |
| `video` | [N] | index of the frame's video in the data set |
| `frame` | [N] | index of the frame in its video |
| `id` | [N] | name of the frame's video, as `open_dataset(...)[i]["name"]` has it |
| `position`, `scale`, `rotation` | [N, K, ...] | poses of slots, where the model has them |

Parquet files have a row for each slot of each frame: `id`, `video`, `frame`, `slot`, `values`, and
`position`, `scale`, `rotation` (row by row).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from torchslots._version import __version__
from torchslots.data.batch import ClipDataset
from torchslots.data.config import DataConfig
from torchslots.inference.encode import EncodedVideo, encoded_videos
from torchslots.inference.finished import model_key
from torchslots.inference.formats import parquet_rows, require_parquet
from torchslots.io.errors import UserError
from torchslots.io.files import atomic_file, locked, write_file
from torchslots.io.json_files import read_object
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Pose
from torchslots.recipes.config import EvalConfig

ABOUT = "slots.json"
Format = Literal["npz", "parquet"]


@dataclass(frozen=True)
class SlotFileOptions:
    """The files."""

    format: Format = "npz"
    """npz: arrays for numpy; parquet: a table, which needs pyarrow."""
    shard_size: int = 256
    """Videos in each file."""

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise UserError(
                f"There is no format `{self.format}`. Choose from: {', '.join(get_args(Format))}."
            )
        if self.shard_size < 1:
            raise UserError(f"shard_size should be at least 1, got {self.shard_size}.")
        if self.format == "parquet":
            require_parquet()


def write_slots(
    model: ObjectCentricModel,
    dataset: ClipDataset,
    out: Path | str,
    *,
    data: DataConfig,
    settings: EvalConfig,
    options: SlotFileOptions = SlotFileOptions(),
    device: torch.device | str = "cpu",
    num_workers: int = 0,
) -> list[Path]:
    """Run a data set through a model and write its slots; the same call resumes.

    Args:
        dataset: as `evaluation.videos.whole_videos` opens it.
        out: folder of the files.
        data: what the data set was opened with.
        settings: its split and length of slices, as it was opened.

    Returns:
        All files, those of an earlier call too.

    Raises:
        UserError: the folder holds the slots of another model, of other data or settings, or cannot be written; no
            videos, or damaged data.
    """
    out, total = Path(out), min(len(dataset), settings.num_videos or len(dataset))
    about = {
        "torchslots": __version__,
        "model": model_key(model, model.config),
        "data": asdict(data),
        "settings": asdict(settings),
        "files": asdict(options),
        "num_videos": total,
    }
    files = [
        out / f"slots_{number:05d}.{options.format}" for number in range(-(-total // options.shard_size))
    ]
    with locked(
        out / ".lock", f"Another process writes slots to {out}. Wait for it, or choose another folder."
    ):
        _claim(out, json.loads(json.dumps(about)))
        done = next((number for number, file in enumerate(files) if not file.is_file()), len(files))
        if done == len(files):
            return files
        first = done * options.shard_size
        found = encoded_videos(
            model,
            _From(dataset, first, total),
            settings,
            lambda _: False,
            device=device,
            num_workers=num_workers,
        )
        for number, file in enumerate(files[done:], done):
            size = min(options.shard_size, total - number * options.shard_size)
            videos = [_numbered(video, first) for video in islice(found, size)]
            with atomic_file(file) as part:
                _WRITERS[options.format](part, videos)
    return files


def _claim(out: Path, about: dict[str, Any]) -> None:
    """Write what the folder is of, or check that it is of the same.

    Raises:
        UserError: it is of something else.
    """
    file = out / ABOUT
    if file.is_file():
        found = read_object(file, "Choose another folder.")
        other = [name for name in about if name != "torchslots" and found.get(name) != about[name]]
        if other:
            raise UserError(
                f"{out} holds slots of something else: {', '.join(other)} differ. Choose another folder, or remove it."
            )
        return
    write_file(file, json.dumps(about, indent=2))


class _From:
    """The videos of a data set from one on."""

    def __init__(self, dataset: ClipDataset, first: int, end: int):
        self.dataset, self.first, self.end = dataset, first, end

    def __len__(self) -> int:
        return self.end - self.first

    def sample(self, index: int, rng: np.random.Generator | None) -> Any:
        return self.dataset.sample(self.first + index, rng)

    def name(self, index: int) -> str:
        return self.dataset.name(self.first + index)


def _numbered(video: EncodedVideo, first: int) -> EncodedVideo:
    return video._replace(number=video.number + first)


def _frames(video: EncodedVideo) -> dict[str, np.ndarray]:
    slots, pose = video.clip.slots[0].float().numpy(), video.clip.pose
    length = len(slots)
    found = {
        "slots": slots,
        "video": np.full(length, video.number),
        "frame": np.arange(length),
        "id": np.full(length, video.name),
    }
    parts = {} if pose is None else pose._asdict()
    return found | {name: part[0].float().numpy() for name, part in parts.items() if part is not None}


def _write_npz(file: Path, videos: Sequence[EncodedVideo]) -> None:
    each = [_frames(video) for video in videos]
    arrays: dict[str, Any] = {key: np.concatenate([part[key] for part in each]) for key in each[0]}
    with file.open("wb") as out:
        np.savez(out, **arrays)


def _write_parquet(file: Path, videos: Sequence[EncodedVideo]) -> None:
    with parquet_rows(file) as put:
        for video in videos:
            put(list(_rows(video)))


def _rows(video: EncodedVideo) -> Iterator[dict[str, Any]]:
    arrays = _frames(video)
    slots, poses = arrays["slots"], {key: arrays[key] for key in Pose._fields if key in arrays}
    for frame, slot in np.ndindex(*slots.shape[:2]):
        where = {"id": video.name, "video": video.number, "frame": frame, "slot": slot}
        pose = {key: values[frame, slot].ravel() for key, values in poses.items()}
        yield where | {"values": slots[frame, slot]} | pose


_WRITERS: dict[str, Callable[[Path, Sequence[EncodedVideo]], None]] = {
    "npz": _write_npz,
    "parquet": _write_parquet,
}

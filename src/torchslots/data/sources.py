"""The kinds of data sets on disk, told apart by their files, and what `torchslots data inspect` asks of each.

There are record files as TFDS writes them (MOVi, and what is generated here), folders of pictures and videos, and
what `torchslots data prepare` wrote.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt8
from numpy import ndarray

from torchslots.data.catalog import DATASETS, entry, open_dataset
from torchslots.data.config import DataConfig
from torchslots.data.folder import FolderClips, existing_splits, read_masks
from torchslots.data.movi import MoviReader
from torchslots.data.multi_object import LAYOUTS, Layout
from torchslots.data.prepare import PreparedClips
from torchslots.data.steve_movi import LAYOUTS as FRAME_LAYOUTS
from torchslots.data.steve_movi import FrameFolders, find_base, recognise
from torchslots.data.stills import Stills
from torchslots.data.tfds import TfdsSplit, find_folder
from torchslots.errors import UserError
from torchslots.video import frame_count, iter_frames

_SHARDS = re.compile(r"(.+)-[^-]+\.tfrecord(-\d{5,}-of-\d{5,})?")


class Drawable(NamedTuple):
    """A few frames of one video, with the ids of its objects where they are known."""

    name: str
    frames: UInt8[ndarray, "T H W 3"]
    ids: Integer[ndarray, "T H W"] | None


@runtime_checkable
class Source(Protocol):
    """One kind of data set on disk."""

    kind: str
    place: Path

    def splits(self) -> Sequence[str]:
        """Names of the splits that are there."""
        ...

    def count(self, split: str) -> tuple[str, int]:
        """Files in words, and the number of examples."""
        ...

    def example(self, split: str, index: int) -> dict[str, Any]:
        """Everything that one example holds, as arrays and single values."""
        ...

    def drawable(self, split: str, index: int) -> Drawable:
        """An example's frames and masks."""
        ...

    def num_objects(self, split: str, index: int) -> int | None:
        """Objects in an example; None where nothing tells."""
        ...

    def check(self, split: str, index: int) -> None:
        """Read an example to its last byte. Raises CorruptRecord."""
        ...


def find_source(source: str, root: Path | None) -> Source:
    """The kind of data set that a name or a folder stands for.

    Raises:
        UserError: neither a known name nor a folder, or a folder with several data sets.
    """
    place = Path(source)
    if source in DATASETS and not (root is None and place.is_dir()):
        place = root or Path("data")
        if source in FRAME_LAYOUTS:
            return Frames(place, source)
        if source not in ("folder", "prepared"):
            return _published(place, source)
    elif not place.is_dir():
        raise _no_source(source)
    names = sorted({match[1] for file in _record_files(place) if (match := _SHARDS.fullmatch(file.name))})
    if len(names) > 1:
        raise UserError(
            f"{place} holds several data sets: {', '.join(names)}. Give one of these names with --root."
        )
    names += [name for name, layout in LAYOUTS.items() if _holds(place, layout)]
    if names:
        return _published(place, names[0])
    if frames := recognise(place):
        return Frames(place, frames)
    return PreparedArrays(place) if any(place.glob("*/meta.json")) else Clips(place)


def _published(place: Path, name: str) -> "Records | Pictures":
    """A published or generated set: of videos, or of single pictures."""
    if name in DATASETS and not name.startswith(("movi_", "sim_")):
        return Pictures(place, name)
    return Pictures(place, "multi_dsprites") if name.endswith("_on_grayscale") else Records(place, name)


def _holds(place: Path, layout: Layout) -> bool:
    """Whether a file of one of Multi-Object Datasets lies in a folder."""
    return any((place / part.file).is_file() for part in layout.splits.values())


def _no_source(source: str) -> UserError:
    """Why a source is none."""
    try:
        entry(source)
    except UserError as error:
        return UserError(f"{source} is no folder. {error}")
    return UserError(f"{source} is no folder.")


def _record_files(place: Path) -> Iterator[Path]:
    for depth in ("", "*/", "*/*/", "*/*/*/"):
        yield from place.glob(f"{depth}*.tfrecord*")


class Records:
    """TFRecord files in TFDS' folders."""

    def __init__(self, root: Path, name: str) -> None:
        self.folder = find_folder(root, name)
        self.kind, self.place = f"TFRecord files of {name}", self.folder.path
        self._readers: dict[str, MoviReader] = {}

    def splits(self) -> Sequence[str]:
        return self.folder.splits

    def count(self, split: str) -> tuple[str, int]:
        records = TfdsSplit(self.folder, split)
        size = sum(file.path.stat().st_size for file in records.files)
        return f"{len(records.files)} files of {size / 1e6:,.1f} MB", len(records)

    def _reader(self, split: str) -> MoviReader:
        if split not in self._readers:
            self._readers[split] = MoviReader(self.folder.path, self.folder.name, split)
        return self._readers[split]

    def example(self, split: str, index: int) -> dict[str, Any]:
        values = {}
        for name, value in self._reader(split).example(index).items():
            if isinstance(value, tuple):  # ragged: all values in a row, and how many belong to each object
                values[f"{name} (of {len(value[1])} objects)"] = value[0]
            else:
                values[name] = value
        return values

    def drawable(self, split: str, index: int) -> Drawable:
        record = self._reader(split).record(index, ("video", "segmentations"))
        ids = record.feature("segmentations")[..., 0] if record.has("segmentations") else None
        return Drawable(f"{split} {index}", record.feature("video"), ids)

    def num_objects(self, split: str, index: int) -> int | None:
        return self._reader(split).record(index, ()).shape().num_instances

    def check(self, split: str, index: int) -> None:
        record = self._reader(split).record(index)
        for name in record.names:
            record.feature(name)


class Pictures:
    """A set of single pictures, whatever files it lies in."""

    def __init__(self, root: Path, name: str) -> None:
        self.kind, self.place, self._name = f"pictures of {name}", root, name
        self._stills: dict[str, Stills] = {}

    def splits(self) -> Sequence[str]:
        """The splits that are not made of others."""
        return [split for split in entry(self._name).splits if split != "all" and not split.endswith("_full")]

    def _open(self, split: str) -> Stills:
        """With all keys that the set has."""
        if split not in self._stills:
            config = DataConfig(dataset=self._name, keys=("video",), num_frames=1, max_instances=255)
            found = cast(Stills, open_dataset(self._name, self.place, split, config, False))
            self._stills[split] = Stills(found.source, split, replace(config, keys=found.source.keys), False)
        return self._stills[split]

    def count(self, split: str) -> tuple[str, int]:
        return "single pictures", len(self._open(split))

    def example(self, split: str, index: int) -> dict[str, Any]:
        found = self._open(split)
        return {"name": found.name(index), **found.stored(index)}

    def drawable(self, split: str, index: int) -> Drawable:
        found = self._open(split).source.picture(index, ("video", "segmentations"))
        return Drawable(f"{split} {index}", found.image[None], None if found.ids is None else found.ids[None])

    def num_objects(self, split: str, index: int) -> int | None:
        return self._open(split).source.num_objects(index)

    def check(self, split: str, index: int) -> None:
        self._open(split).stored(index)


class Frames:
    """Videos as folders of numbered pictures, in the manner of MOVi-Solid."""

    def __init__(self, root: Path, name: str) -> None:
        self._name, self.place = name, find_base(root, name)
        self.kind = f"folders of frames of {FRAME_LAYOUTS[name].title}"
        self._found: dict[str, FrameFolders] = {}

    def splits(self) -> Sequence[str]:
        folders = FRAME_LAYOUTS[self._name].splits
        return [split for split, folder in folders.items() if (self.place / folder).is_dir()]

    def _open(self, split: str) -> FrameFolders:
        """With masks where there are any."""
        if split not in self._found:
            config = DataConfig(dataset=self._name, keys=("video",), max_instances=255)
            found = FrameFolders(self.place, self._name, split, config, train=False)
            if found.has_masks:
                found.config = replace(config, keys=("video", "segmentations", "boxes"))
            self._found[split] = found
        return self._found[split]

    def count(self, split: str) -> tuple[str, int]:
        found = self._open(split)
        return f"folders of frames {'with' if found.has_masks else 'without'} masks", len(found)

    def example(self, split: str, index: int) -> dict[str, Any]:
        return {"name": self._open(split).name(index), **self._open(split).stored(index)}

    def drawable(self, split: str, index: int) -> Drawable:
        sample = self._open(split).stored(index)
        ids = sample.get("segmentations")
        frames = sample["video"].permute(0, 2, 3, 1).numpy()
        return Drawable(f"{split} {index}", frames, None if ids is None else ids.numpy())

    def num_objects(self, split: str, index: int) -> int | None:
        ids = self.drawable(split, index).ids
        return None if ids is None else len(np.unique(ids[ids > 0]))

    def check(self, split: str, index: int) -> None:
        self._open(split).check(index)


class Clips:
    """A folder of pictures and videos."""

    def __init__(self, root: Path) -> None:
        self.kind, self.place = "pictures and videos", root
        self._clips: dict[str, FolderClips] = {}

    def splits(self) -> Sequence[str]:
        return existing_splits(self.place) or ("all",)

    def _open(self, split: str) -> FolderClips:
        if split not in self._clips:
            self._clips[split] = FolderClips(self.place, split, DataConfig(max_instances=255), train=False)
        return self._clips[split]

    def count(self, split: str) -> tuple[str, int]:
        clips = self._open(split)
        with_masks = sum(masks is not None for masks in clips.masks.values())
        return f"{len(clips)} clips, {with_masks} with masks", len(clips)

    def example(self, split: str, index: int) -> dict[str, Any]:
        name, frames, ids = self.drawable(split, index)
        values = {"name": name, "num_frames": frame_count(self._open(split).clips[index])}
        return {**values, "video": frames, **({} if ids is None else {"segmentations": ids})}

    def drawable(self, split: str, index: int) -> Drawable:
        clips = self._open(split)
        clip = clips.clips[index]
        frames = next(iter_frames(clip, 24))
        masks = clips.masks[clip]
        ids = None if masks is None else read_masks(masks, frame_count(clip), 0, len(frames)).numpy()
        return Drawable(clips.name(index), frames, ids)

    def num_objects(self, split: str, index: int) -> int | None:
        ids = self.drawable(split, index).ids
        return None if ids is None else len(np.unique(ids[ids > 0]))

    def check(self, split: str, index: int) -> None:
        self._open(split).check(index)


class PreparedArrays:
    """What `torchslots data prepare` wrote."""

    def __init__(self, root: Path) -> None:
        self.kind, self.place = "prepared arrays", root

    def splits(self) -> Sequence[str]:
        return sorted(file.parent.name for file in self.place.glob("*/meta.json"))

    def _open(self, split: str) -> PreparedClips:
        return PreparedClips(self.place, split, _made_for(self.place / split), train=True)

    def count(self, split: str) -> tuple[str, int]:
        files = list((self.place / split).glob("*/*.npy"))
        size = sum(file.stat().st_size for file in files)
        return f"{len(files)} arrays of {size / 1e6:,.1f} MB", len(self._open(split))

    def example(self, split: str, index: int) -> dict[str, Any]:
        return dict(self._open(split).sample(index, None))

    def drawable(self, split: str, index: int) -> Drawable:
        sample = self._open(split).sample(index, None)
        frames = (sample["video"].permute(0, 2, 3, 1) * 255).round().byte().numpy()
        ids = sample.get("segmentations")
        return Drawable(sample["name"], frames, None if ids is None else ids.numpy())

    def num_objects(self, split: str, index: int) -> int | None:
        ids = self.drawable(split, index).ids
        return None if ids is None else len(np.unique(ids[ids > 0]))

    def check(self, split: str, index: int) -> None:
        self._open(split).sample(index, None)


def _made_for(folder: Path) -> DataConfig:
    """The data settings that arrays were prepared for, as far as the files tell.

    Raises:
        UserError: meta.json cannot be read.
    """
    try:
        made = json.loads((folder / "meta.json").read_text())["made_for"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'meta.json'} cannot be read ({error}). Prepare the data again."
        ) from error
    given = {
        key: made[key] for key in ("dataset", "max_instances", "resolution", "depth_transform") if key in made
    }
    keys = tuple(key for key in made.get("keys", ()) if any(folder.glob(f"*/{key}.npy")))
    covered = 0.08 if made.get("random_crop") else None
    return DataConfig(keys=keys, min_object_covered=covered, **given)

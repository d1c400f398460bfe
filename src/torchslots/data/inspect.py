"""`torchslots data inspect`: what a data set on disk holds, a picture of it, and which of its records are corrupt.

It asks `data/inspect.py`, which knows the kinds of data sets, and prints, draws and counts.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt8
from numpy import ndarray
from PIL import Image

from torchslots.data.catalog import DATASETS, entry, open_dataset
from torchslots.data.clips import Stills
from torchslots.data.config import DataConfig
from torchslots.data.formats.tfds import TfdsSplit, find_folder
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.sets.frame_folders import LAYOUTS as FRAME_LAYOUTS
from torchslots.data.sets.frame_folders import FrameFolders, find_base, recognise
from torchslots.data.sets.movi import MoviReader
from torchslots.data.sets.multi_object import LAYOUTS, Layout
from torchslots.data.sets.own_files import FolderClips, existing_splits, read_masks
from torchslots.data.sets.prepared import PreparedClips
from torchslots.io.draw import colorize, contact_sheet
from torchslots.io.errors import UserError
from torchslots.io.progress import progress
from torchslots.io.video import frame_count, iter_frames, write_png

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


_DRAWN_VIDEOS, _DRAWN_FRAMES, _TILE = 6, 6, 160
_COUNTED_VIDEOS = 200


@dataclass
class Survey:
    """What was found; `corrupt` is empty also where nothing was checked."""

    kind: str
    place: Path
    splits: dict[str, str] = field(default_factory=dict)
    """Files and examples of each split, or why it cannot be read."""
    features: dict[str, str] = field(default_factory=dict)
    """Kind, shape and dtype by the first example."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Single values of the first example."""
    objects: Counter[int] = field(default_factory=Counter)
    """Number of videos by how many objects they hold."""
    sheet: Path | None = None
    num_checked: int = 0
    corrupt: list[CorruptRecord] = field(default_factory=list)


def data_inspect(
    source: str,
    /,
    *,
    root: Path = Path("data"),
    split: str | None = None,
    out: Path | None = None,
    check: bool = False,
) -> None:
    """Show what a data set on disk holds: splits, counts, features, objects, and a sheet of pictures.

    Args:
        source: Name in `torchslots data list`, or a folder.
        root: Where the data sets lie, when `source` is a name.
        split: Only this split; None: all of them.
        out: PNG file for a contact sheet of videos and masks; None: inspect_<name>.png here.
        check: Read every record, list those that are corrupt, and end with exit code 2 if there are any.
    """
    sheet = out or Path(f"inspect_{Path(source).resolve().name if source not in DATASETS else source}.png")
    survey = inspect_dataset(source, root=root, split=split, out=sheet, check=check)
    print_survey(survey)
    if survey.corrupt:
        raise UserError(
            f"{len(survey.corrupt)} of {survey.num_checked} examples of {survey.place} are corrupt; they are listed "
            "above. Get these files again, or train with --skip-corrupt."
        )


def inspect_dataset(
    source: str,
    *,
    root: Path | None = None,
    split: str | None = None,
    out: Path | None = None,
    check: bool = False,
) -> Survey:
    """Look through a data set.

    Args:
        source: name of a data set below `root`, or a folder.
        split: only this one; None: all.
        out: where the contact sheet goes, a PNG; None: no sheet.
        check: read every record.

    Raises:
        UserError: nothing is there, no such split, or not one readable example.
    """
    found = find_source(source, root)
    survey, counts = Survey(found.kind, found.place), {}
    for name in _wanted(found, split):
        try:
            files, counts[name] = found.count(name)
            survey.splits[name] = f"{files}, {counts[name]:,} examples"
        except UserError as error:
            survey.splits[name] = f"cannot be read: {error}"
    examples = [(name, index) for name, count in counts.items() for index in range(count)]
    if not examples:
        raise UserError(f"{found.place}: no split can be read. " + " ".join(survey.splits.values()))
    if check:
        survey.num_checked, survey.corrupt = len(examples), list(_corrupt(found, examples))
    sound = _evenly(examples, _COUNTED_VIDEOS)
    _describe(survey, found, sound)
    if out is not None:
        drawn = list(_readable(found.drawable, _evenly(examples, _DRAWN_VIDEOS)))
        write_png(out, _sheet(drawn))
        survey.sheet = out
    return survey


def print_survey(survey: Survey) -> None:
    """Tables on standard output."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    console.print(f"[bold]{escape(str(survey.place))}[/bold]  ({survey.kind})")
    for title, rows in (("Split", survey.splits), ("Feature", survey.features), ("Value", survey.metadata)):
        table = Table(title, "", show_edge=False, box=None)
        for name, value in rows.items():
            table.add_row(escape(name), escape(value))
        if rows:
            console.print(table)
    if survey.objects:
        held = list(survey.objects.elements())
        console.print(f"Objects in a video: {min(held)} to {max(held)}, mean {np.mean(held):.1f}")
        console.print("  " + "  ".join(f"{n}: {count}" for n, count in sorted(survey.objects.items())))
    if survey.num_checked:
        console.print(f"Checked {survey.num_checked:,} examples: {len(survey.corrupt)} corrupt")
    for error in survey.corrupt:
        console.print(escape(f"  {error.file}  record {error.record}: {error.reason}"), soft_wrap=True)
    if survey.sheet:
        console.print(escape(f"Contact sheet: {survey.sheet}"), soft_wrap=True)


def _wanted(found: Source, split: str | None) -> Sequence[str]:
    splits = found.splits()
    if split is not None and split not in splits:
        raise UserError(f"{found.place} has no split `{split}`. It has: {', '.join(splits) or 'none'}.")
    return splits if split is None else [split]


def _evenly(examples: list[tuple[str, int]], most: int) -> list[tuple[str, int]]:
    """At most so many, spread over all."""
    if len(examples) <= most:
        return examples
    return [examples[i] for i in np.linspace(0, len(examples) - 1, most).round().astype(int)]


def _readable(read: Callable[[str, int], Any], examples: list[tuple[str, int]]) -> Iterator[Any]:
    """What can be read of some examples; at least one.

    Raises:
        UserError: none of them can be read; says why the last could not.
    """
    num_read, last = 0, None
    for split, index in examples:
        try:
            value = read(split, index)
        except UserError as error:
            last = error
            continue
        num_read += 1
        yield value
    if last is not None and not num_read:
        raise last


def _describe(survey: Survey, found: Source, examples: list[tuple[str, int]]) -> None:
    first = next(_readable(found.example, examples))
    for name, value in first.items():
        array = np.asarray(value)
        if array.ndim:
            kind = "text" if array.dtype.kind in "OSU" else str(array.dtype)
            survey.features[name] = f"{kind} {list(array.shape)}"
        else:
            survey.metadata[name] = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    counts = _readable(found.num_objects, examples)
    survey.objects = Counter(count for count in counts if count is not None)


def _corrupt(found: Source, examples: list[tuple[str, int]]) -> Iterator[CorruptRecord]:
    with progress("Checking", len(examples), "examples") as advance:
        for split, index in examples:
            try:
                found.check(split, index)
            except CorruptRecord as error:
                yield error
            advance(1)


def _sheet(videos: list[Drawable]) -> UInt8[ndarray, "H W 3"]:
    """For each video one row of frames and, where there are masks, one of coloured ids; pictures side by side."""
    pictures, labels = [], []
    columns = 1 if all(len(video.frames) == 1 for video in videos) else _DRAWN_FRAMES
    size = _tile_size(videos[0])
    for video in videos:
        times = np.linspace(0, len(video.frames) - 1, columns).round().astype(int)
        pictures += [_tile(video.frames[t], size, Image.Resampling.BOX) for t in times]
        labels += [Path(video.name).stem[-20:], *[""] * (columns - 1)]
        if video.ids is not None:
            pictures += [_tile(colorize(video.ids[t]), size, Image.Resampling.NEAREST) for t in times]
            labels += [f"{len(np.unique(video.ids[video.ids > 0]))} objects", *[""] * (columns - 1)]
    return contact_sheet(pictures, labels, columns=_DRAWN_FRAMES)


def _tile_size(video: Drawable) -> tuple[int, int]:
    """Width and height of every tile: the first video's, the longer side at most 160."""
    height, width = video.frames.shape[1:3]
    scale = min(1.0, _TILE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _tile(
    picture: UInt8[ndarray, "H W 3"], size: tuple[int, int], how: Image.Resampling
) -> UInt8[ndarray, "h w 3"]:
    return np.array(Image.fromarray(picture).resize(size, how))

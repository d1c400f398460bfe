"""`torchslots data inspect`: contents of a data set on disk, a sheet of its frames, its corrupt records.

It reads the `Source` of each split, as training does, so it works for every row of the catalog.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Integer, UInt8
from numpy import ndarray
from PIL import Image

from torchslots.data import catalog
from torchslots.data.catalog import DatasetEntry, open_source
from torchslots.data.clips import Source
from torchslots.data.config import DataConfig
from torchslots.data.find import check_split
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.sets.own_files import UnknownKind
from torchslots.data.sets.recognise import recognise
from torchslots.io.counts import count_text
from torchslots.io.draw import colorize, contact_sheet
from torchslots.io.errors import UserError, nearest
from torchslots.io.progress import progress
from torchslots.io.video import write_png

Read = TypeVar("Read")
_NOTHING_ASKED = DataConfig(keys=(), resolution=1, num_frames=1, max_instances=255)
_SHEET_VIDEOS, _SHEET_FRAMES, _TILE = 6, 6, 160
_COUNTED_VIDEOS = 200
_FRAMES_AT_ONCE = 24


@dataclass
class Survey:
    """What a data set holds."""

    dataset: str
    place: Path
    notes: list[str] = field(default_factory=list)
    """What training uses of the folder, what not and why."""
    splits: dict[str, str] = field(default_factory=dict)
    """Files and number of examples of each split, or why it cannot be read."""
    features: dict[str, str] = field(default_factory=dict)
    """Dtype and shape of each array of the first example."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Single values of the first example."""
    objects: Counter[int] = field(default_factory=Counter)
    """Number of videos for each number of objects."""
    sheet: Path | None = None
    num_checked: int = 0
    """Examples that were read to their end; 0: records were not checked."""
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
    """Show the contents of a data set on disk: splits, counts, features, objects, and a sheet of frames.

    Args:
        source: Name in `torchslots data list`, or a folder.
        root: Folder of the data sets, when `source` is a name.
        split: Only this split; None: all of them.
        out: PNG file for a contact sheet of videos and masks; None: inspect_<name>.png here.
        check: Read every record and list the corrupt ones; exit code 2 if there are any.

    Raises:
        UserError: as `inspect_dataset`, or `check` finds corrupt records.
    """
    sheet = out or Path(
        f"inspect_{Path(source).resolve().name if source not in catalog.datasets() else source}.png"
    )
    survey = inspect_dataset(source, root=root, split=split, out=sheet, check=check)
    print_survey(survey)
    if survey.corrupt:
        raise UserError(
            f"{len(survey.corrupt)} of {count_text(survey.num_checked, 'example')} of {survey.place} are corrupt; "
            "they are listed "
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
    """Collect what a data set holds.

    Args:
        source: name of a data set below `root` (None: `data`), or a folder.
        split: only this one; None: all.
        out: PNG file for the contact sheet; None: no sheet.
        check: read every record.

    Raises:
        UserError: no data set there, no such split, or no example can be read.
    """
    name, place = find_dataset(source, root)
    explain = _row(name).explain
    survey, found = Survey(name, place, explain(place) if explain else []), {}
    for wanted in _wanted(name, place, split):
        try:
            found[wanted] = _open(name, place, wanted)
            survey.splits[wanted] = f"{found[wanted].files}, {count_text(len(found[wanted]), 'example')}"
        except UnknownKind as error:
            survey.splits[wanted] = (
                "not read beside files of unknown kind" if survey.notes else f"cannot be read: {error}"
            )
        except UserError as error:
            survey.splits[wanted] = f"cannot be read: {error}"
    places = [_Place(source, index) for source in found.values() for index in range(len(source))]
    if not places and survey.notes:
        return survey
    if not places:
        raise UserError(f"{place}: no split can be read. " + " ".join(survey.splits.values()))
    if check:
        survey.num_checked, survey.corrupt = len(places), list(_corrupt(places))
    _describe(survey, _evenly(places, _COUNTED_VIDEOS))
    shown = [place for place in places if _has_frames(place)]
    if out is not None and shown:
        write_png(out, _sheet(list(_readable(_seen, _evenly(shown, _SHEET_VIDEOS)))))
        survey.sheet = out
    return survey


def find_dataset(source: str, root: Path | None) -> tuple[str, Path]:
    """Name and folder of the data set that `source`, a name or a folder, stands for.

    Raises:
        UserError: neither a known name nor a folder, or several data sets in it.
    """
    place = Path(source)
    if source in catalog.datasets() and not (root is None and place.is_dir()):
        return source, root or Path("data")
    if not place.is_dir():
        near = nearest(source, catalog.datasets())
        raise UserError(f"{source} is no folder, and there is no data set `{source}`. {near}")
    return recognise(place), place


def print_survey(survey: Survey) -> None:
    """Print a survey as tables."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    console.print(f"[bold]{escape(str(survey.place))}[/bold]  ({survey.dataset})")
    for line in survey.notes:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
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
        console.print(f"Checked {count_text(survey.num_checked, 'example')}: {len(survey.corrupt)} corrupt")
    for error in survey.corrupt:
        console.print(escape(f"  {error.file}  record {error.record}: {error.reason}"), soft_wrap=True)
    if survey.sheet:
        console.print(escape(f"Contact sheet: {survey.sheet}"), soft_wrap=True)


def _wanted(name: str, place: Path, split: str | None) -> Sequence[str]:
    row = _row(name)
    own = [split for split in row.splits if split != "all" and not split.endswith("_full")]
    splits = own if row.find_splits is None else row.find_splits(place, name)
    if split is None:
        return splits
    check_split(place, split, splits)
    return [split]


def _open(name: str, place: Path, split: str) -> Source:
    return open_source(name, _row(name), place, split, replace(_NOTHING_ASKED, dataset=name))


def _row(name: str) -> DatasetEntry:
    """The catalog's row; records of an unknown name are read as MOVi's."""
    return catalog.datasets().get(name, catalog.DATASETS["movi_a"])


class _Place(NamedTuple):
    """One example of a split."""

    source: Source
    index: int


class _Seen(NamedTuple):
    """Some frames of one example, and its object ids where there are any."""

    name: str
    frames: UInt8[ndarray, "T H W 3"]
    ids: Integer[ndarray, "T H W"] | None


def _stored(place: _Place) -> Mapping[str, Any]:
    """All arrays of an example, of its first frames only."""
    example = place.source.open(place.index, None)
    words = {"name": place.source.name(place.index), "num_frames": example.num_frames}
    return words | dict(example.read(0, min(example.num_frames, _FRAMES_AT_ONCE)))


def _has_frames(place: _Place) -> bool:
    """Whether frames are stored; of stored features they are not."""
    return place.source.keys is None or "video" in place.source.keys


def _seen(place: _Place) -> _Seen:
    arrays = _stored(place)
    frames, ids = arrays["video"], arrays.get("segmentations")
    if frames.dtype != np.uint8:
        frames = (frames * 255).round().astype(np.uint8)
    return _Seen(arrays["name"], frames, None if ids is None else ids.reshape(frames.shape[:3]))


def _num_objects(place: _Place) -> int | None:
    """Number of objects by the source; where unknown, by the ids of the masks."""
    count = place.source.num_objects(place.index)
    ids = _seen(place).ids if count is None and _has_frames(place) else None
    return count if ids is None else len(np.unique(ids[ids > 0]))


def _readable(read: Callable[[_Place], Read], places: list[_Place]) -> Iterator[Read]:
    """`read` of the examples that can be read.

    Raises:
        UserError: none can be read; the message is that of the last.
    """
    num_read, last = 0, None
    for place in places:
        try:
            value = read(place)
        except UserError as error:
            last = error
            continue
        num_read += 1
        yield value
    if last is not None and not num_read:
        raise last


def _describe(survey: Survey, places: list[_Place]) -> None:
    for name, value in next(_readable(_stored, places)).items():
        array = np.asarray(value)
        if array.ndim:
            kind = "text" if array.dtype.kind in "OSU" else str(array.dtype)
            survey.features[name] = f"{kind} {list(array.shape)}"
        else:
            survey.metadata[name] = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    counts = _readable(_num_objects, places)
    survey.objects = Counter(count for count in counts if count is not None)


def _corrupt(places: list[_Place]) -> Iterator[CorruptRecord]:
    with progress("Checking", len(places), "examples") as advance:
        for place in places:
            try:
                _check(place)
            except CorruptRecord as error:
                yield error
            advance(1)


def _check(place: _Place) -> None:
    """Read a whole example, some frames at once.

    Raises:
        CorruptRecord: it cannot be read.
    """
    example = place.source.open(place.index, None)
    for start in range(0, example.num_frames, _FRAMES_AT_ONCE):
        example.read(start, min(start + _FRAMES_AT_ONCE, example.num_frames))


def _evenly(places: list[_Place], most: int) -> list[_Place]:
    """At most `most` of the places, evenly spaced."""
    if len(places) <= most:
        return places
    return [places[i] for i in np.linspace(0, len(places) - 1, most).round().astype(int)]


def _sheet(videos: list[_Seen]) -> UInt8[ndarray, "H W 3"]:
    """A row of frames for each video and, where there are masks, one of coloured ids; images side by side."""
    images, labels = [], []
    columns = 1 if all(len(video.frames) == 1 for video in videos) else _SHEET_FRAMES
    size = _tile_size(videos[0])
    for video in videos:
        times = np.linspace(0, len(video.frames) - 1, columns).round().astype(int)
        images += [_tile(video.frames[t], size, Image.Resampling.BOX) for t in times]
        labels += [video.name[-20:], *[""] * (columns - 1)]
        if video.ids is not None:
            images += [_tile(colorize(video.ids[t]), size, Image.Resampling.NEAREST) for t in times]
            labels += [count_text(len(np.unique(video.ids[video.ids > 0])), "object"), *[""] * (columns - 1)]
    return contact_sheet(images, labels, columns=_SHEET_FRAMES)


def _tile_size(video: _Seen) -> tuple[int, int]:
    """Width and height of every tile: the first video's size, shrunk to 160 pixels at most."""
    height, width = video.frames.shape[1:3]
    scale = min(1.0, _TILE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _tile(
    image: UInt8[ndarray, "H W 3"], size: tuple[int, int], how: Image.Resampling
) -> UInt8[ndarray, "h w 3"]:
    return np.array(Image.fromarray(image).resize(size, how))

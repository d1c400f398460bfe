"""`torchslots data inspect`: what a data set on disk holds, a picture of it, and which of its records are corrupt.

It asks `data/sources.py`, which knows the kinds of data sets, and prints, draws and counts.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from torchslots.data.catalog import DATASETS
from torchslots.data.sources import Drawable, Source, find_source
from torchslots.data.tfrecord import CorruptRecord
from torchslots.draw import colorize, contact_sheet
from torchslots.errors import UserError
from torchslots.progress import progress
from torchslots.video import write_png

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

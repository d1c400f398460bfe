"""Other formats of a prediction's tracks and slots, for `predict --format`.

| format | files | what for |
|---|---|---|
| `csv` | tracks.csv, slots.csv | spreadsheets, pandas |
| `parquet` | tracks.parquet, slots.parquet | the same, smaller and typed |
| `coco` | coco_video.json | COCO for videos, as YouTube-VIS: a compressed run length for each frame |
| `mot` | mot.txt | MOTChallenge: a line for each box |

Frames and slots count from 0, in `mot` frames from 1. Slot 0 is the background: tables have it, `coco` and `mot` are
lists of objects and have not. Masks and boxes in pixels are of the size of overlay and masks.
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from pycocotools import mask as coco

from torchslots.io.errors import UserError
from torchslots.io.files import atomic_files

FILES: dict[str, tuple[str, ...]] = {
    "csv": ("tracks.csv", "slots.csv"),
    "parquet": ("tracks.parquet", "slots.parquet"),
    "coco": ("coco_video.json",),
    "mot": ("mot.txt",),
}
"""Formats, and their files."""
_TRACK_COLUMNS = ("frame", "slot", "ymin", "xmin", "ymax", "xmax", "area", "predicted")
_ROWS = 4096
"""Rows of a table that are written at once."""


class Found(NamedTuple):
    """One slot in one frame: its box (ymin, xmin, ymax, xmax) in [0, 1] and its pixels."""

    slot: int
    box: tuple[float, float, float, float]
    area: int


class FrameFound(NamedTuple):
    """What was found in one frame."""

    ids: Int[ndarray, "H W"]
    objects: Sequence[Found]
    slots: Float[ndarray, "K D"]
    predicted: bool


Write = Callable[[FrameFound], None]


def require_formats(formats: Sequence[str]) -> None:
    """Check that formats exist and can be written here.

    Raises:
        UserError: an unknown format, or a package is missing.
    """
    unknown = set(formats) - set(FILES)
    if unknown:
        raise UserError(f"There is no format `{unknown.pop()}`. Choose from: {', '.join(FILES)}.")
    if "parquet" in formats:
        require_parquet()


def require_parquet() -> None:
    """Check that Parquet can be written here.

    Raises:
        UserError: pyarrow is missing.
    """
    if find_spec("pyarrow") is None:
        raise UserError("Parquet needs pyarrow: pip install 'torchslots[tables]', or choose another format.")


def format_writer(name: str, folder: Path, source: str) -> AbstractContextManager[Write]:
    """A context that yields write(frame); the files appear as wholes if the block ends without error.

    Args:
        source: name of the input.
    """
    files = [folder / file for file in FILES[name]]
    return {
        "csv": partial(_tables, files, _csv_rows),
        "parquet": partial(_tables, files, parquet_rows),
        "coco": partial(_coco, files, source),
        "mot": partial(_mot, files),
    }[name]()


Rows = Callable[[Sequence[Any]], None]


@contextmanager
def _tables(files: list[Path], rows: Callable[..., AbstractContextManager[Rows]]) -> Iterator[Write]:
    number, held = 0, ([], [])
    with atomic_files(*files) as (tracks, slots), rows(tracks) as to_tracks, rows(slots) as to_slots:

        def flush() -> None:
            for part, put in zip(held, (to_tracks, to_slots)):
                if part:
                    put(part)
                    part.clear()

        def write(frame: FrameFound) -> None:
            nonlocal number
            for found in frame.objects:
                place = (number, found.slot, *(round(side, 5) for side in found.box))
                held[0].append(dict(zip(_TRACK_COLUMNS, (*place, found.area, frame.predicted))))
            for slot, values in enumerate(np.asarray(frame.slots, np.float32)):
                held[1].append({"frame": number, "slot": slot, **{f"d{i}": v for i, v in enumerate(values)}})
            number += 1
            if len(held[1]) >= _ROWS:
                flush()

        yield write
        flush()


@contextmanager
def _csv_rows(file: Path) -> Iterator[Rows]:
    with file.open("w", newline="") as out:
        writer: csv.DictWriter[str] | None = None

        def put(rows: Sequence[dict[str, Any]]) -> None:
            nonlocal writer
            if writer is None:
                writer = csv.DictWriter(out, list(rows[0]))
                writer.writeheader()
            writer.writerows(rows)

        yield put


@contextmanager
def parquet_rows(file: Path) -> Iterator[Rows]:
    """A context that yields put(rows), rows being dictionaries of one set of keys.

    Columns have the types of the first rows: float32 where these hold float32 of numpy.
    """
    import pyarrow  # pyright: ignore[reportMissingImports]
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    writer: Any = None

    def put(rows: Sequence[dict[str, Any]]) -> None:
        nonlocal writer
        table = pyarrow.Table.from_pylist(list(rows), schema=writer and writer.schema)
        if writer is None:
            writer = parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)

    try:
        yield put
    finally:
        if writer is not None:
            writer.close()
        else:
            file.touch()


@contextmanager
def _mot(files: list[Path]) -> Iterator[Write]:
    number = 0
    with atomic_files(*files) as (file,), file.open("w") as out:

        def write(frame: FrameFound) -> None:
            nonlocal number
            number += 1
            for found in frame.objects:
                if found.slot:
                    left, top, width, height = _pixels(found.box, frame.ids.shape)
                    out.write(f"{number},{found.slot},{left},{top},{width},{height},1,-1,-1,-1\n")

        yield write


def _pixels(box: Sequence[float], size: tuple[int, ...]) -> list[int]:
    """Left, top, width and height in pixels."""
    top, left, bottom, right = (round(side * size[i % 2]) for i, side in enumerate(box))
    return [left, top, right - left, bottom - top]


@contextmanager
def _coco(files: list[Path], source: str) -> Iterator[Write]:
    tracks: dict[int, dict[str, list[Any]]] = {}
    number, size = 0, (0, 0)
    with atomic_files(*files) as (file,):

        def write(frame: FrameFound) -> None:
            nonlocal number, size
            size = frame.ids.shape
            here = {found.slot: found for found in frame.objects if found.slot}
            for slot in here.keys() - tracks.keys():
                tracks[slot] = {key: [None] * number for key in ("segmentations", "bboxes", "areas")}
            for slot, track in tracks.items():
                found = here.get(slot)
                values: tuple[Any, ...] = (None, None, None)
                if found is not None:
                    values = _encoded(frame.ids == slot), _pixels(found.box, size), found.area
                for kept, value in zip(track.values(), values):
                    kept.append(value)
            number += 1

        yield write
        file.write_text(json.dumps(_document(tracks, number, size, source)))


def _encoded(mask: ndarray) -> dict[str, Any]:
    """COCO's compressed run lengths."""
    found = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    counts = found["counts"]
    return {"size": list(mask.shape), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def _document(tracks: dict[int, Any], length: int, size: tuple[int, ...], source: str) -> dict[str, Any]:
    height, width = size
    names = [f"{Path(source).stem}/{frame:05d}.jpg" for frame in range(length)]
    facts = {"id": 1, "width": width, "height": height, "length": length, "file_names": names}
    same = {"video_id": 1, "category_id": 1, "iscrowd": 0, "width": width, "height": height}
    return {
        "info": {"description": f"torchslots predict: {source}"},
        "videos": [facts],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {"id": number, "slot": slot, **same, **tracks[slot]}
            for number, slot in enumerate(sorted(tracks), 1)
        ],
    }

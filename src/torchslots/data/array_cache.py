"""Unpack compressed record files once into arrays of fixed rows, for random access.

The arrays are stored in `.torchslots/<file>.arrays` beside the data, or in the user's cache where that cannot be
written: a raw file for each field and `index.json`, which counts the rows. Rows are only appended, and the index is
replaced after them. So an interrupted conversion resumes, and the first N records can be unpacked alone and the rest
later. When the data file's size or time changes, all is unpacked again.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Bool

from torchslots.data.formats.compressed import PackedRecords
from torchslots.data.formats.example import MalformedExample
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.io.cache import cache_places, file_stamp
from torchslots.io.errors import UserError, first_line
from torchslots.io.files import check_space, disk_errors, locked, write_file
from torchslots.io.json_files import check_seal, read_object, sealed
from torchslots.io.progress import progress

_VERSION = 1
_FIRST_LOOK = 64
"""Records after which the needed space is first estimated."""
_SECONDS = 10.0
"""Seconds between two updates of the index: the most work that an interruption loses."""
_ADVICE = "Free some space, or take only the first records with `data.num_records`; unpacked records stay."

Rows = Callable[[bytes], Mapping[str, np.ndarray]]
"""From a record's payload to its fields, each of the same type and shape in all records.

Raises:
    MalformedExample: the payload is of another kind.
"""


@dataclass
class _Index:
    """The unpacked rows: `count` of each of `fields` (type and shape), and why broken records could not be read."""

    source: list[int]
    """Stamp of the data file."""
    layout: str
    fields: dict[str, tuple[str, list[int]]] = field(default_factory=dict)
    count: int = 0
    complete: bool = False
    damaged: dict[str, str] = field(default_factory=dict)
    version: int = _VERSION

    def row(self, name: str) -> tuple[np.dtype, tuple[int, ...], int]:
        """Type, shape and bytes of one row."""
        dtype, shape = np.dtype(self.fields[name][0]), tuple(self.fields[name][1])
        return dtype, shape, dtype.itemsize * int(np.prod(shape, dtype=np.int64))

    def has(self, count: int | None) -> bool:
        """Whether the first `count` rows are there; None: all."""
        return self.complete or (count is not None and self.count >= count)


class RecordArrays:
    """The records of one file as rows. No file stays open, so it can be passed to forked or spawned processes."""

    def __init__(self, path: Path, rows: Rows, layout: str, what: str = "records") -> None:
        """Nothing is read yet; call `ensure`.

        Args:
            layout: A name for the result of `rows`; arrays of another name are unpacked again.
            what: What one record is, for the progress bar and messages.
        """
        self.path, self._rows, self.layout, self.what = Path(path), rows, layout, what
        self._folder, self._index = Path(), _Index([0, 0], layout)

    def __len__(self) -> int:
        """Unpacked rows."""
        return self._index.count

    @property
    def complete(self) -> bool:
        """Whether the rows are all records of the file."""
        return self._index.complete

    @property
    def names(self) -> list[str]:
        """The fields of a row."""
        return list(self._index.fields)

    def ensure(self, count: int | None = None) -> None:
        """Unpack the first `count` records (None: all) that are not unpacked yet.

        Raises:
            UserError: no such file, another kind of file, no room for the rows.
            CutOff: the file ends earlier.
        """
        source = file_stamp(self.path)
        self._folder = self._choose_folder()
        self._index = self._load(source)
        if self._index.has(count):
            return
        with locked(self._folder / "lock", advice=_ADVICE):
            self._index = self._load(source)
            if not self._index.has(count):
                _Conversion(self.path, self._folder, self._index, self._rows, self.what).run(count)

    def read(self, row: int, name: str) -> np.ndarray:
        """One field of one record.

        Raises:
            CorruptRecord: the record could not be read when the rows were made.
            UserError: the rows cannot be read.
        """
        if reason := self.damage(row):
            raise CorruptRecord(self.path, row, reason)
        return self._read(name, row, 1)[0]

    def column(self, name: str) -> np.ndarray:
        """One field of all rows; of a broken record zeros."""
        return self._read(name, 0, len(self))

    def damage(self, row: int) -> str | None:
        """Why a record could not be read; None: it could."""
        return self._index.damaged.get(str(row))

    def _read(self, name: str, start: int, count: int) -> np.ndarray:
        dtype, shape, size = self._index.row(name)
        file, number = _file(self._folder, name), int(np.prod(shape, dtype=np.int64))
        try:
            return np.fromfile(file, dtype, count * number, offset=start * size).reshape(count, *shape)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{file} cannot be read: {first_line(error)}. Remove {self._folder}; it is unpacked again from "
                "the data."
            ) from error

    def _choose_folder(self) -> Path:
        """The folder with rows, else the first that can be written."""
        places = cache_places(self.path, ".arrays")
        made = [place for place in places if (place / "index.json").exists()]
        for place in made or places:
            with suppress(OSError):
                place.mkdir(parents=True, exist_ok=True)
                if made or os.access(place, os.W_OK):
                    return place
        raise UserError(
            f"{self.path} must be unpacked once before it can be read, but neither {places[0]} nor "
            f"{places[1]} can be written. Set XDG_CACHE_HOME to a folder that can."
        )

    def _load(self, source: list[int]) -> _Index:
        """The stored index; an empty one where there is none, or it is stale."""
        empty = _Index(source, self.layout)
        try:
            file = self._folder / "index.json"
            index = _Index(**check_seal(read_object(file), file))
            whole = all(
                _file(self._folder, name).stat().st_size >= index.count * index.row(name)[2]
                for name in index.fields
            )
        except (UserError, OSError, ValueError, TypeError, KeyError, AttributeError):
            return empty
        known = (index.source, index.layout, index.version) == (source, self.layout, _VERSION)
        return index if known and whole else empty


class _Conversion:
    """Append rows to the arrays."""

    def __init__(self, path: Path, folder: Path, index: _Index, rows: Rows, what: str) -> None:
        self.path, self.folder, self.index, self.rows, self.what = path, folder, index, rows, what
        self._files: dict[str, BinaryIO] = {}

    def run(self, count: int | None) -> None:
        """Convert records up to `count`, or to the end of the file."""
        total, unit = (count, self.what) if count is not None else (self.path.stat().st_size // 10**6, "MB")
        with (
            disk_errors(self.folder, _ADVICE),
            ExitStack() as self._open,
            progress(f"Unpacking {self.path.name}", total, unit) as advance,
        ):
            records = PackedRecords(self.path)
            try:
                records.skip(self.index.count)
                self._open_files()
                shown = 0.0
                for _ in self._converted(records, count):
                    done = self.index.count if count is not None else records.consumed / 1e6
                    advance(done - shown)
                    shown = done
            finally:
                self._store()

    def _converted(self, records: PackedRecords, count: int | None) -> Iterator[None]:
        """Convert records, yielding now and then; at the end of the file the index is complete."""
        last = time.monotonic()
        for number, record in enumerate(records, 1):
            self._add(record, records.position)
            if number == _FIRST_LOOK or time.monotonic() - last > _SECONDS:
                self._store()
                self._check_space(records, count)
                last = time.monotonic()
            if number % _FIRST_LOOK == 0:
                yield
            if self.index.count == count:
                return
        self.index.complete = True

    def _add(self, record: bytes | CorruptRecord, number: int) -> None:
        row: Mapping[str, np.ndarray] = {}
        try:
            if isinstance(record, CorruptRecord):
                raise MalformedExample(record.reason)
            row = self._row(record, number)
        except MalformedExample as error:
            self.index.damaged[str(number)] = str(error)
        for name, file in self._files.items():
            file.write(np.ascontiguousarray(row[name]).data if row else bytes(self.index.row(name)[2]))
        self.index.count += 1

    def _row(self, record: bytes, number: int) -> Mapping[str, np.ndarray]:
        """A record's fields; the first readable record sets types and shapes for all."""
        try:
            row = self.rows(record)
        except MalformedExample as error:
            if self.index.fields:
                raise
            raise UserError(
                f"{self.path}: record {number} {error}. Is this a file of {self.index.layout}?"
            ) from error
        if not self.index.fields:
            self.index.fields = {name: (value.dtype.str, list(value.shape)) for name, value in row.items()}
            self._open_files()
        self._check_alike(row)
        return row

    def _check_alike(self, row: Mapping[str, np.ndarray]) -> None:
        for name, (dtype, shape) in self.index.fields.items():
            if name not in row or row[name].dtype.str != dtype or list(row[name].shape) != shape:
                found = f"{row[name].dtype} {list(row[name].shape)}" if name in row else "nothing"
                raise MalformedExample(
                    f"has {found} as `{name}`, the records before it {np.dtype(dtype)} {shape}"
                )

    def _open_files(self) -> None:
        """Open the files for appending, cut to the index's rows; broken records before the first good one are zeros."""
        for name in self.index.fields:
            path = _file(self.folder, name)
            end = self.index.count * self.index.row(name)[2]
            file = self._open.enter_context(path.open("r+b" if path.exists() else "w+b"))
            file.truncate(end)
            file.seek(end)
            self._files[name] = file

    def _store(self) -> None:
        """Flush all rows to the disk, then write the index."""
        with disk_errors(self.folder, _ADVICE):
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
        write_file(self.folder / "index.json", json.dumps(sealed(vars(self.index))), advice=_ADVICE)

    def _check_space(self, records: PackedRecords, count: int | None) -> None:
        """Check the room for the remaining rows, estimated from the compressed bytes of the others."""
        rows = self.index.count * (records.size / max(records.consumed, 1) - 1)
        rows = rows if count is None else min(rows, count - self.index.count)
        row_bytes = sum(self.index.row(name)[2] for name in self.index.fields)
        check_space(self.folder, rows * row_bytes, _ADVICE, f"{self.path.name}, unpacked,")


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


class PackedShards:
    """Rows of interleaved shards: row i is row i // n of shard i % n, as the writers' scripts distribute them."""

    def __init__(self, shards: list[Path], rows: Rows, layout: str, limit: int | None = None) -> None:
        """Unpack the shards that are not unpacked yet.

        Args:
            shards: All files of one split in order.
            layout: A name for the result of `rows`, see `RecordArrays`.
            limit: Only the first so many rows; None: all.

        Raises:
            UserError: a file is of another kind or cut off; no room for the rows.
        """
        self.shards = [RecordArrays(path, rows, layout, "images") for path in shards]
        for number, shard in enumerate(self.shards):
            shard.ensure(None if limit is None else -(-max(0, limit - number) // len(shards)))
        turns = [np.stack([np.full(len(s), k), np.arange(len(s))], 1) for k, s in enumerate(self.shards)]
        places = np.concatenate(turns)
        self._places = places[np.lexsort((places[:, 0], places[:, 1]))][:limit]
        """(shard, row in it) of each row."""

    def take(self, rows: Sequence[int] | np.ndarray) -> None:
        """Select rows, in this order."""
        self._places = self._places[rows]

    def __len__(self) -> int:
        return len(self._places)

    @property
    def fields(self) -> list[str]:
        """The fields of a row."""
        return self.shards[0].names

    def name(self, row: int) -> str:
        """File and number of the record."""
        shard, number = self._places[row]
        return f"{self.shards[shard].path.name}__{number}"

    def read(self, row: int, field: str) -> np.ndarray:
        """One field of one record.

        Raises:
            CorruptRecord: the record could not be read when it was unpacked.
        """
        shard, number = self._places[row]
        return self.shards[shard].read(int(number), field)

    def column(self, field: str) -> np.ndarray:
        """One field of all rows; zeros for a broken record."""
        columns = [shard.column(field) for shard in self.shards]
        return np.array([columns[shard][number] for shard, number in self._places])

    def intact(self) -> Bool[np.ndarray, "n"]:
        """Which rows could be read when they were unpacked."""
        return np.array(
            [self.shards[shard].damage(int(number)) is None for shard, number in self._places], bool
        )

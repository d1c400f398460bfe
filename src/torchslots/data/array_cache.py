"""Compressed record files made into arrays of fixed rows, once, so that any record can be read at any time.

The arrays lie beside the data in `.torchslots/<file>.arrays`, or in the user's cache folder where that cannot be
written: one raw file for each field and `index.json`, which tells how many rows are there. Rows are only ever added
and the index is replaced as a whole after them, so that an interrupted conversion goes on where it was, and the first
N records alone can be made and the rest later. A data file of another size or time makes all of it void.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Bool, UInt8

from torchslots.data.formats.compressed import PackedRecords, decode_one_byte_strings
from torchslots.data.formats.example import MalformedExample, RawFeature
from torchslots.data.formats.tfrecord import CorruptRecord, index_places
from torchslots.io.errors import UserError
from torchslots.io.files import atomic_file
from torchslots.io.progress import progress

_VERSION = 1
_FIRST_LOOK = 64
"""Records after which the room they will need is first estimated."""
_SECONDS = 10.0
"""Between two entries in the index: the most work that an interruption loses."""
_MARGIN = 64 << 20
"""Bytes of disk that are left free."""

Rows = Callable[[bytes], Mapping[str, np.ndarray]]
"""From a record's payload to its fields, each of the same type and shape in all records.

Raises MalformedExample where the payload is not what it should be.
"""


@dataclass
class _Index:
    """What is there: `count` rows of each of `fields` (type and shape), and which of them stand for broken records."""

    source: list[int]
    """Size in bytes and time of change in nanoseconds of the data file."""
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

    def row_bytes(self) -> int:
        return sum(self.row(name)[2] for name in self.fields)


class RecordArrays:
    """The records of one file as rows. Holds no open file, so it can be handed to forked or spawned processes."""

    def __init__(self, path: Path, rows: Rows, layout: str, what: str = "records") -> None:
        """Nothing is read yet; call `ensure`.

        Args:
            layout: A word for what `rows` makes; arrays made under another one are made anew.
            what: What one record is, for the progress bar and messages.
        """
        self.path, self._rows, self.layout, self.what = Path(path), rows, layout, what
        self._folder, self._index = Path(), _Index([0, 0], layout)

    def __len__(self) -> int:
        """Rows that are there."""
        return self._index.count

    @property
    def complete(self) -> bool:
        """Whether the rows are all records of the file."""
        return self._index.complete

    def ensure(self, count: int | None = None) -> None:
        """Have the first `count` records as rows (None: all), converting what is missing.

        Raises:
            UserError: no such file, another kind of file, no place for the rows.
            CutOff: the file ends before that.
        """
        source = _stamp(self.path)
        self._folder = self._choose_folder()
        self._index = self._load(source)
        if self._has(count):
            return
        with _alone(self._folder):
            self._index = self._load(source)
            if not self._has(count):
                _Conversion(self.path, self._folder, self._index, self._rows, self.what).run(count)

    def read(self, row: int, name: str) -> np.ndarray:
        """One field of one record.

        Raises:
            CorruptRecord: the record could not be read when the rows were made.
            UserError: the rows cannot be read.
        """
        if reason := self._index.damaged.get(str(row)):
            raise CorruptRecord(self.path, row, reason)
        dtype, shape, size = self._index.row(name)
        file, number = _file(self._folder, name), int(np.prod(shape, dtype=np.int64))
        try:
            return np.fromfile(file, dtype, number, offset=row * size).reshape(shape)
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read: {error}. {_remove(self._folder)}") from error

    def column(self, name: str) -> np.ndarray:
        """One field of all rows; of a broken record zeros."""
        dtype, shape, _ = self._index.row(name)
        try:
            values = np.fromfile(
                _file(self._folder, name), dtype, len(self) * int(np.prod(shape, dtype=np.int64))
            )
            return values.reshape(len(self), *shape)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{_file(self._folder, name)} cannot be read: {error}. {_remove(self._folder)}"
            ) from error

    @property
    def names(self) -> list[str]:
        """The fields of a row."""
        return list(self._index.fields)

    def damage(self, row: int) -> str | None:
        """Why a record could not be read; None: it could."""
        return self._index.damaged.get(str(row))

    def _has(self, count: int | None) -> bool:
        return self._index.complete or (count is not None and self._index.count >= count)

    def _choose_folder(self) -> Path:
        """Where rows already are, else the first place that can be written."""
        places = [place.with_suffix(".arrays") for place in index_places(self.path)]
        made = [place for place in places if (place / "index.json").exists()]
        for place in made or places:
            with contextlib.suppress(OSError):
                place.mkdir(parents=True, exist_ok=True)
                if made or os.access(place, os.W_OK):
                    return place
        raise UserError(
            f"{self.path} must be unpacked once before it can be read at any place, but neither {places[0]} nor "
            f"{places[1]} can be written. Set XDG_CACHE_HOME to a folder that can."
        )

    def _load(self, source: list[int]) -> _Index:
        """The index as it lies on the disk; an empty one where there is none, or it is of something else."""
        try:
            values = json.loads((self._folder / "index.json").read_text())
            index = _Index(**values)
            whole = all(
                _file(self._folder, name).stat().st_size >= index.count * index.row(name)[2]
                for name in index.fields
            )
        except (OSError, ValueError, TypeError, KeyError):
            return _Index(source, self.layout)
        known = (index.source, index.layout, index.version) == (source, self.layout, _VERSION)
        return index if known and whole else _Index(source, self.layout)


class _Conversion:
    """Adds rows until there are enough."""

    def __init__(self, path: Path, folder: Path, index: _Index, rows: Rows, what: str) -> None:
        self.path, self.folder, self.index, self.rows, self.what = path, folder, index, rows, what
        self._files: dict[str, BinaryIO] = {}

    def run(self, count: int | None) -> None:
        """Convert records up to `count`, or to the end of the file."""
        total, unit = (count, self.what) if count is not None else (self.path.stat().st_size // 10**6, "MB")
        with (
            _told(self.folder),
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
                self._keep()

    def _converted(self, records: PackedRecords, count: int | None) -> Iterator[None]:
        """Yields now and then; the index is complete where the file was read to its end."""
        last = time.monotonic()
        for number, record in enumerate(records, 1):
            self._add(record, records.position)
            if number == _FIRST_LOOK or time.monotonic() - last > _SECONDS:
                self._keep()
                self._check_room(records, count)
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
        """A record's fields, which the first record that can be read settles for all."""
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
        self._demand_alike(row)
        return row

    def _demand_alike(self, row: Mapping[str, np.ndarray]) -> None:
        for name, (dtype, shape) in self.index.fields.items():
            if name not in row or row[name].dtype.str != dtype or list(row[name].shape) != shape:
                found = f"{row[name].dtype} {list(row[name].shape)}" if name in row else "nothing"
                raise MalformedExample(
                    f"has {found} as `{name}`, the records before it {np.dtype(dtype)} {shape}"
                )

    def _open_files(self) -> None:
        """As long as the index says and ready to be added to; broken records before the first whole one are zeros."""
        for name in self.index.fields:
            path = _file(self.folder, name)
            end = self.index.count * self.index.row(name)[2]
            file = self._open.enter_context(path.open("r+b" if path.exists() else "w+b"))
            file.truncate(end)
            file.seek(end)
            self._files[name] = file

    def _keep(self) -> None:
        """All rows so far reach the disk, then the index that counts them."""
        with _told(self.folder):
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
            with atomic_file(self.folder / "index.json") as part:
                part.write_text(json.dumps(vars(self.index)))

    def _check_room(self, records: PackedRecords, count: int | None) -> None:
        """Refuse early what the disk cannot hold: rows to come, by the compressed bytes that the others took."""
        rows = self.index.count * (records.size / max(records.consumed, 1) - 1)
        rows = rows if count is None else min(rows, count - self.index.count)
        needed, free = rows * self.index.row_bytes(), shutil.disk_usage(self.folder).free
        if needed + _MARGIN > free:
            raise UserError(
                f"{self.path.name}, unpacked, needs about {needed / 1e9:.1f} GB more in {self.folder}, but only "
                f"{free / 1e9:.1f} GB are free. Free space, or take only the first N {self.what} with "
                "`data.num_records`. What is done is kept."
            )


def _stamp(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}. Check the data folder.") from error
    return [stat.st_size, stat.st_mtime_ns]


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


def _remove(folder: Path) -> str:
    return f"Remove {folder}; it is made again from the data."


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time; the others wait, and find the work done. The lock ends with its process."""
    with _told(folder), (folder / "lock").open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[Any]:
    """What a disk refuses, as a sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror or error}. Free some space, or take only the first records "
            "with `data.num_records`; what is done is kept."
        ) from error


_VERSION = 1


def kept(path: Path, kind: str, make: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
    """Arrays by name: those kept of a file under the word `kind`, or what `make` gives, which is kept from now on.

    Raises:
        UserError: the file is not there. Where nothing can be written, `make` is called each time.
    """
    stamp = _stamp_array(path)
    places = [place.with_suffix(f".{kind}.npz") for place in index_places(path)]
    for place in places:
        found = _load(place, stamp)
        if found is not None:
            return found
    made = make()
    arrays: dict[str, Any] = {"stamp": stamp, **made}
    for place in places:
        with contextlib.suppress(UserError):
            with atomic_file(place) as partial, partial.open("wb") as file:
                np.savez(file, **arrays)
            break
    return made


def _load(place: Path, stamp: np.ndarray) -> Mapping[str, np.ndarray] | None:
    try:
        with np.load(place, allow_pickle=False) as table:
            arrays = {name: table[name] for name in table.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return arrays if np.array_equal(arrays.pop("stamp", None), stamp) else None


def _stamp_array(path: Path) -> np.ndarray:
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}. Check the data folder.") from error
    return np.array([_VERSION, stat.st_size, stat.st_mtime_ns], np.int64)


class PackedShards:
    """Rows of shards dealt out in turn: row i is row i // n of shard i % n, as the writers' scripts deal them."""

    def __init__(self, shards: list[Path], rows: Rows, layout: str, limit: int | None = None) -> None:
        """Unpack what is not unpacked yet.

        Args:
            shards: All files of one split in order.
            layout: A word for what `rows` makes, see `RecordArrays`.
            limit: Only the first so many rows; None: all.

        Raises:
            UserError: a file is of another kind or cut off, or there is no room for the rows.
        """
        self.shards = [RecordArrays(path, rows, layout, "images") for path in shards]
        for number, shard in enumerate(self.shards):
            shard.ensure(None if limit is None else -(-max(0, limit - number) // len(shards)))
        self.limit = limit

    @cached_property
    def _places(self) -> np.ndarray:
        """(shard, row) of each row, in the order in which they were dealt."""
        turns = [np.stack([np.full(len(s), k), np.arange(len(s))], 1) for k, s in enumerate(self.shards)]
        places = np.concatenate(turns)
        return places[np.lexsort((places[:, 0], places[:, 1]))][: self.limit]

    def __len__(self) -> int:
        return len(self._places)

    @property
    def fields(self) -> list[str]:
        """What rows hold."""
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
        """One field of all rows; of a broken record zeros."""
        columns = [shard.column(field) for shard in self.shards]
        return np.array([columns[shard][number] for shard, number in self._places])

    def intact(self) -> Bool[np.ndarray, "n"]:
        """Which rows could be read when they were unpacked."""
        return np.array(
            [self.shards[shard].damage(int(number)) is None for shard, number in self._places], bool
        )


def decode_plane(
    raw: RawFeature, name: str, channels: int, resolution: tuple[int, int]
) -> UInt8[np.ndarray, "H W *C"]:
    """A picture of one-byte strings: [H, W] for one channel, else [H, W, C].

    Its size follows from its bytes and the aspect of the published `resolution` (height, width).

    Raises:
        MalformedExample: it has no such aspect.
    """
    values = decode_one_byte_strings(raw)
    scale = (values.size / channels / (resolution[0] * resolution[1])) ** 0.5
    height, width = round(resolution[0] * scale), round(resolution[1] * scale)
    if not values.size or height * width * channels != values.size:
        raise MalformedExample(
            f"has {values.size} bytes as `{name}`, no picture of the aspect {resolution[0]} to {resolution[1]}"
        )
    return values.reshape(height, width, channels) if channels > 1 else values.reshape(height, width)

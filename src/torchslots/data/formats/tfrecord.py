"""TFRecord files: random access to uncompressed ones, with every checksum verified, and a writer.

A record is its length (8 bytes), the length's checksum (4), the payload, and the payload's checksum (4). One scan
of the lengths gives every record's offset; it is stored, so each file is scanned once.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path

import google_crc32c
import numpy as np

from torchslots.io.cache import cached
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError, first_line
from torchslots.io.files import atomic_file

HEADER, FOOTER = 12, 4
"""Bytes before and after a record's payload."""
LONGEST = 1 << 28
"""Most bytes of a payload, several times those of the longest video that is published as a record."""
_LEVEL = 1
"""Level of compression: the fastest."""


class CorruptRecord(UserError):
    """A record that cannot be read. Carries the `file` and the number of the `record` in it, from 0."""

    def __init__(self, file: Path, record: int, reason: str) -> None:
        remedy = "Download or write the file again, or leave such records out with --skip-corrupt."
        super().__init__(f"{file}: record {record} {reason}. {remedy}")
        self.file, self.record, self.reason = file, record, reason

    def __reduce__(self):
        return type(self), (self.file, self.record, self.reason)


def masked_crc(data: bytes) -> int:
    """CRC-32C rotated and offset, as TFRecord files store it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class Compression(IntEnum):
    """Compression of a whole TFRecord file; the values are zlib's `wbits`."""

    ZLIB = 15
    GZIP = 31


def write_records(path: Path, records: Iterable[bytes], compression: Compression | None = None) -> int:
    """Write a TFRecord file atomically. Returns the number of records.

    Raises:
        UserError: the file cannot be written.
    """
    path, count = Path(path), 0
    packer = None if compression is None else zlib.compressobj(_LEVEL, zlib.DEFLATED, compression)
    with atomic_file(path) as partial, partial.open("wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            for part in (
                length + struct.pack("<I", masked_crc(length)),
                record,
                struct.pack("<I", masked_crc(record)),
            ):
                file.write(packer.compress(part) if packer else part)
            count += 1
        if packer:
            file.write(packer.flush())
    return count


@dataclass(frozen=True)
class _Places:
    """Offsets of the records and of the end of the last whole one, and what is wrong after it, if anything."""

    starts: np.ndarray
    damage: str | None = None


class RecordFile:
    """An uncompressed TFRecord file with random access.

    No file is opened before the first read and none stays open, so an instance can be passed to forked or spawned
    workers. After a damaged length nothing can be read: it counts as one more record, and reading that one raises.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __len__(self) -> int:
        return len(self._places.starts) - 1 + (self._places.damage is not None)

    @property
    def damage(self) -> str | None:
        """Why the file cannot be read to its end; None: all lengths are valid."""
        return self._places.damage

    def read(self, record: int) -> bytes:
        """The payload of a record, counted from 0.

        Raises:
            CorruptRecord: the checksum is wrong, or the file ends before the record does.
            UserError: the file cannot be opened.
        """
        starts = self._places.starts
        if not 0 <= record < len(starts) - 1:
            count = len(starts) - 1
            reason = self.damage or f"does not exist: the file holds {count_text(count, 'record')}"
            raise CorruptRecord(self.path, record, reason)
        begin, end = int(starts[record]) + HEADER, int(starts[record + 1])
        if end - FOOTER - begin > LONGEST:
            raise CorruptRecord(self.path, record, f"claims to have {end - FOOTER - begin:,} bytes")
        with opened(self.path) as descriptor:
            payload = _read_exactly(descriptor, end - FOOTER - begin, begin)
            footer = _read_exactly(descriptor, FOOTER, end - FOOTER)
        if struct.pack("<I", masked_crc(payload)) != footer:
            raise CorruptRecord(self.path, record, "does not match its checksum")
        return payload

    @cached_property
    def _places(self) -> _Places:
        index = cached(self.path, "index", self._scanned)
        return _Places(index["starts"], str(index["damage"]) or None)

    def _scanned(self) -> dict[str, np.ndarray]:
        with opened(self.path) as descriptor:
            places = _scan(descriptor, os.fstat(descriptor).st_size)
        return {"starts": places.starts, "damage": np.array(places.damage or "")}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """The descriptor of an opened file.

    Raises:
        UserError: the file cannot be opened or, in the block, read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {first_line(error)}. Check the data folder.") from error
    try:
        yield descriptor
    except OSError as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}. Check the disk.") from error
    finally:
        os.close(descriptor)


def _read_exactly(descriptor: int, size: int, offset: int) -> bytes:
    """`size` bytes at `offset`, fewer only where the file ends; a single `pread` may return less."""
    block = os.pread(descriptor, size, offset)
    while len(block) < size:
        more = os.pread(descriptor, size - len(block), offset + len(block))
        if not more:
            break
        block += more
    return block


def _scan(descriptor: int, size: int) -> _Places:
    starts, position = [0], 0
    while position < size:
        header = _read_exactly(descriptor, HEADER, position)
        if len(header) < HEADER:
            return _Places(np.array(starts), f"is cut off: the file ends at byte {size}")
        length, crc = struct.unpack("<QI", header)
        if masked_crc(header[:8]) != crc:
            return _Places(
                np.array(starts), f"has a length that does not match its checksum, at byte {position}"
            )
        position += HEADER + length + FOOTER
        if position > size:
            return _Places(np.array(starts), f"is cut off: it needs {position} bytes, the file has {size}")
        starts.append(position)
    return _Places(np.array(starts))

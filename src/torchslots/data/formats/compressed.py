"""Read TFRecord files that are compressed as a whole (GZIP or ZLIB), from the front, in bounded memory.

Such files have no random access; `torchslots.data.array_cache` unpacks them to arrays that have. Their images are
stored as a string for every byte, read here by slicing.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import UInt8

from torchslots.data.formats.example import MalformedExample, RawFeature, decode_bytes
from torchslots.data.formats.tfrecord import (
    FOOTER,
    HEADER,
    LONGEST,
    Compression,
    CorruptRecord,
    masked_crc,
    opened,
)
from torchslots.io.errors import UserError, first_line

_READ = 1 << 18
"""Compressed bytes read at once."""
_INFLATE = 1 << 22
"""Most bytes of one step of decompression; bounds the memory."""
_BYTES_LIST = 1
_STRING = (1 << 3 | 2, 1)
"""Bytes before that of a one-byte string: field 1 with a length, and the length 1."""


class CutOff(UserError):
    """A file that ends or cannot be read further in the middle; `records` is the number of whole ones before."""

    def __init__(self, file: Path, records: int, reason: str) -> None:
        remedy = f"Download it again, or use what is whole: `data.num_records` of at most {records}."
        if not records:
            remedy = "Download it again."
        super().__init__(f"{file}: record {records} {reason}; {records} before it are whole. {remedy}")
        self.file, self.records, self.reason = file, records, reason

    def __reduce__(self):
        return type(self), (self.file, self.records, self.reason)


def find_compression(path: Path) -> Compression | None:
    """Compression of a TFRecord file, by its first bytes; None: none.

    Raises:
        UserError: it cannot be opened, is empty, or is no TFRecord file.
    """
    with opened(path) as descriptor:
        head = os.read(descriptor, HEADER)
    if len(head) == HEADER and masked_crc(head[:8]) == struct.unpack("<I", head[8:])[0]:
        return None
    if head[:2] == b"\x1f\x8b":
        return Compression.GZIP
    if len(head) > 1 and head[0] & 15 == 8 and int.from_bytes(head[:2], "big") % 31 == 0:
        return Compression.ZLIB
    what = f"begins with the bytes {head[:4].hex(' ')}" if head else "is empty"
    raise UserError(f"{path} {what}, so it is no TFRecord file, compressed or not. Download it again.")


class PackedRecords:
    """The records of one file from first to last, compressed or not.

    Iterating gives payloads, and a CorruptRecord for one that does not match its checksum. `position` is the number
    of the next record, `consumed` the bytes of the file read so far, of `size`.

    Raises:
        UserError: no such file, or no TFRecord file.
        CutOff: while iterating, where the file cannot be read further.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.position = Path(path), 0
        self._packed = find_compression(self.path)
        self.size = self.path.stat().st_size
        self._blocks = self._unpacked()
        self._block, self.consumed = memoryview(b""), 0

    def __iter__(self) -> Iterator[bytes | CorruptRecord]:
        while (record := self._next()) is not None:
            payload, footer = record
            matches = masked_crc(payload) == struct.unpack("<I", footer)[0]
            yield (
                payload if matches else CorruptRecord(self.path, self.position, "does not match its checksum")
            )
            self.position += 1

    def skip(self, count: int) -> None:
        """Skip records without verifying their checksums.

        Raises:
            CutOff: the file ends before.
        """
        for _ in range(count):
            if self._next() is None:
                raise CutOff(self.path, self.position, "is missing: the file has become shorter")
            self.position += 1

    def _next(self) -> tuple[bytes, bytes] | None:
        """The next record's payload and its checksum; None at the end of the file."""
        header = self._read(HEADER)
        if not header:
            return None
        if len(header) < HEADER or masked_crc(header[:8]) != struct.unpack("<I", header[8:])[0]:
            self._lost(
                "is cut off" if len(header) < HEADER else "has a length that does not match its checksum"
            )
        length = struct.unpack("<Q", header[:8])[0]
        if length > LONGEST:
            self._lost(f"claims to have {length} bytes")
        payload, footer = self._read(length), self._read(FOOTER)
        if len(footer) < FOOTER:
            self._lost(f"is cut off: the file ends at byte {self.consumed}")
        return payload, footer

    def _read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end of the file."""
        parts = []
        while size:
            if not self._block:
                self._block = next(self._blocks, memoryview(b""))
                if not self._block:
                    break
            parts.append(self._block[:size])
            self._block = self._block[size:]
            size -= len(parts[-1])
        return b"".join(parts)

    def _unpacked(self) -> Iterator[memoryview]:
        """The file's decompressed bytes; a GZIP file may have several members."""
        unpacker = None
        for data in self._file_bytes():
            if self._packed is None:
                yield memoryview(data)
                continue
            while data:
                unpacker = unpacker or zlib.decompressobj(self._packed)
                yield from self._inflated(unpacker, data)
                data = b""
                if unpacker.eof:
                    data, unpacker = unpacker.unused_data.lstrip(b"\0"), None
        if unpacker is not None:
            self._lost(f"is cut off: the compressed data end at byte {self.size}")

    def _inflated(self, unpacker: Any, data: bytes) -> Iterator[memoryview]:
        while True:
            try:
                block = unpacker.decompress(data, _INFLATE)
            except zlib.error as error:
                place = f"near byte {self.consumed} of the file"
                self._lost(f"cannot be decompressed {place} ({first_line(error)})", error)
            if block:
                yield memoryview(block)
            data = unpacker.unconsumed_tail
            if unpacker.eof or (not data and len(block) < _INFLATE):
                return

    def _file_bytes(self) -> Iterator[bytes]:
        with opened(self.path) as descriptor:
            while data := os.read(descriptor, _READ):
                self.consumed += len(data)
                yield data

    def _lost(self, reason: str, cause: Exception | None = None) -> NoReturn:
        raise CutOff(self.path, self.position, reason) from cause


def decode_one_byte_strings(raw: RawFeature) -> UInt8[np.ndarray, "n"]:
    """A view of an array that was stored as a string for every byte, or as a single string.

    Raises:
        MalformedExample: no strings, or of other lengths.
    """
    data = np.frombuffer(raw.payload, np.uint8)
    if raw.kind == _BYTES_LIST and data.size % 3 == 0 and _is_pattern(data):
        return data[2::3]
    items = decode_bytes(raw)
    if len(items) != 1 and any(len(item) != 1 for item in items):
        raise MalformedExample("strings of several bytes where each should be one byte of an image")
    return np.frombuffer(b"".join(items), np.uint8)


def _is_pattern(data: UInt8[np.ndarray, "n"]) -> bool:
    mask, expected = _pattern(data.size)
    return bool(((data & mask) == expected).all())


@lru_cache(maxsize=8)
def _pattern(size: int) -> tuple[UInt8[np.ndarray, "n"], UInt8[np.ndarray, "n"]]:
    """Mask of the bytes that are not the image's, and their expected values."""
    repeat = size // 3
    return np.tile(np.array([255, 255, 0], np.uint8), repeat), np.tile(
        np.array([*_STRING, 0], np.uint8), repeat
    )


def decode_plane(
    raw: RawFeature, name: str, channels: int, resolution: tuple[int, int]
) -> UInt8[np.ndarray, "H W *C"]:
    """An image of one-byte strings: [H, W] for one channel, else [H, W, C].

    Its size follows from its bytes and the aspect of the published `resolution` (height, width).

    Raises:
        MalformedExample: no image of this aspect.
    """
    values = decode_one_byte_strings(raw)
    scale = (values.size / channels / (resolution[0] * resolution[1])) ** 0.5
    height, width = round(resolution[0] * scale), round(resolution[1] * scale)
    if not values.size or height * width * channels != values.size:
        raise MalformedExample(
            f"has {values.size} bytes as `{name}`, no image of the aspect {resolution[0]} to {resolution[1]}"
        )
    return values.reshape(height, width, channels) if channels > 1 else values.reshape(height, width)

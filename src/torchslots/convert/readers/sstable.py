"""Reader of LevelDB's sorted tables, the index of TensorFlow's checkpoints; every block is checked."""

import struct
from collections.abc import Iterator
from pathlib import Path

from torchslots.data.formats.example import varint
from torchslots.data.formats.tfrecord import masked_crc
from torchslots.io.errors import UserError, first_line

_FOOTER, _TRAILER = 48, 5
_MAGIC = bytes.fromhex("57fb808b247547db")
_PLAIN, _SNAPPY = 0, 1
_RATIO = 64
"""Most bytes that snappy makes of one."""


def read_table(path: Path) -> dict[bytes, bytes]:
    """All keys and values in the file's order.

    Raises:
        UserError: the file cannot be read, is no table, is cut off or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}. Copy or download it again.") from error
    if len(data) < _FOOTER or data[-8:] != _MAGIC:
        raise UserError(
            f"{path} is not the index of a TensorFlow checkpoint, or it is cut off: its last bytes are not those of a "
            "table. Give the prefix of a checkpoint such as ckpt-1, and copy its files again."
        )
    try:
        return dict(_table(memoryview(data)))
    except Exception as error:  # a damaged table makes its reader meet anything
        raise UserError(f"{path} is damaged: {first_line(error)}. Copy or download it again.") from error


def _table(data: memoryview) -> Iterator[tuple[bytes, bytes]]:
    position = len(data) - _FOOTER
    for _ in range(2):
        _, position = varint(data, position)
    start, position = varint(data, position)
    size, _ = varint(data, position)
    for _, handle in _entries(_block(data, start, size)):
        start, position = varint(memoryview(handle), 0)
        size, _ = varint(memoryview(handle), position)
        yield from _entries(_block(data, start, size))


def _block(data: memoryview, start: int, size: int) -> memoryview:
    """Content of a block, unpacked; its kind and the checksum of both follow it."""
    whole = data[start : start + size + _TRAILER]
    if len(whole) < size + _TRAILER:
        raise ValueError(f"a block of {size} bytes at byte {start} runs past the end")
    if struct.pack("<I", masked_crc(bytes(whole[: size + 1]))) != bytes(whole[size + 1 :]):
        raise ValueError(f"the checksum of the block at byte {start} is wrong")
    kind = whole[size]
    if kind == _SNAPPY:
        return memoryview(unpack_snappy(whole[:size]))
    if kind != _PLAIN:
        raise ValueError(f"the block at byte {start} has compression {kind}; 0 and 1 (snappy) are known")
    return whole[:size]


def _entries(block: memoryview) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block: a key shares its beginning with the one before; offsets of restarts come last."""
    (restarts,) = struct.unpack("<I", block[-4:])
    end, position, key = len(block) - 4 - 4 * restarts, 0, b""
    if end < 0:
        raise ValueError(f"a block of {len(block)} bytes with {restarts} restarts")
    while position < end:
        shared, position = varint(block, position)
        own, position = varint(block, position)
        length, position = varint(block, position)
        key = key[:shared] + bytes(block[position : position + own])
        position += own
        yield key, bytes(block[position : position + length])
        position += length


def unpack_snappy(packed: memoryview) -> bytes:
    """Unpack snappy's format: a length, then runs of plain bytes and copies of earlier output.

    Raises:
        ValueError: a copy from before the beginning, or another length than announced.
    """
    size, position = varint(packed, 0)
    if size > _RATIO * len(packed):
        raise ValueError(f"snappy data of {len(packed)} bytes that claim to unpack to {size}")
    out = bytearray()
    while position < len(packed):
        tag = packed[position]
        length, offset, position = _snappy_element(packed, position, tag)
        if tag & 3 == 0:
            out += packed[position : position + length]
            position += length
            continue
        if not 0 < offset <= len(out):
            raise ValueError(f"snappy data copy from {offset} bytes back after {len(out)}")
        if len(out) + length > size:
            raise ValueError(f"snappy data unpack to more than {size} bytes")
        for _ in range(length):
            out.append(out[-offset])
    if len(out) != size:
        raise ValueError(f"snappy data unpack to {len(out)} bytes, not {size}")
    return bytes(out)


def _snappy_element(packed: memoryview, position: int, tag: int) -> tuple[int, int, int]:
    """Length and offset of the element that begins with `tag`, and the place of the next."""
    kind, high = tag & 3, tag >> 2
    position += 1
    if kind == 0:
        extra = max(high - 59, 0)
        length = int.from_bytes(packed[position : position + extra], "little") if extra else high
        return length + 1, 0, position + extra
    if kind == 1:
        return (high & 7) + 4, (high >> 3) << 8 | packed[position], position + 1
    extra = 2 if kind == 2 else 4
    return high + 1, int.from_bytes(packed[position : position + extra], "little"), position + extra

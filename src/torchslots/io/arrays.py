"""Read .npy and .npz files: sizes are compared with the file before anything is allocated, errors are one message."""

import math
import zipfile
from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import google_crc32c
import numpy as np

from torchslots.io.errors import UserError, first_line

_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
CHECKSUMS = ".crc32c"
"""Ending of the file beside a .npy file that has the CRC-32C of each row."""
_MOST = 1 << 30
"""Most bytes of an array that is read into memory at once."""


def map_array(file: Path, remedy: str, writable: bool = False) -> np.ndarray:
    """The array of a .npy file, memory-mapped.

    Args:
        writable: what is written to it stays in memory.

    Raises:
        UserError: it cannot be read, is damaged, or holds objects; the message ends with `remedy`.
    """
    try:
        return np.load(file, mmap_mode="c" if writable else "r", allow_pickle=False)
    except Exception as error:  # numpy's parser of headers raises whatever a damaged one makes it meet
        raise _unreadable(file, error, remedy) from error


def row_checksums(rows: Iterable[np.ndarray]) -> np.ndarray:
    """The CRC-32C of each row's bytes."""
    return np.array([google_crc32c.value(_readable(row)) for row in rows], np.uint32)


def _readable(row: np.ndarray) -> Any:
    """A row's bytes as the library takes them without a copy: read-only and contiguous."""
    view = np.ascontiguousarray(row).reshape(-1).view(np.uint8)
    view.flags.writeable = False
    return view


def check_rows(file: Path, rows: np.ndarray, start: int, count: int, remedy: str) -> None:
    """Check rows that were read from a .npy file against the checksums beside it, if it has some, each row once.

    Args:
        start: number of the first row in the file.
        count: rows that were asked for.

    Raises:
        UserError: the file is too short, or a row is not what was written; the message ends with `remedy`.
    """
    if len(rows) != count:
        raise UserError(
            f"{file} ends at row {start + len(rows)}, where {start + count} are expected. {remedy}"
        )
    sums = _checksums(file, remedy)
    if sums is None:
        return
    if len(sums.values) < start + count:
        raise UserError(f"{file.with_suffix(CHECKSUMS)} ends before row {start + count - 1}. {remedy}")
    for row in np.flatnonzero(~sums.checked[start : start + count]):
        if row_checksums(rows[row : row + 1]) != sums.values[start + row]:
            raise UserError(
                f"{file} is damaged: row {start + int(row)} does not match its checksum. {remedy}"
            )
    sums.checked[start : start + count] = True


class _Checksums(NamedTuple):
    values: np.ndarray
    """uint32 [N]."""
    checked: np.ndarray
    """bool [N]: rows that this process has found as they were written."""


@lru_cache(maxsize=1024)
def _checksums(file: Path, remedy: str) -> _Checksums | None:
    place = file.with_suffix(CHECKSUMS)
    if not place.is_file():
        return None
    values = map_array(place, remedy)
    return _Checksums(values, np.zeros(len(values), bool))


def array_shapes(file: Path, remedy: str, most: int = _MOST) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays in a .npz file, by their headers, which fit the sizes of the members.

    Args:
        most: bytes that an array may have.

    Raises:
        UserError: as `read_arrays`.
    """
    try:
        with zipfile.ZipFile(file) as packed:
            found = {}
            for member in packed.infolist():
                with packed.open(member) as stream:
                    found[member.filename.removesuffix(".npy")] = _shape(stream, member.file_size, most)
            return found
    except Exception as error:  # as in `map_array`, and what zipfile meets
        raise _unreadable(file, error, remedy) from error


def read_arrays(
    file: Path, remedy: str, names: Collection[str] | None = None, most: int = _MOST
) -> dict[str, np.ndarray]:
    """Arrays of a .npz file by their names.

    Args:
        names: those that are read; None: all.
        most: bytes that an array may have.

    Raises:
        UserError: the file cannot be read or is damaged, an array is too large or holds objects; the message ends with
            `remedy`.
    """
    array_shapes(file, remedy, most)
    try:
        with np.load(file, allow_pickle=False) as table:
            return {name: table[name] for name in (table.files if names is None else names)}
    except Exception as error:
        raise _unreadable(file, error, remedy) from error


def _shape(stream: IO[bytes], size: int, most: int) -> tuple[int, ...]:
    """The shape that a member's header states.

    Raises:
        ValueError: the header is none, or does not fit the member's bytes, or the array is too large.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"a header of version {version}")
    shape, _, dtype = _HEADERS[version](stream)
    needed = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or needed != size - stream.tell():
        raise ValueError(f"{dtype} {list(shape)} does not fit its {size} bytes")
    if needed > most:
        raise ValueError(f"{dtype} {list(shape)} needs {needed:,} bytes, at most {most:,} are read")
    return tuple(shape)


def _unreadable(file: Path, error: Exception, remedy: str) -> UserError:
    return UserError(f"{file} cannot be read as an array ({first_line(error)}). {remedy}")

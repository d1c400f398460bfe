"""What is worked out of a large file once and kept beside it, or in the user's cache folder, until the file changes."""

import contextlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torchslots.data.tfrecord import atomic_file, index_places
from torchslots.errors import UserError

_VERSION = 1


def kept(path: Path, kind: str, make: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
    """Arrays by name: those kept of a file under the word `kind`, or what `make` gives, which is kept from now on.

    Raises:
        UserError: the file is not there. Where nothing can be written, `make` is called each time.
    """
    stamp = _stamp(path)
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


def _stamp(path: Path) -> np.ndarray:
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}. Check the data folder.") from error
    return np.array([_VERSION, stat.st_size, stat.st_mtime_ns], np.int64)

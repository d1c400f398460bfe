"""Arrays computed once from a file and stored beside it, or in the user's cache where that cannot be written."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from torchslots.io.arrays import read_arrays
from torchslots.io.errors import UserError, first_line
from torchslots.io.files import atomic_file, expanded

_VERSION = 1

Arrays = Mapping[str, np.ndarray]


def user_cache(*names: str) -> Path:
    """A folder or file in the user's cache: below `torchslots` in XDG_CACHE_HOME, or in ~/.cache.

    Where no home is known, as in many containers, it is in the folder for temporary files, one for each user.

    Raises:
        UserError: that one is another user's.
    """
    given, home = os.environ.get("XDG_CACHE_HOME"), expanded("~")
    if given or home.is_absolute():
        return Path(given or home / ".cache").joinpath("torchslots", *names)
    return _own(Path(tempfile.gettempdir()) / f"torchslots-{os.getuid()}").joinpath(*names)


def hub_cache() -> str | None:
    """Where the hub's files are stored; None: where its client stores them.

    Raises:
        UserError: as `user_cache`.
    """
    told = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"} & {*os.environ}
    if told or expanded("~").is_absolute():
        return None
    return str(user_cache("huggingface"))


def _own(folder: Path) -> Path:
    """The folder, which others can make before this user does."""
    if folder.exists() and folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} is another user's. Set XDG_CACHE_HOME to a folder that can be written.")
    return folder


def cache_places(path: Path, ending: str) -> tuple[Path, Path]:
    """Where results computed from a file are stored: in `.torchslots` beside it, else in the user's cache."""
    path = path.resolve()
    folder = hashlib.sha256(os.fsencode(path.parent)).hexdigest()[:16]
    name = path.name + ending
    return path.parent / ".torchslots" / name, user_cache("index", folder, name)


def file_stamp(path: Path) -> list[int]:
    """Size in bytes and time of change in nanoseconds; results stored under another stamp are stale.

    Raises:
        UserError: there is no such file.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {first_line(error)}. Check the data folder.") from error
    return [stat.st_size, stat.st_mtime_ns]


def cached(path: Path, kind: str, make: Callable[[], Arrays]) -> Arrays:
    """Arrays by name, stored for a file under the name `kind`; where they are not, `make` computes them.

    Where nothing can be written they are computed at each call.

    Raises:
        UserError: the file is not there.
    """
    stamp = np.array([_VERSION, *file_stamp(path)], np.int64)
    places = cache_places(path, f".{kind}.npz")
    for place in places:
        with contextlib.suppress(UserError):
            arrays = read_arrays(place, "") if place.is_file() else {}
            if np.array_equal(arrays.pop("stamp", np.empty(0)), stamp):
                return arrays
    made = make()
    for place in places:
        with contextlib.suppress(UserError), atomic_file(place) as part, part.open("wb") as file:
            np.savez(file, **{"stamp": stamp, **made})
            break
    return made

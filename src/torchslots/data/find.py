"""Find a data set's folder below the folder that the user gave."""

import itertools
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from torchslots.io.errors import UserError, first_line
from torchslots.io.files import hidden

Found = TypeVar("Found")

DEPTH = 4
"""Levels of folders that are searched below the given one."""
_MOST_FOLDERS = 4000
_SHOWN = 8


def find(
    root: Path, look: Callable[[Path], Found | None], what: str, remedy: str, depth: int = DEPTH
) -> Found:
    """The first result of `look`: for `root` itself, then for the folders below it, breadth first.

    Args:
        look: From a folder to what it holds of the data set; None: nothing.
        what: What is looked for, for the message.
        remedy: How to get it, a sentence for the message.

    Raises:
        UserError: `root` is no folder, or nothing is found; the message says what was looked for and what is there.
    """
    for folder in folders(root, what, depth):
        found = look(folder)
        if found is not None:
            return found
    raise not_found(root, what, remedy, depth)


def folders(root: Path, what: str, depth: int = DEPTH) -> Iterator[Path]:
    """`root` and the folders below it, breadth first; hidden ones and those named by a number are skipped.

    Raises:
        UserError: `root` is no folder, or one cannot be listed.
    """
    if not root.is_dir():
        raise UserError(f"{root} is no folder. Give the folder that holds {what} with --root.")
    level, seen = [root], 0
    for _ in range(depth + 1):
        yield from level
        seen += len(level)
        below = itertools.chain.from_iterable(map(_subfolders, level))
        level = list(itertools.islice(below, max(0, _MOST_FOLDERS - seen)))


def not_found(root: Path, what: str, remedy: str, depth: int = DEPTH) -> UserError:
    """The error that says what was looked for, and what is there instead."""
    held = _held(root, depth)
    more = f" and {len(held) - _SHOWN} more" if len(held) > _SHOWN else ""
    return UserError(
        f"{root} holds no {what}, in it or up to {depth} folders below. "
        f"It holds {', '.join(held[:_SHOWN]) or 'nothing'}{more}. {remedy}"
    )


def check_split(where: object, split: str, known: Collection[str]) -> None:
    """Check that a data set has a split.

    Raises:
        UserError: it has not; the message names those that it has.
    """
    if split not in known:
        raise UserError(f"{where} has no split `{split}`. It has: {', '.join(known) or 'none'}.")


def names(folder: Path) -> list[str]:
    """Names of the files and folders in a folder that are not hidden.

    Raises:
        UserError: it cannot be listed.
    """
    with _listing(folder) as entries:
        return [entry.name for entry in entries if not hidden(entry.name)]


@contextmanager
def _listing(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as entries:
            yield entries
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {first_line(error)}. Check its permissions.") from error


def _subfolders(folder: Path) -> list[Path]:
    with _listing(folder) as entries:
        plain = (entry for entry in entries if not hidden(entry.name) and not entry.name.isdecimal())
        return [folder / name for name in sorted(entry.name for entry in plain if entry.is_dir())]


def _held(root: Path, depth: int) -> list[str]:
    """The record files below a folder; where there are none, the names in it."""
    files = (
        file.relative_to(root).as_posix()
        for folder in folders(root, "data", depth)
        for file in sorted(folder.glob("*.tfrecord*"))
        if not hidden(file)
    )
    return list(files) or sorted(names(root))


# Record files in shards

_SHARD = re.compile(r"(?P<name>.+\.tfrecords-zlib)-(?P<index>\d{5,})-of-(?P<count>\d{5,})")


def find_shards(root: Path, pattern: str, what: str, remedy: str) -> list[Path]:
    """The shards whose name, without their numbers, matches `pattern`, in `root` or the folders below it.

    Raises:
        UserError: there are none, or one is missing.
    """
    folder, name, count = find(root, partial(_first_shard, pattern), what, remedy)
    shards = [folder / f"{name}-{index:05d}-of-{count:05d}" for index in range(count)]
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing:
        raise UserError(f"{folder}: {len(missing)} of {count} shards are missing: {missing[0]}. {remedy}")
    return shards


def _first_shard(pattern: str, folder: Path) -> tuple[Path, str, int] | None:
    """Folder, name without numbers, and number of shards."""
    for match in filter(None, map(_SHARD.fullmatch, sorted(names(folder)))):
        if re.fullmatch(pattern, match["name"].removesuffix(".tfrecords-zlib")):
            return folder, match["name"], int(match["count"])
    return None

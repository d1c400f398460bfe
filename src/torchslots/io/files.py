"""Files and folders that are written as a whole or not at all, and what a disk refuses told in a sentence."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from torchslots.io.errors import UserError, first_line

ASIDE = ".aside_"
"""Begins the name of what is still being written."""


def write_file(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all: aside, flushed to the disk, then renamed.

    Raises:
        UserError: no space or no permission; what was there before is untouched.
    """
    aside = path.with_name(f"{ASIDE}{path.name}_{os.getpid()}")
    with disk(path, "What was there before is untouched."):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_synced(aside, data)
            aside.replace(path)
            sync_folder(path.parent)
        finally:
            _remove(aside)


def write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a second process out of the folder while the block runs; the lock ends with its process, even a killed one.

    Raises:
        UserError: another process is in it.
    """
    with disk(folder, "Nothing was changed."):
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    """A POSIX lock: loading processes do not inherit it. A file system that cannot lock is trusted."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise UserError(
                f"Another process is training in {folder}. Wait for it, or choose another run folder."
            ) from error


@contextmanager
def disk(path: Path, comfort: str) -> Iterator[None]:
    """Turn what a disk refuses into a message."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. {comfort} Free some space or choose another "
            f"run folder, then give the same command again."
        ) from error


def replace_folder(source: Path, target: Path) -> None:
    """Rename `source` to `target`; an older folder of that name is set aside first and then removed."""
    if target.exists():
        old = target.with_name(f"{ASIDE}old_{target.name}_{os.getpid()}")
        target.rename(old)
        source.rename(target)
        shutil.rmtree(old)
    else:
        source.rename(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def clear_aside(run: Path) -> None:
    """Remove what a killed process left half-written."""
    for path in (*run.glob(f"{ASIDE}*"), *(run / "checkpoints").glob(f"{ASIDE}*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            _remove(path)


def _remove(path: Path) -> None:
    if path.exists():
        path.unlink()


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well, and is removed otherwise.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise UserError(
                f"No space left to write {path} ({error.strerror}). Free some space or choose another folder."
            ) from error
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}). Choose another folder."
        ) from error
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(path: Path):
    """A temporary path in the same folder; on success it replaces `path`, on failure it is removed.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


SPARE = 64 << 20
"""Bytes of disk that are left free."""


def check_space(folder: Path, needed: int) -> None:
    place = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if needed + SPARE > free:
        raise UserError(
            f"{folder} needs {gigabytes(needed)} more, but only {gigabytes(free)} are free. Free space, "
            "choose another --root, or take fewer files with --split or --shards."
        )


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size > 1e9 else f"{size / 1e6:.0f} MB"


@contextmanager
def replaced_together(folder: Path, names: tuple[str, ...]) -> Iterator[list[Path]]:
    """Paths to write to; all of them take their names' places once all are on the disk, or none does."""
    drafts = [folder / f".{name}.{os.getpid()}.tmp" for name in names]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield drafts
        for draft in drafts:
            with draft.open("rb+") as written:
                os.fsync(written.fileno())
        for draft, name in zip(drafts, names):
            draft.replace(folder / name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"The model could not be written to {folder}: {first_line(error)}.") from error
    finally:
        for draft in drafts:
            if folder.is_dir():
                draft.unlink(missing_ok=True)

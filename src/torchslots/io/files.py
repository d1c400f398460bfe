"""Atomic writes of files and folders, a lock, and the free space of a disk."""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from torchslots.io.errors import UserError, first_line

if TYPE_CHECKING:
    from torch import Tensor

SPARE = 64 << 20
"""Bytes of disk that are left free."""
ADVICE = "What was there before is untouched. Free some space or choose another folder."
_UNFINISHED = re.compile(
    r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{6})\.(?P<process>\d+)\.[0-9a-f]{8}\.(?P<kind>part|aside)"
)
"""Names of `_part`, and of older folders while they are replaced."""
_OLD_UNFINISHED = re.compile(r"\.aside_.+|\..+\.(?P<process>\d+)\.(?:tmp|part(?:\.\w+)?)")
"""Those of earlier versions."""
_OLD_AGE = 3600
"""Seconds without a change after which those are taken for left: their names have no machine."""
_PAGES = (b"<!doctype html", b"<html", b"<?xml")
_POINTER = b"version https://git-lfs"
_HEAD = 512
"""Bytes read to recognise a web page."""
_NAME_LENGTH = 200
_BUSY = (errno.EACCES, errno.EAGAIN)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk_errors(path: Path, advice: str = ADVICE) -> Iterator[None]:
    """Turn errors of the disk into a `UserError`.

    Raises:
        UserError: something cannot be written; the message names `path` and ends with `advice`.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = isinstance(error, OSError) and error.errno in _FULL
        reason = "No space left on device" if full else first_line(error)
        raise UserError(f"{path} cannot be written: {reason}. {advice}") from error


@contextmanager
def atomic_files(*paths: Path, durable: bool = False, advice: str = ADVICE) -> Iterator[list[Path]]:
    """Temporary paths beside `paths`, renamed to them together when the block succeeds, else removed, as are folders
    that were made for them.

    Args:
        durable: flush to the disk before renaming.
        advice: the end of the error's message.

    Raises:
        UserError: the disk is full, or a folder cannot be written; what was there before is untouched.
    """
    parts, made = [_part(path) for path in paths], []
    with disk_errors(paths[0], advice):
        try:
            for path in paths:
                made += _make_folder(path.parent)
            yield parts
            for part in parts:
                _share(part)
            if durable:
                _sync(*parts)
            for part, path in zip(parts, paths):
                part.replace(path)
            if durable:
                _sync(*{path.parent for path in paths})
        finally:
            for part in parts:
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)
            for folder in made:
                with contextlib.suppress(OSError):  # it holds the files, or those of others
                    folder.rmdir()


@contextmanager
def atomic_file(path: Path | str, *, durable: bool = False, advice: str = ADVICE) -> Iterator[Path]:
    """`atomic_files` for one file. The temporary path ends with `.part`, so state the format to encoders."""
    with atomic_files(Path(path), durable=durable, advice=advice) as (part,):
        yield part


def write_file(path: Path, data: bytes | str, *, durable: bool = False, advice: str = ADVICE) -> None:
    """Write bytes, or text in UTF-8, as `atomic_files` does; names of files that are no text keep their bytes."""
    with atomic_file(path, durable=durable, advice=advice) as part:
        part.write_bytes(data.encode(errors="surrogateescape") if isinstance(data, str) else data)


@contextmanager
def atomic_folder(path: Path, *, advice: str = ADVICE) -> Iterator[Path]:
    """A temporary folder, renamed to `path` when the block succeeds and its files are on the disk, else removed.

    It replaces an older folder of that name.

    Raises:
        UserError: the disk is full, or the folder cannot be written; an older one is untouched.
    """
    part = _part(path)
    with disk_errors(path, advice):
        try:
            part.mkdir(parents=True)
            yield part
            _sync(*part.iterdir(), part)
            if path.exists():
                old = part.with_suffix(".aside")
                path.rename(old)
                try:
                    part.rename(path)
                except OSError:
                    old.rename(path)
                    raise
                _remove(old)
            else:
                part.rename(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def scratch_folder(path: Path, *, advice: str = ADVICE) -> Iterator[Path]:
    """A temporary folder beside `path`, removed when the block ends.

    Raises:
        UserError: it cannot be made.
    """
    part = _part(path)
    with disk_errors(path.parent, advice):
        part.mkdir(parents=True)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_tensors(
    tensors: Mapping[str, "Tensor"], part: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file at a temporary path.

    The library writes a file of its own name beside it first, which would stay there for ever if the process is killed
    then: so it gets a folder of ours, which `sweep` knows.
    """
    from safetensors.torch import save_file

    with scratch_folder(part) as folder:
        whole = folder / "tensors"
        save_file(dict(tensors), whole, metadata)
        whole.replace(part)


def hidden(path: Path | str) -> bool:
    """Whether file managers hide a file or folder, or made it for themselves: `.DS_Store`, `._a.mp4`, `Thumbs.db`."""
    name = Path(path).name
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx")


def remove_partial(folder: Path, name: str = "*") -> None:
    """Remove unfinished files and folders called `name` that a killed process left in `folder`, another machine's
    and those of earlier versions too."""
    sweep(folder)
    for path in (*folder.glob(f".{name}.*.part"), *folder.glob(f".aside_{name}")):
        owner = _UNFINISHED.fullmatch(path.name)
        if owner is None or owner["host"] != _host():  # what is left of this machine's is being written
            _remove(path)


def sweep(folder: Path) -> None:
    """Remove unfinished files in a folder whose processes on this machine have ended.

    A folder that was being replaced gets its name back where the new one did not come.
    """
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            owner = _UNFINISHED.fullmatch(path.name)
            if owner is None:
                if _is_old_leftover(path):
                    _remove(path)
            elif owner["host"] == _host() and not _lives(int(owner["process"])):
                if owner["kind"] == "aside" and not path.with_name(owner["name"]).exists():
                    path.rename(path.with_name(owner["name"]))
                else:
                    _remove(path)


@contextmanager
def locked(file: Path, busy: str | None = None, *, advice: str = ADVICE) -> Iterator[None]:
    """Keep other processes out while the block runs. The lock ends with its process, even a killed one.

    It is a POSIX lock, which the processes of a data loader do not inherit. File systems without locks have none.

    Args:
        busy: the message where another process has the lock; None: wait for it.

    Raises:
        UserError: another process has the lock, or the file cannot be made.
    """
    with disk_errors(file.parent, advice):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except OSError as error:
            if busy and error.errno in _BUSY:
                raise UserError(busy) from error
        yield
    finally:
        os.close(handle)


def check_space(folder: Path, needed: float, advice: str, what: str = "") -> None:
    """Check that the disk has room before writing.

    Args:
        needed: bytes; `SPARE` are left free besides.
        what: what is written, for the message; empty: `folder`.

    Raises:
        UserError: too few are free; the message ends with `advice`.
    """
    place = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if needed + SPARE > free:
        who, where = (what, f" in {folder}") if what else (folder, "")
        raise UserError(
            f"{who} needs {size_text(needed)} more{where}, but only {size_text(free)} are free. {advice}"
        )


def expanded(path: Path | str) -> Path:
    """A path with a home folder in the place of its `~`; unchanged where that home is not known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def refuse_page(path: Path, wanted: str = "a checkpoint") -> None:
    """Check that a file is not what a download leaves in the place of another; folders and missing files pass.

    Args:
        wanted: what it should be, for the message.

    Raises:
        UserError: it is empty, a web page, a pointer of Git LFS, or cannot be read.
    """
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD).lstrip().lower()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}. Check its permissions.") from error
    if not head:
        raise UserError(f"{path} is empty, not {wanted}. Copy or download it again.")
    if head.startswith(_PAGES):
        raise UserError(
            f"{path} is a web page, not {wanted}: a login, a proxy or a page about the file answered. Download the "
            "file itself."
        )
    if head.startswith(_POINTER):
        raise UserError(f"{path} is a pointer of Git LFS, not {wanted}: get the file that it stands for.")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def size_text(size: float) -> str:
    """A size with its unit: 1.2 GB, 114 MB, 900 bytes."""
    if size < 1e6:
        return f"{size:,.0f} bytes"
    return f"{size / 1e9:.1f} GB" if size > 1e9 else f"{size / 1e6:.0f} MB"


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder; returns it and those above it that were missing, the innermost first."""
    missing = list(itertools.takewhile(lambda each: not each.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _part(path: Path) -> Path:
    _sweep_once(path.parent)
    name = path.name[:_NAME_LENGTH]
    return path.with_name(f".{name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}.part")


@lru_cache(maxsize=1)
def _host() -> str:
    """This machine, in six letters: folders may be shared by several, whose processes have numbers of their own."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


@lru_cache(maxsize=4096)
def _sweep_once(folder: Path) -> None:
    """`sweep`, once for each process."""
    sweep(folder)


def _is_old_leftover(path: Path) -> bool:
    """Whether an earlier version left an unfinished file, long ago, whose process is no more."""
    owner = _OLD_UNFINISHED.fullmatch(path.name)
    if owner is None or time.time() - path.lstat().st_mtime < _OLD_AGE:
        return False
    return owner["process"] is None or not _lives(int(owner["process"]))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or no number of a process
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _share(file: Path) -> None:
    """Give a file that its library made for the owner alone (safetensors does) the mode that the umask leaves."""
    if file.stat().st_mode & 0o077:
        return
    probe = _part(file)
    probe.touch()
    file.chmod(probe.stat().st_mode)
    probe.unlink()


def _sync(*paths: Path) -> None:
    """Flush files and folders to the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

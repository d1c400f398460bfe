"""Files over HTTPS: several at once, resumed where they broke off, checked, with a progress bar.

A file grows under `<name>.part` and takes its name only when its size and MD5 are those of the server; so whatever has
its name is whole, and the same command goes on where an interrupted one stopped.
"""

import base64
import errno
import hashlib
import http.client
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchslots.data.bucket import (
    MOST_FAILURES,
    PAST_THE_END,
    Broken,
    Refused,
    RemoteFile,
    header_md5,
    open_at,
    pause,
)
from torchslots.errors import UserError
from torchslots.progress import progress

_CHUNK = 1 << 18
_MARGIN = 64 << 20
"""Bytes of disk that are left free."""


def download_all(files: list[RemoteFile], folder: Path, name: str, connections: int) -> None:
    """Several files at once; the first failure, or Ctrl-C, ends the others at their next chunk."""
    stop = threading.Event()
    sizes = [file.size for file in files if file.size is not None]
    total = sum(sizes) // 10**6 if len(sizes) == len(files) else None
    _make(folder)
    with progress(f"Downloading {name}", total, "MB") as advance, ThreadPoolExecutor(connections) as pool:
        tasks = [
            pool.submit(_download_one, file, folder / file.name, lambda size: advance(size / 1e6), stop)
            for file in files
        ]
        try:
            done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    for task in done:
        task.result()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}). Choose another --root.") from error


def _download_one(
    file: RemoteFile, path: Path, advance: Callable[[int], None], stop: threading.Event
) -> None:
    """Bring one file whole under its name; what is there already stays."""
    if path.exists() and (file.size is None or path.stat().st_size == file.size):
        advance(path.stat().st_size)
        return
    part = _part(path)
    advance(file_bytes(part))
    failures = 0
    while not stop.is_set():
        before = file_bytes(part)
        try:
            _attempt(file, part, advance, stop)
            if not stop.is_set():
                part.replace(path)
            return
        except Refused as error:
            if file.name == "features.json" and error.status == 404:
                return
            if error.status == PAST_THE_END and part.exists():
                advance(-file_bytes(part))
                part.unlink()
                continue
            raise UserError(f"{error}. Check the name, or use a mirror with TORCHSLOTS_MIRROR.") from error
        except Broken as error:
            failures = 0 if file_bytes(part) > before else failures + 1
            if failures >= MOST_FAILURES:
                raise UserError(
                    f"{file.url} did not come in {failures} attempts: {error}. What has come is kept; "
                    "the same command goes on from there."
                ) from error
            stop.wait(pause(failures))
        except OSError as error:
            raise disk_error(path, error) from error


def _attempt(file: RemoteFile, part: Path, advance: Callable[[int], None], stop: threading.Event) -> None:
    """Append what is missing to the `.part` file and check the whole.

    Raises:
        Broken: the connection ended early, or size or checksum are wrong (then the part is thrown away).
    """
    have, size, md5 = file_bytes(part), file.size, file.md5
    if size is None or have < size:
        with open_at(file.url, start=have) as response:
            have = _resume_at(response, have, part, advance)
            size = (
                have + int(response.headers["Content-Length"]) if response.headers["Content-Length"] else size
            )
            md5 = md5 or header_md5(response)
            with part.open("r+b" if have else "wb") as sink:
                sink.truncate(have)
                sink.seek(have)
                _copy(response, sink, advance, stop)
    if stop.is_set():
        return
    if size is not None and file_bytes(part) < size:
        raise Broken(f"the connection ended after {file_bytes(part)} of {size} bytes")
    expected = file.size if file.size is not None else size
    if (expected is not None and file_bytes(part) != expected) or (md5 and _md5(part) != md5):
        advance(-file_bytes(part))
        part.unlink()
        raise Broken("it arrived damaged (size or MD5 differ from the bucket's)")


def _resume_at(response: Any, have: int, part: Path, advance: Callable[[int], None]) -> int:
    """Where the answer begins: at `have` if the server resumes, at 0 if it ignores the wish for a range."""
    if have and response.status == 206:
        begins = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if begins and int(begins[1]) == have:
            return have
        part.unlink()
        advance(-have)
        raise Broken("the server sent another range than it was asked for")
    advance(-have)
    return 0


def _copy(response: Any, sink: Any, advance: Callable[[int], None], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            block = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise Broken(f"the connection broke ({error})") from error
        if not block:
            return
        sink.write(block)
        advance(len(block))


@contextmanager
def told(host: str) -> Iterator[None]:
    """Failures before the first file, as one sentence each."""
    try:
        yield
    except Refused as error:
        raise UserError(
            f"{error}. The data set may have moved: look for a mirror and set TORCHSLOTS_MIRROR."
        ) from error
    except Broken as error:
        raise UserError(
            f"{host} cannot be reached: {error}. Check the network, or set TORCHSLOTS_MIRROR."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{host} answers with something that is no data set ({error}). Check TORCHSLOTS_MIRROR."
        ) from error


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return base64.b64encode(digest.digest()).decode()


def file_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def disk_error(path: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(
            f"No space left to write {path} ({error.strerror}). What has come is kept: free some space and "
            "give the same command again."
        )
    return UserError(f"{path} cannot be written ({error.strerror or error}). Choose another --root.")


# Room


def check_space(folder: Path, needed: int) -> None:
    place = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if needed + _MARGIN > free:
        raise UserError(
            f"{folder} needs {gigabytes(needed)} more, but only {gigabytes(free)} are free. Free space, "
            "choose another --root, or take fewer files with --split or --shards."
        )


def present(path: Path) -> int:
    part = _part(path)
    found = path if path.exists() else part
    return found.stat().st_size if found.exists() else 0


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size > 1e9 else f"{size / 1e6:.0f} MB"

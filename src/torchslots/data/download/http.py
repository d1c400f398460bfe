"""Download files over HTTPS: resumed, checked, in parallel."""

import base64
import hashlib
import http.client
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torchslots.io.errors import UserError, first_line
from torchslots.io.files import disk_errors
from torchslots.io.progress import progress

_PAST_THE_END = 416
_MOST_FAILURES = 6
"""Consecutive attempts without progress before a file is given up."""
_TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
_CONNECTING = 8.0
"""The same for a small file, which is asked for before anything else."""
_MOST_UNCONNECTED = 2
"""Attempts after which a server that was never reached is given up."""
_REFUSALS = (400, 401, 403, 404, 405, 410, _PAST_THE_END)
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_CHUNK = 1 << 18
_NO_SPACE = "The downloaded part is kept: free some space or choose another --root, and repeat the command."
_REFUSED = "Check the name, or use a mirror with TORCHSLOTS_MIRROR."

Taken = TypeVar("Taken")


@dataclass(frozen=True)
class RemoteFile:
    """An object in a bucket; size in bytes and MD5 in base64, None: unknown."""

    url: str
    name: str
    size: int | None = None
    md5: str | None = None


class Refused(Exception):
    """The server refused the request."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(f"{url} answers with status {status}")
        self.url, self.status = url, status


class WebPage(Refused):
    """The server sent a page to read in place of the file."""

    def __str__(self) -> str:
        return f"{self.url} answers with a web page in place of the file: a login or a proxy is in the way"


class Broken(Exception):
    """The connection broke, or the data are damaged; another attempt may succeed."""


class NoConnection(Broken):
    """The server was not reached."""

    def __init__(self, reason: object) -> None:
        super().__init__(f"no connection ({reason})")
        self.slow = isinstance(reason, TimeoutError)
        """Whether nothing answered at all, so that another attempt only takes as long again."""


def _pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 1, 2, 4, ..., at most 30."""
    return min(_FIRST_PAUSE * 2 ** max(failures - 1, 0), _LONGEST_PAUSE)


@contextmanager
def _open_at(url: str, start: int = 0, timeout: float = _TIMEOUT) -> Iterator[Any]:
    """The answer to a request for a file from byte `start` on.

    Raises:
        Refused: the server refuses for good.
        NoConnection: it was not reached.
        Broken: no answer, or a temporary error.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "torchslots"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _REFUSALS:
            raise Refused(url, error.code) from error
        raise Broken(f"the server answers with status {error.code}") from error
    except urllib.error.URLError as error:
        raise NoConnection(error.reason) from error
    except (OSError, http.client.HTTPException) as error:
        raise Broken(f"no connection ({first_line(error)})") from error
    with response:
        yield response


def demand_connection(url: str) -> None:
    """Check that a server answers, whatever it says.

    Raises:
        NoConnection: it does not.
    """
    try:
        with _open_at(url, timeout=_CONNECTING):
            return
    except NoConnection:
        raise
    except (Refused, Broken):
        return


def fetch(url: str) -> bytes:
    """The content of a small file, in several attempts.

    Raises:
        Refused: the server refuses.
        Broken: no answer after several attempts.
    """
    return ask(url, lambda response: response.read())


def probe(url: str, name: str) -> RemoteFile:
    """A file with its size and checksum by the headers of the answer, in several attempts; the content is not read.

    Raises:
        Refused: the server refuses.
        Broken: no answer after several attempts.
    """

    def head(response: Any) -> RemoteFile:
        size = response.headers.get("Content-Length")
        return RemoteFile(url, name, int(size) if size else None, _header_md5(response))

    return ask(url, head)


def ask(url: str, take: Callable[[Any], Taken]) -> Taken:
    """`take` of the answer, in several attempts; few where there is no connection at all.

    Raises:
        Refused: the server refuses.
        Broken: no answer after several attempts.
    """
    failures = 0
    while True:
        try:
            with _open_at(url, timeout=_CONNECTING) as response:
                return take(response)
        except NoConnection as error:
            failures += 1
            if error.slow or failures >= _MOST_UNCONNECTED:
                raise
            time.sleep(_pause(failures))
        except (Broken, OSError, http.client.HTTPException) as error:
            failures += 1
            if failures == _MOST_FAILURES:
                raise Broken(first_line(error)) from error
            time.sleep(_pause(failures))


def _header_md5(response: Any) -> str | None:
    """The MD5 that Google's storage sends with a whole object or a range of it."""
    values = ",".join(response.headers.get_all("x-goog-hash") or [])
    found = re.search(r"md5=([\w+/=]+)", values)
    return found[1] if found else None


def download_all(
    files: list[RemoteFile],
    folder: Path,
    name: str,
    connections: int,
    *,
    no_space: str = _NO_SPACE,
    refused: str = _REFUSED,
) -> None:
    """Download files in parallel; the first failure, or Ctrl-C, stops the others at their next chunk.

    Args:
        no_space: end of the message if the disk refuses.
        refused: end of the message if the server refuses.

    Raises:
        UserError: the server refuses or cannot be reached, the disk is full, a file always arrives damaged.
    """
    stop = threading.Event()
    sizes = [file.size for file in files if file.size is not None]
    total = sum(sizes) // 10**6 if len(sizes) == len(files) else None
    with disk_errors(folder, no_space):
        folder.mkdir(parents=True, exist_ok=True)
    with progress(f"Downloading {name}", total, "MB") as advance, ThreadPoolExecutor(connections) as pool:
        tasks = [
            pool.submit(
                _download_one,
                file,
                folder / file.name,
                lambda size: advance(size / 1e6),
                stop,
                no_space,
                refused,
            )
            for file in files
        ]
        try:
            done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    for task in done:
        task.result()


def _download_one(
    file: RemoteFile,
    path: Path,
    advance: Callable[[int], None],
    stop: threading.Event,
    no_space: str,
    refused: str,
) -> None:
    """Download one file; a complete one is not downloaded again."""
    if path.exists() and (file.size is None or path.stat().st_size == file.size):
        advance(path.stat().st_size)
        return
    part = _part(path)
    advance(_file_bytes(part))
    failures = 0
    while not stop.is_set():
        before = _file_bytes(part)
        try:
            with disk_errors(path, no_space):
                _attempt(file, part, advance, stop)
                if not stop.is_set():
                    part.replace(path)
            return
        except Refused as error:
            if file.name == "features.json" and error.status == 404:
                return
            if error.status == _PAST_THE_END and part.exists():
                advance(-_file_bytes(part))
                part.unlink()
                continue
            raise UserError(f"{error}. {refused}") from error
        except Broken as error:
            failures = 0 if _file_bytes(part) > before else failures + 1
            if failures >= _MOST_FAILURES:
                raise UserError(
                    f"{file.url} did not arrive in {failures} attempts: {error}. The downloaded part is "
                    "kept; the same command resumes."
                ) from error
            stop.wait(_pause(failures))


def _attempt(file: RemoteFile, part: Path, advance: Callable[[int], None], stop: threading.Event) -> None:
    """Append what is missing to the `.part` file and check the whole.

    Raises:
        Broken: the connection ended early; size or checksum are wrong (then the part is removed).
        WebPage: no file.
    """
    have, size, md5 = _file_bytes(part), file.size, file.md5
    if size is None or have < size or not part.exists():
        with _open_at(file.url, start=have) as response:
            if response.headers.get_content_type() == "text/html":
                raise WebPage(file.url, response.status)
            have = _resume_at(response, have, part, advance)
            size = (
                have + int(response.headers["Content-Length"]) if response.headers["Content-Length"] else size
            )
            md5 = md5 or _header_md5(response)
            with part.open("r+b" if have else "wb") as sink:
                sink.truncate(have)
                sink.seek(have)
                _copy(response, sink, advance, stop)
    if stop.is_set():
        return
    if size is not None and _file_bytes(part) < size:
        raise Broken(f"the connection ended after {_file_bytes(part)} of {size} bytes")
    expected = file.size if file.size is not None else size
    if (expected is not None and _file_bytes(part) != expected) or (md5 and _md5(part) != md5):
        advance(-_file_bytes(part))
        part.unlink()
        raise Broken("it arrived damaged (size or MD5 differ from the bucket's)")


def _resume_at(response: Any, have: int, part: Path, advance: Callable[[int], None]) -> int:
    """Offset of the answer: `have` if the server resumes, 0 if it ignores the range.

    Raises:
        Broken: it sent another range.
    """
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
            raise Broken(f"the connection broke ({first_line(error)})") from error
        if not block:
            return
        sink.write(block)
        advance(len(block))


@contextmanager
def server_errors(host: str) -> Iterator[None]:
    """Turn errors before the first file into a `UserError`.

    Raises:
        UserError: the server refuses, cannot be reached, or answers with something else.
    """
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
            f"The answer of {host} is no data set ({first_line(error)}). Check TORCHSLOTS_MIRROR."
        ) from error


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return base64.b64encode(digest.digest()).decode()


def _file_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def present(path: Path) -> int:
    """Downloaded bytes of a file, complete or in part."""
    return _file_bytes(path) or _file_bytes(_part(path))


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")

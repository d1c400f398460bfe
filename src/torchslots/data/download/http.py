"""What a public bucket of Google Cloud Storage holds, and reading from it over HTTPS, with nothing but urllib."""

import base64
import hashlib
import http.client
import json
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
from typing import Any

from torchslots.io.errors import UserError
from torchslots.io.files import disk_errors
from torchslots.io.progress import progress

STORAGE = "https://storage.googleapis.com"
SHARD = re.compile(r"(?P<name>.+)-(?P<split>[^-]+)\.tfrecord-(?P<index>\d{5,})-of-(?P<count>\d{5,})")
PAST_THE_END = 416
MOST_FAILURES = 6
"""Attempts in a row that bring nothing before a file is given up."""
_TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
_REFUSALS = (400, 401, 403, 404, 405, 410, PAST_THE_END)
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


@dataclass(frozen=True)
class RemoteFile:
    """An object in a bucket; size in bytes and MD5 in base64, None where the bucket does not tell."""

    url: str
    name: str
    size: int | None = None
    md5: str | None = None


class Refused(Exception):
    """The server answered, and the answer is no."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(f"{url} answers with status {status}")
        self.status = status


class Broken(Exception):
    """The connection broke, or what came is not what should have come; worth another attempt."""


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 1, 2, 4, ..., at most 30."""
    return min(_FIRST_PAUSE * 2 ** max(failures - 1, 0), _LONGEST_PAUSE)


def checked_info(info: Any) -> dict[str, Any]:
    """dataset_info.json, if it is one.

    Raises:
        ValueError: it is not.
    """
    splits = info.get("splits") if isinstance(info, dict) else None
    if not isinstance(splits, list) or not splits or "name" not in info:
        raise ValueError("dataset_info.json lists no splits")
    for split in splits:
        plain = re.fullmatch(r"\w+", split["name"]) and re.fullmatch(r"\w+", info["name"])
        if not plain or not all(str(length).isdecimal() for length in split["shardLengths"]):
            raise ValueError("dataset_info.json lists no shards")
    return info


def offered_files(host: str, bucket: str, prefix: str, info: dict[str, Any]) -> list[RemoteFile]:
    """Files by the bucket's list; where that is refused, by the shard counts in dataset_info.json."""
    try:
        return list(_listing(host, bucket, prefix))
    except Refused:
        names = [shard for split in info.get("splits", []) for shard in shard_names(info, split)]
        return [RemoteFile(f"{host}/{bucket}/{prefix}/{name}", name) for name in [*names, "features.json"]]


def _listing(host: str, bucket: str, prefix: str) -> Iterator[RemoteFile]:
    query = {"prefix": f"{prefix}/", "maxResults": "1000", "fields": "items(name,size,md5Hash),nextPageToken"}
    while True:
        page = json.loads(fetch(f"{host}/storage/v1/b/{bucket}/o?{urllib.parse.urlencode(query)}"))
        for item in page.get("items", []):
            name = item["name"].removeprefix(f"{prefix}/")
            if re.fullmatch(r"[\w.+-]+", name) and not name.startswith("."):
                url = f"{host}/{bucket}/{urllib.parse.quote(item['name'])}"
                yield RemoteFile(url, name, int(item["size"]), item.get("md5Hash"))
        if "nextPageToken" not in page:
            return
        query["pageToken"] = page["nextPageToken"]


def shard_names(info: dict[str, Any], split: dict[str, Any]) -> list[str]:
    """The names of a split's files, as published."""
    count = len(split["shardLengths"])
    return [f"{info['name']}-{split['name']}.tfrecord-{i:05d}-of-{count:05d}" for i in range(count)]


@contextmanager
def open_at(url: str, start: int = 0) -> Iterator[Any]:
    """The answer to a request for a file from byte `start` on.

    Raises:
        Refused: the server says no, for good.
        Broken: no answer, or one that asks for patience.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "torchslots"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _REFUSALS:
            raise Refused(url, error.code) from error
        raise Broken(f"the server answers with status {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Broken(f"no connection ({getattr(error, 'reason', None) or error})") from error
    with response:
        yield response


def fetch(url: str) -> bytes:
    """A small file, in memory, with patience.

    Raises:
        Refused: the server says no.
        Broken: no answer after several attempts.
    """
    for failures in range(1, MOST_FAILURES + 1):
        try:
            with open_at(url) as response:
                return response.read()
        except (Broken, OSError, http.client.HTTPException) as error:
            if failures == MOST_FAILURES:
                raise Broken(str(error)) from error
            time.sleep(pause(failures))
    raise AssertionError("unreachable")


def header_md5(response: Any) -> str | None:
    """The MD5 that Google's storage sends with a whole object or a range of it."""
    values = ",".join(response.headers.get_all("x-goog-hash") or [])
    found = re.search(r"md5=([\w+/=]+)", values)
    return found[1] if found else None


_CHUNK = 1 << 18
_ADVICE = "What has come is kept: free some space or choose another --root, and give the same command again."


def download_all(files: list[RemoteFile], folder: Path, name: str, connections: int) -> None:
    """Several files at once; the first failure, or Ctrl-C, ends the others at their next chunk."""
    stop = threading.Event()
    sizes = [file.size for file in files if file.size is not None]
    total = sum(sizes) // 10**6 if len(sizes) == len(files) else None
    with disk_errors(folder, _ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
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
            with disk_errors(path, _ADVICE):
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


def present(path: Path) -> int:
    part = _part(path)
    found = path if path.exists() else part
    return found.stat().st_size if found.exists() else 0


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")

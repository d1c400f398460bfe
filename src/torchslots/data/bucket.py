"""What a public bucket of Google Cloud Storage holds, and reading from it over HTTPS, with nothing but urllib."""

import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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

"""Files of public repositories on the Hugging Face hub, and their addresses."""

import json
import os
import re
import urllib.parse
from dataclasses import dataclass
from typing import Any

from torchslots.data.download.http import NoConnection, RemoteFile, ask, demand_connection

_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')


@dataclass(frozen=True)
class HubFile:
    """A file in a repository; size in bytes and SHA-256 in hexadecimal digits, None: unknown."""

    path: str
    size: int | None = None
    sha256: str | None = None


def endpoint() -> str:
    """Address of the hub: HF_ENDPOINT in the environment, or the usual one."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def address(repo: str, path: str) -> str:
    """Address of a file on the main branch of a repository."""
    return f"{endpoint()}/{repo}/resolve/main/{urllib.parse.quote(path)}"


def no_connection() -> NoConnection | None:
    """Why the hub is not reached; None: it answers. Its client says so only after most of a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return NoConnection("HF_HUB_OFFLINE is set")
    try:
        return demand_connection(endpoint())
    except NoConnection as error:
        return error


def remote(repo: str, file: HubFile) -> RemoteFile:
    """A file to download under the last part of its path."""
    return RemoteFile(address(repo, file.path), file.path.rpartition("/")[2], file.size)


def list_files(repo: str) -> list[HubFile]:
    """Files on the main branch of a repository, in all folders.

    Raises:
        Refused: the hub refuses; it also answers 401 for a repository that does not exist.
        Broken: no answer after several attempts.
        ValueError: the answer is not a list of files.
    """
    found: list[HubFile] = []
    url: str | None = f"{endpoint()}/api/models/{repo}/tree/main?recursive=true"
    while url is not None:
        page, url = ask(url, _page)
        found += [_file(item) for item in page if item.get("type", "file") == "file"]
    return found


def _page(response: Any) -> tuple[list[dict[str, Any]], str | None]:
    """The items of an answer, and the address of the next one."""
    items = json.loads(response.read())
    if not isinstance(items, list) or not all(isinstance(item, dict) and "path" in item for item in items):
        raise ValueError("the answer is no list of files")
    following = _NEXT.search(response.headers.get("Link") or "")
    return items, following[1] if following else None


def _file(item: dict[str, Any]) -> HubFile:
    stored = item.get("lfs") or {}
    return HubFile(str(item["path"]), stored.get("size", item.get("size")), stored.get("oid"))

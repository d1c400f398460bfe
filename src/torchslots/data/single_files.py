"""Data sets that are published as single files: brought over HTTPS, and extracted where they are archives."""

import os
import time
import urllib.parse
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from torchslots.data.archives import ENDINGS, extract
from torchslots.data.bucket import MOST_FAILURES, Broken, RemoteFile, header_md5, open_at, pause
from torchslots.data.catalog import RemoteFiles
from torchslots.data.transfer import check_space, download_all, present, told
from torchslots.errors import UserError


def download_single(
    name: str, remote: RemoteFiles, root: Path, splits: Sequence[str], connections: int, base_url: str | None
) -> Path:
    """Bring files that lie at an address of their own; archives are extracted."""
    mirror = base_url or os.environ.get("TORCHSLOTS_MIRROR")
    place = urllib.parse.urlsplit(remote.address)
    address = f"{mirror.rstrip('/')}{place.path}" if mirror else remote.address
    unknown = [split for split in splits if split not in (remote.splits or ("all",))]
    if unknown:
        known = (
            f"Files of their own have: {', '.join(remote.splits)}." if remote.splits else "Leave out --split."
        )
        raise UserError(f"{name} has no file of its own for `{unknown[0]}`. {known}")
    wanted = [
        file for file, split in zip_longest(remote.files, remote.splits) if not splits or split in splits
    ]
    folder = root / PurePosixPath(place.path).name
    with told(mirror or place.netloc):
        files = [_probe(f"{address}/{file}", file) for file in wanted]
    check_space(folder, sum(max((file.size or 0) - present(folder / file.name), 0) for file in files))
    download_all(files, folder, name, max(1, connections))
    for file in files:
        if file.name.endswith(ENDINGS):
            extract(folder / file.name)
    return folder


def _probe(url: str, name: str) -> RemoteFile:
    """Size and checksum by the head of the answer, asked for with patience; the file itself is not read."""
    for failures in range(1, MOST_FAILURES + 1):
        try:
            with open_at(url) as response:
                size = response.headers.get("Content-Length")
                return RemoteFile(url, name, int(size) if size else None, header_md5(response))
        except Broken:
            if failures == MOST_FAILURES:
                raise
            time.sleep(pause(failures))
    raise AssertionError("unreachable")

"""Download published data sets over HTTPS: resumed, checked, in parallel.

The same command resumes an interrupted one. When not all shards are downloaded, dataset_info.json lists those that are
there, in a form that TFDS reads too.
"""

import json
import os
import urllib.parse
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from torchslots.data.catalog import Remote, RemoteFiles, entry
from torchslots.data.download.archives import ENDINGS, extract
from torchslots.data.download.bucket import SHARD, STORAGE, checked_info, offered_files, shard_names
from torchslots.data.download.http import (
    RemoteFile,
    download_all,
    fetch,
    present,
    probe,
    server_errors,
)
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError
from torchslots.io.files import check_space, size_text, write_file
from torchslots.io.json_files import parse_json

_SINGLE = (".tfrecords", ".zip", ".gz", ".tar")


def download(
    name: str,
    root: Path,
    *,
    splits: Sequence[str] = (),
    shards: int | None = None,
    resolution: int | None = None,
    connections: int = 4,
    base_url: str | None = None,
) -> Path:
    """Download a published data set, or a part of it, below `root` and return its folder.

    Args:
        splits: which; none means all.
        shards: only the first so many files of each split; None: all.
        resolution: pixels of one side, of those published; None: the usual one.
        connections: files at the same time.
        base_url: another server, with files at base_url/<bucket>/<path>; None: TORCHSLOTS_MIRROR in the
            environment, or Google's.

    Raises:
        UserError: unknown name, split or resolution; server not reachable or refusing; disk full; a file that arrives
            damaged at every attempt.
    """
    single = entry(name).remote
    if isinstance(single, RemoteFiles):
        if shards is not None or resolution is not None:
            raise UserError(f"{name} is published as single files: leave out --shards and --resolution.")
        return download_single(name, single, Path(root), splits, connections, base_url)
    remote, size = _remote(name, resolution)
    prefix = remote.prefix.format(resolution=size)
    folder = Path(root) / prefix.removeprefix("tfds/")
    host = (base_url or os.environ.get("TORCHSLOTS_MIRROR") or STORAGE).rstrip("/")
    with server_errors(host):
        info = checked_info(parse_json(fetch(f"{host}/{remote.bucket}/{prefix}/dataset_info.json")))
        offered = offered_files(host, remote.bucket, prefix, info)
    chosen = _choose(offered, info, splits, shards, f"{name} at {size} pixels")
    _check_room(folder, {file.name: _size(file, info) for file in chosen})
    try:
        download_all(chosen, folder, name, max(1, connections))
    finally:
        _write_info(folder, info)
    return folder


def _remote(name: str, resolution: int | None) -> tuple[Remote, int]:
    remote = entry(name).remote
    if not isinstance(remote, Remote):
        if entry(name).get:
            raise UserError(f"`{name}` cannot be downloaded from here. {entry(name).get}")
        raise UserError(
            f"`{name}` is not published anywhere, so it cannot be downloaded: {entry(name).description}."
        )
    size = resolution or remote.resolutions[0]
    if size not in remote.resolutions:
        known = ", ".join(map(str, remote.resolutions))
        raise UserError(f"{name} is not published at {size} pixels. Choose --resolution from: {known}.")
    return remote, size


def _choose(
    offered: list[RemoteFile], info: dict[str, Any], splits: Sequence[str], shards: int | None, what: str
) -> list[RemoteFile]:
    """Small files first, then the first `shards` of each wanted split."""
    matches = {file.name: SHARD.fullmatch(file.name) for file in offered}
    known = sorted({match["split"] for match in matches.values() if match})
    unknown = [split for split in splits if split not in known]
    if unknown or not known:
        raise UserError(
            f"{what} has no split `{', '.join(unknown)}`. It has: {', '.join(known) or 'no files at all'}."
        )
    if shards is not None and shards < 1:
        raise UserError(f"--shards is {shards}; ask for 1 or more, or leave it out for all.")

    def wanted(file: RemoteFile) -> bool:
        match = matches[file.name]
        if match is None:
            return file.name != "dataset_info.json" and (file.size or 0) < 1 << 20
        return match["split"] in (splits or known) and (shards is None or int(match["index"]) < shards)

    return sorted(filter(wanted, offered), key=lambda file: (matches[file.name] is not None, file.name))


def _check_room(folder: Path, sizes: dict[str, int]) -> None:
    """Refuse a download that the disk cannot hold. `sizes`: bytes of each file."""
    missing = sum(max(size - present(folder / name), 0) for name, size in sizes.items())
    advice = "Free space, choose another --root, or take fewer files with --split or --shards."
    check_space(folder, missing, advice)


def _size(file: RemoteFile, info: dict[str, Any]) -> int:
    """Bytes of a file; where the bucket does not say, the mean of its split by dataset_info.json."""
    match = SHARD.fullmatch(file.name)
    if file.size is not None or match is None:
        return file.size or 0
    for split in info.get("splits", []):
        if split["name"] == match["split"]:
            return int(split.get("numBytes", 0)) // max(len(split["shardLengths"]), 1)
    return 0


def _write_info(folder: Path, published: dict[str, Any]) -> None:
    """dataset_info.json as published; a split of which only the first shards are there lists only those."""
    if not folder.is_dir():
        return
    info = {
        **published,
        "splits": [_present_split(folder, published, split) for split in published["splits"]],
    }
    write_file(folder / "dataset_info.json", json.dumps(info, indent=2, sort_keys=True))


def _present_split(folder: Path, info: dict[str, Any], split: dict[str, Any]) -> dict[str, Any]:
    names = shard_names(info, split)
    missing = [i for i, name in enumerate(names) if not (folder / name).exists()]
    count = missing[0] if missing else len(names)
    if count in (0, len(names)):
        return split
    template = f"{{DATASET}}-{{SPLIT}}.{{FILEFORMAT}}-{{SHARD_INDEX}}-of-{len(names):05d}"
    size = sum((folder / name).stat().st_size for name in names[:count])
    lengths = split["shardLengths"][:count]
    return {**split, "shardLengths": lengths, "numBytes": str(size), "filepathTemplate": template}


def data_download(
    name: str,
    /,
    *,
    root: Path = Path("data"),
    split: tuple[str, ...] = (),
    shards: int | None = None,
    resolution: int | None = None,
    connections: int = 4,
    base_url: str | None = None,
) -> None:
    """Download a published data set, or a part of it; the same command resumes after an interruption.

    Args:
        name: Name in `torchslots data list`.
        root: Folder for all data sets; this one goes to ROOT/NAME/<size>x<size>/<version>, single files to ROOT/NAME.
        split: Splits to download, such as train validation; none: all. Single files: only splits in files of their own.
        shards: Only the first so many files of each split (MOVi at 128 pixels: 19 videos, 114 MB each).
        resolution: Pixels of one side, of the published sizes; none: the usual one.
        connections: Files at the same time.
        base_url: Another server, with files at BASE_URL/<bucket>/<path>; none: TORCHSLOTS_MIRROR or Google's.
    """
    folder = download(
        name,
        root,
        splits=split,
        shards=shards,
        resolution=resolution,
        connections=connections,
        base_url=base_url,
    )
    files = [file for file in folder.iterdir() if SHARD.fullmatch(file.name) or file.suffix in _SINGLE]
    size = sum(file.stat().st_size for file in files)
    print(f"{folder}: {count_text(len(files), 'file')}, {size_text(size)}")


def download_single(
    name: str, remote: RemoteFiles, root: Path, splits: Sequence[str], connections: int, base_url: str | None
) -> Path:
    """Download single files and extract archives.

    Raises:
        UserError: a split without a file of its own; server not reachable or refusing; disk full.
    """
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
        file
        for file, split in zip_longest(remote.files, remote.splits)
        if not splits or split in (None, *splits)
    ]
    folder = root / (remote.folder or PurePosixPath(place.path).name)
    with server_errors(mirror or place.netloc):
        files = [probe(f"{address}/{file}", PurePosixPath(file).name) for file in wanted]
    _check_room(folder, {file.name: file.size or 0 for file in files})
    download_all(files, folder, name, max(1, connections))
    for file in files:
        if file.name.endswith(ENDINGS):
            extract(folder / file.name)
    return folder

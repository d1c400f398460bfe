"""Published data sets from public buckets over HTTPS: resumed, checked, in parallel, with nothing but urllib.

A file grows under `<name>.part` and takes its name only when its size and MD5 are those of the bucket; so
whatever has its name is whole, and the same command goes on where an interrupted one stopped. With fewer
shards than were published, dataset_info.json is written to list those that are there, in a form for TFDS too.
"""

import base64
import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from torchslots.data.archives import ENDINGS, extract
from torchslots.data.bucket import (
    MOST_FAILURES,
    PAST_THE_END,
    SHARD,
    STORAGE,
    Broken,
    Refused,
    RemoteFile,
    checked_info,
    fetch,
    header_md5,
    offered_files,
    open_at,
    pause,
    shard_names,
)
from torchslots.data.catalog import Remote, RemoteFiles, entry
from torchslots.data.tfrecord import atomic_file
from torchslots.errors import UserError
from torchslots.progress import progress

_CHUNK = 1 << 18
_SINGLE = (".tfrecords", ".zip", ".gz")
_MARGIN = 64 << 20
"""Bytes of disk that are left free."""


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
    """Bring a published data set, or a part of it, below `root` and return its folder.

    Args:
        splits: which; none means all.
        shards: only the first so many files of each split; None: all.
        resolution: pixels of one side, of those published; None: the usual one.
        connections: files at the same time.
        base_url: another server, with files at base_url/<bucket>/<path>; None: TORCHSLOTS_MIRROR in the
            environment, or Google's.

    Raises:
        UserError: unknown name, split or resolution; not reachable; refused; too little disk; always damaged.
    """
    single = entry(name).remote
    if isinstance(single, RemoteFiles):
        if shards is not None or resolution is not None:
            raise UserError(f"{name} is published as single files: leave out --shards and --resolution.")
        return _download_single(name, single, Path(root), splits, connections, base_url)
    remote, size = _remote(name, resolution)
    prefix = remote.prefix.format(resolution=size)
    folder = Path(root) / prefix.removeprefix("tfds/")
    host = (base_url or os.environ.get("TORCHSLOTS_MIRROR") or STORAGE).rstrip("/")
    with _told(host):
        info = checked_info(json.loads(fetch(f"{host}/{remote.bucket}/{prefix}/dataset_info.json")))
        offered = offered_files(host, remote.bucket, prefix, info)
    chosen = _choose(offered, info, splits, shards, f"{name} at {size} pixels")
    _check_room(folder, chosen, info)
    try:
        _download_all(chosen, folder, name, max(1, connections))
    finally:
        _write_info(folder, info)
    return folder


def _remote(name: str, resolution: int | None) -> tuple[Remote, int]:
    remote = entry(name).remote
    if not isinstance(remote, Remote):
        raise UserError(
            f"`{name}` is not published anywhere, so it cannot be downloaded: {entry(name).description}."
        )
    size = resolution or remote.resolutions[0]
    if size not in remote.resolutions:
        known = ", ".join(map(str, remote.resolutions))
        raise UserError(f"{name} is not published at {size} pixels. Choose --resolution from: {known}.")
    return remote, size


# Single files


def _download_single(
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
    with _told(mirror or place.netloc):
        files = [_probe(f"{address}/{file}", file) for file in wanted]
    _check_room(folder, files, {})
    _download_all(files, folder, name, max(1, connections))
    for file in files:
        if file.name.endswith(ENDINGS):
            extract(folder / file.name)
    return folder


def _probe(url: str, name: str) -> RemoteFile:
    """Size and checksum by the head of the answer; the file itself is not read."""
    with open_at(url) as response:
        size = response.headers.get("Content-Length")
        return RemoteFile(url, name, int(size) if size else None, header_md5(response))


# What there is


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


def _check_room(folder: Path, files: list[RemoteFile], info: dict[str, Any]) -> None:
    """Refuse to begin what the disk cannot hold."""
    _check_space(folder, sum(max(_size(file, info) - _present(folder / file.name), 0) for file in files))


def _check_space(folder: Path, needed: int) -> None:
    place = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if needed + _MARGIN > free:
        raise UserError(
            f"{folder} needs {_gigabytes(needed)} more, but only {_gigabytes(free)} are free. Free space, "
            "choose another --root, or take fewer files with --split or --shards."
        )


def _size(file: RemoteFile, info: dict[str, Any]) -> int:
    """Bytes of a file; where the bucket does not tell, the mean of its split by dataset_info.json."""
    match = SHARD.fullmatch(file.name)
    if file.size is not None or match is None:
        return file.size or 0
    for split in info.get("splits", []):
        if split["name"] == match["split"]:
            return int(split.get("numBytes", 0)) // max(len(split["shardLengths"]), 1)
    return 0


def _present(path: Path) -> int:
    part = _part(path)
    found = path if path.exists() else part
    return found.stat().st_size if found.exists() else 0


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size > 1e9 else f"{size / 1e6:.0f} MB"


# Transfer


def _download_all(files: list[RemoteFile], folder: Path, name: str, connections: int) -> None:
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
    advance(_bytes(part))
    failures = 0
    while not stop.is_set():
        before = _bytes(part)
        try:
            _attempt(file, part, advance, stop)
            if not stop.is_set():
                part.replace(path)
            return
        except Refused as error:
            if file.name == "features.json" and error.status == 404:
                return
            if error.status == PAST_THE_END and part.exists():
                advance(-_bytes(part))
                part.unlink()
                continue
            raise UserError(f"{error}. Check the name, or use a mirror with TORCHSLOTS_MIRROR.") from error
        except Broken as error:
            failures = 0 if _bytes(part) > before else failures + 1
            if failures >= MOST_FAILURES:
                raise UserError(
                    f"{file.url} did not come in {failures} attempts: {error}. What has come is kept; "
                    "the same command goes on from there."
                ) from error
            stop.wait(pause(failures))
        except OSError as error:
            raise _disk_error(path, error) from error


def _attempt(file: RemoteFile, part: Path, advance: Callable[[int], None], stop: threading.Event) -> None:
    """Append what is missing to the `.part` file and check the whole.

    Raises:
        Broken: the connection ended early, or size or checksum are wrong (then the part is thrown away).
    """
    have, size, md5 = _bytes(part), file.size, file.md5
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
    if size is not None and _bytes(part) < size:
        raise Broken(f"the connection ended after {_bytes(part)} of {size} bytes")
    expected = file.size if file.size is not None else size
    if (expected is not None and _bytes(part) != expected) or (md5 and _md5(part) != md5):
        advance(-_bytes(part))
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
def _told(host: str) -> Iterator[None]:
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


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _disk_error(path: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(
            f"No space left to write {path} ({error.strerror}). What has come is kept: free some space and "
            "give the same command again."
        )
    return UserError(f"{path} cannot be written ({error.strerror or error}). Choose another --root.")


# What is there in the end


def _write_info(folder: Path, published: dict[str, Any]) -> None:
    """dataset_info.json as published; a split of which only the first shards are there lists only those."""
    if not folder.is_dir():
        return
    info = {
        **published,
        "splits": [_present_split(folder, published, split) for split in published["splits"]],
    }
    with atomic_file(folder / "dataset_info.json") as part:
        part.write_text(json.dumps(info, indent=2, sort_keys=True))


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
    *,
    root: Path = Path("data"),
    split: tuple[str, ...] = (),
    shards: int | None = None,
    resolution: int | None = None,
    connections: int = 4,
    base_url: str | None = None,
) -> None:
    """Download a published data set, or a part of it; the same command goes on after an interruption.

    Args:
        name: Name in `torchslots data list`.
        root: Folder for all data sets; this one goes to ROOT/NAME/<size>x<size>/<version>, single files to ROOT/NAME.
        split: Splits to download, such as train validation; none: all. Of single files those that have their own.
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
    print(f"{folder}: {len(files)} files, {_gigabytes(size)}")

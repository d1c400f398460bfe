"""Fetch the original file of a published checkpoint: from the hub, a bucket, an archive, or the user."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from torchslots.convert.locations import NO_SPACE, address, by_hand, cache_folder
from torchslots.convert.match import match
from torchslots.convert.released import RELEASED
from torchslots.convert.sources import AmongHubFiles, InArchive, InBucket, OnHub, Released
from torchslots.data.download import hub
from torchslots.data.download.archives import ENDINGS, extract, list_members
from torchslots.data.download.bucket import STORAGE, listing
from torchslots.data.download.http import Broken, Refused, RemoteFile, download_all, fetch, present, probe
from torchslots.io.cache import user_cache
from torchslots.io.errors import UserError, first_line
from torchslots.io.files import check_space, refuse_page, remove_partial, scratch_folder, sha256_of

_REFUSALS = {
    401: "the repository is gone, private, or asks for a login",
    403: "the repository is private, or asks for a login",
    404: "there is no such file any more",
    410: "there is no such file any more",
}


class Original(NamedTuple):
    """A checkpoint to convert."""

    path: Path
    """What `systems.open_original` takes."""
    notes: list[str]
    """For the user: how it was found."""


@contextmanager
def original(name: str, row: Released, file: Path | None) -> Iterator[Original]:
    """The original of a published checkpoint while the block runs.

    Args:
        file: it, or the archive or folder that holds it; None: from the cache, downloaded if it is not there.

    Raises:
        UserError: it cannot be fetched, with what to fetch by hand and where to put it; another file; a wrong digest; a
            web page in its place; no space.
    """
    source, folder = row.source, cache_folder(name) / "original"
    if file is None and isinstance(source, InArchive):
        file = user_cache("pretrained", source.archive)
        if not file.is_file():
            raise UserError(f"{name} cannot be downloaded by a program. {by_hand(name, row)}")
    if file is not None:
        with _given(name, row, file) as path:
            yield Original(path, [])
    elif isinstance(source, OnHub):
        yield Original(_from_hub(name, row, source, folder), [])
    elif isinstance(source, AmongHubFiles):
        yield _among_hub_files(name, row, source, folder)
    elif isinstance(source, InBucket):
        yield Original(_from_bucket(name, row, source, folder), [])


def _from_hub(name: str, row: Released, source: OnHub, folder: Path) -> Path:
    """The file in the cache, downloaded if it is missing; its digest is checked."""
    path = folder / PurePosixPath(source.path).name
    digests = [source.sha256]
    if not path.is_file():
        with _network_errors(name, row):
            file = _described(source)
            remote = hub.remote(source.repo, file)
            remote = remote if remote.size is not None else probe(remote.url, remote.name)
        digests.append(file.sha256 or "")
        _download(name, row, [remote], folder)
    try:
        check(path, *digests)
    except UserError as error:
        path.unlink()
        raise UserError(f"{error} It was removed. {by_hand(name, row)}") from error
    return path


def _described(source: OnHub) -> hub.HubFile:
    """The file, with size and digest if the hub lists them."""
    try:
        listed = hub.list_files(source.repo)
    except (Refused, ValueError):
        listed = []
    found = [file for file in listed if file.path == source.path]
    return found[0] if found else hub.HubFile(source.path)


def _among_hub_files(name: str, row: Released, source: AmongHubFiles, folder: Path) -> Original:
    here = sorted(folder.glob("*.flax*"))
    here = [path for path in here if not path.name.endswith(".part")]
    if here:
        return Original(here[0], [])
    with _network_errors(name, row):
        files = {file.path: file for file in hub.list_files(source.repo)}
    rows = {
        other: item.source
        for other, item in RELEASED.items()
        if isinstance(item.source, AmongHubFiles) and item.source.repo == source.repo
    }
    matches = match(list(files), {name: source, **rows})
    notes = [f"{path} in {source.repo} has no name here: {why}." for path, why in matches.unmatched.items()]
    if name not in matches.found:
        known = [f"{path} is {other}" for other, path in matches.found.items()]
        about = " ".join(notes + [f"{text}." for text in known]) or "It holds no flax file."
        raise UserError(f"No file of {source.repo} could be matched to {name}. {about} {by_hand(name, row)}")
    path = matches.found[name]
    chosen = OnHub(source.repo, path, files[path].sha256 or "")
    return Original(
        _from_hub(name, row, chosen, folder), [f"{name} is {path} in {source.repo}, by its path.", *notes]
    )


def _from_bucket(name: str, row: Released, source: InBucket, folder: Path) -> Path:
    if not _is_whole(folder):
        host = (os.environ.get("TORCHSLOTS_MIRROR") or STORAGE).rstrip("/")
        with _network_errors(name, row):
            files = _listed(host, source)
        _download(name, row, files, folder)
        if not _is_whole(folder):
            raise UserError(f"{address(row)} holds no whole TensorFlow checkpoint. {by_hand(name, row)}")
    return folder


def _listed(host: str, source: InBucket) -> list[RemoteFile]:
    """Files in the bucket's list; if the list is refused, those of the checkpoint that the file `checkpoint` names."""
    try:
        return list(listing(host, source.bucket, source.prefix))
    except Refused:
        at = f"{host}/{source.bucket}/{source.prefix}"
        note = fetch(f"{at}/checkpoint").decode(errors="replace")
        named = re.search(r'^model_checkpoint_path:\s*"(?:.*[/\\])?([^"/\\]+)"', note, re.MULTILINE)
        if named is None:
            raise ValueError(f"{at}/checkpoint names no checkpoint") from None
        files = ("checkpoint", f"{named[1]}.index", f"{named[1]}.data-00000-of-00001")
        return [probe(f"{at}/{file}", file) for file in files]


def _is_whole(folder: Path) -> bool:
    """Whether a folder has the index and every data file of a TensorFlow checkpoint."""
    for index in folder.glob("*.index"):
        shards = [
            path for path in folder.glob(f"{index.stem}.data-*") if re.fullmatch(r".*-of-\d+", path.name)
        ]
        if shards and len(shards) == int(shards[0].name.rpartition("-")[2]):
            return True
    return False


def _download(name: str, row: Released, files: list[RemoteFile], folder: Path) -> None:
    """Download into the cache, if there is room for the files and the converted model."""
    size = sum(file.size or 0 for file in files)
    missing = sum(max((file.size or 0) - present(folder / file.name), 0) for file in files)
    check_space(folder, missing + size, NO_SPACE, f"Fetching {name}")
    download_all(files, folder, name, 2, no_space=NO_SPACE, refused=by_hand(name, row))


@contextmanager
def _network_errors(name: str, row: Released) -> Iterator[None]:
    """Turn network errors into a `UserError` that says what to fetch by hand."""
    try:
        yield
    except Refused as error:
        why = _REFUSALS.get(error.status, "the server refuses")
        raise UserError(f"{name} cannot be fetched: {error}, so {why}. {by_hand(name, row)}") from error
    except Broken as error:
        busy = " Too many requests: try again in some minutes." if "status 429" in str(error) else ""
        raise UserError(f"{name} cannot be fetched: {error}.{busy} {by_hand(name, row)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{name} cannot be fetched: the server's answer is no list of files ({first_line(error)}). "
            f"{by_hand(name, row)}"
        ) from error


@contextmanager
def _given(name: str, row: Released, file: Path) -> Iterator[Path]:
    """The checkpoint in a file, folder or archive that the user gives."""
    if not file.exists() and not file.with_name(f"{file.name}.index").is_file():
        raise UserError(f"{file} does not exist. {by_hand(name, row)}")
    if not file.is_file() or not file.name.endswith(ENDINGS):
        yield _checked(name, row, _inside(name, row, file))
        return
    wanted = _names(row.source)
    with unpacked(file, cache_folder(name), lambda member: not wanted or member in wanted) as place:
        yield _checked(name, row, _inside(name, row, place, file))


def _checked(name: str, row: Released, found: Path) -> Path:
    """A given file, if it has the published digest."""
    try:
        check(found, row.source.sha256 if isinstance(row.source, OnHub) else "")
    except UserError as error:
        raise UserError(f"{error} {by_hand(name, row)}") from error
    return found


@contextmanager
def unpacked(archive: Path, beside: Path, wanted: Callable[[str], bool]) -> Iterator[Path]:
    """Extract an archive to a temporary folder in `beside` while the block runs.

    Args:
        wanted: whether a file is extracted, by its name without folders.

    Raises:
        UserError: a damaged archive, or no room.
    """
    check(archive)
    remove_partial(beside, "unpacked")
    with scratch_folder(beside / "unpacked", advice=NO_SPACE) as folder:
        extract(archive, folder, wanted=lambda member: wanted(PurePosixPath(member).name))
        yield folder


def _names(source: OnHub | AmongHubFiles | InBucket | InArchive) -> tuple[str, ...]:
    """Names that the file may have; none: any."""
    if isinstance(source, OnHub):
        return (PurePosixPath(source.path).name,)
    return (source.file,) if isinstance(source, InArchive) else ()


def _inside(name: str, row: Released, place: Path, archive: Path | None = None) -> Path:
    """Find the checkpoint in a given or extracted file or folder.

    Raises:
        UserError: it is not there, or is published under another name.
    """
    if place.is_file():
        other = next((other for other, item in RELEASED.items() if place.name in _names(item.source)), name)
        if other != name and place.name not in _names(row.source):
            raise UserError(f"{place} is published as {other}, not as {name}. {by_hand(name, row)}")
        return place
    if not place.is_dir():  # the prefix of a TensorFlow checkpoint's files
        return place
    if isinstance(row.source, InBucket):
        found = [index.parent for index in sorted(place.rglob("*.index"))]
    elif isinstance(row.source, AmongHubFiles):
        found = sorted(place.rglob("*.flax")) or sorted(place.rglob("*.flax.gz"))
    else:
        found = [path for path in sorted(place.rglob("*")) if path.name in _names(row.source)]
    if not found:
        held = list_members(archive) if archive else [path.name for path in sorted(place.iterdir())]
        raise UserError(
            f"{archive or place} holds no file of {name}, only {', '.join(held[:12]) or 'nothing'}. "
            f"{by_hand(name, row)}"
        )
    return found[0]


def check(path: Path, *digests: str) -> None:
    """Check that a file may be a checkpoint and that its SHA-256 begins with each of `digests`.

    Raises:
        UserError: it is empty, a web page, a pointer of Git LFS, has another digest, or cannot be read.
    """
    refuse_page(path)
    if any(digests) and path.is_file():
        found = sha256_of(path)
        wrong = [digest for digest in digests if not found.startswith(digest)]
        if wrong:
            raise UserError(
                f"{path} has the SHA-256 {found}, which should begin with {wrong[0][:16]}: it is damaged, or "
                "another file."
            )

"""Addresses of published checkpoints, and their folders in the cache."""

from pathlib import Path, PurePosixPath

from torchslots._version import __version__
from torchslots.convert.released import AmongHubFiles, InBucket, OnHub, Released
from torchslots.data.download import hub
from torchslots.io.cache import user_cache

_CONVERSION = 1
"""To be raised when a change makes other weights or another configuration of the same file."""
NO_SPACE = "Free some space, or set XDG_CACHE_HOME to a folder that can be written and has room; what has come is kept."


def cache_folder(name: str) -> Path:
    """Where what belongs to a published checkpoint lies."""
    return user_cache("pretrained", name)


def converted_folder(name: str) -> Path:
    """Where a published checkpoint lies once it is converted by this version."""
    return cache_folder(name) / f"{__version__}-{_CONVERSION}"


def is_here(name: str) -> bool:
    """Whether a published checkpoint is converted already."""
    return (converted_folder(name) / "config.json").is_file()


def by_hand(name: str, row: Released) -> str:
    """What to fetch from which address, and where to put it."""
    source, folder = row.source, cache_folder(name) / "original"
    give = f"give it with `torchslots pretrained get {name} --file PATH`"
    if isinstance(source, OnHub):
        where = folder / PurePosixPath(source.path).name
        return f"Fetch {address(row)} by other means and save it as {where}, or {give}."
    if isinstance(source, AmongHubFiles):
        return f"Look for its ckpt-N.flax in {address(row)}, fetch it by other means and {give}."
    if isinstance(source, InBucket):
        return (
            f"Fetch all files of {address(row)} by other means into {folder}; or take their zip and {give}."
        )
    where = user_cache("pretrained", source.archive)
    return (
        f"It is {source.file} in {source.archive}, which a browser must fetch by the link in {source.page}. Save the "
        f"archive as {where}, or {give}."
    )


def address(row: Released) -> str:
    """Where the original lies, for a browser."""
    source = row.source
    if isinstance(source, OnHub):
        return hub.address(source.repo, source.path)
    if isinstance(source, AmongHubFiles):
        return f"{hub.endpoint()}/{source.repo}/tree/main"
    if isinstance(source, InBucket):
        return f"https://console.cloud.google.com/storage/browser/{source.bucket}/{source.prefix}"
    return source.page

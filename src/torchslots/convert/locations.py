"""Addresses of published checkpoints, and their folders in the cache."""

from pathlib import Path, PurePosixPath

from torchslots._version import __version__
from torchslots.convert.sources import AmongHubFiles, InBucket, OnHub, Released
from torchslots.data.download import hub
from torchslots.io.cache import user_cache

_CONVERSION = 1
"""Raise it when the same file is converted to other weights or another configuration."""
NO_SPACE = (
    "Free some space, or set XDG_CACHE_HOME to a writable folder with room; the downloaded part is kept."
)


def cache_folder(name: str) -> Path:
    """Cache folder of a published checkpoint: original and converted files."""
    return user_cache("pretrained", name)


def converted_folder(name: str) -> Path:
    """Folder of the model that this version converts a published checkpoint to."""
    return cache_folder(name) / f"{__version__}-{_CONVERSION}"


def is_here(name: str) -> bool:
    """Whether this version has converted a published checkpoint."""
    return (converted_folder(name) / "config.json").is_file()


def by_hand(name: str, row: Released) -> str:
    """The sentence that says which file to fetch by hand, from which address, and where to put it."""
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
    """Address of the original for a browser."""
    source = row.source
    if isinstance(source, OnHub):
        return hub.address(source.repo, source.path)
    if isinstance(source, AmongHubFiles):
        return f"{hub.endpoint()}/{source.repo}/tree/main"
    if isinstance(source, InBucket):
        return f"https://console.cloud.google.com/storage/browser/{source.bucket}/{source.prefix}"
    return source.page

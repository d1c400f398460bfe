"""The videos in a folder: which files are inputs, and what is left out, and why."""

from pathlib import Path
from typing import NamedTuple

from torchslots.io.errors import UserError, note
from torchslots.io.files import hidden
from torchslots.io.films import FILM_SUFFIXES
from torchslots.io.images import IMAGE_SUFFIXES, natural_key, num_frames, opened

MASKS = "masks"
"""Name of the folder with masks beside videos, which is no input."""
_MAYBE_FILMS = (".webp", ".apng", ".tif", ".tiff")
_NAMED = 10


class Listing(NamedTuple):
    """Images, films and folders of frames, in natural order, and what is left out, with the reason."""

    videos: list[Path]
    left_out: list[tuple[Path, str]]

    def note(self, folder: Path) -> None:
        """Print what was left out of `folder`, if anything."""
        if self.left_out:
            named = [f"{path.relative_to(folder)} ({why})" for path, why in self.left_out[:_NAMED]]
            more = len(self.left_out) - len(named)
            note(f"Left out of {folder}: {', '.join(named)}" + (f" and {more} more." if more else "."))


def list_videos(folder: Path, each: bool, each_below: bool | None = None, depth: int = 1) -> Listing:
    """The videos of a folder and of the folders one level down.

    A folder with films (animated images and stacks count) is many videos: its films, and its images one by one. A
    folder with images alone is one video. Hidden files are passed over.

    Args:
        each: every image is a video of its own.
        each_below: the same for the folders one level down; None: as `each`.
        depth: levels of folders to look into.
    """
    found = Listing([], [])
    entries = [entry for entry in folder.iterdir() if not hidden(entry)]
    entries.sort(key=lambda entry: natural_key(entry.name))
    separate = each or any(_is_film(entry) for entry in entries)
    frames = [entry for entry in entries if entry.is_file() and entry.suffix.lower() in IMAGE_SUFFIXES]
    if frames and not separate:
        found.videos.append(folder)
    for entry in entries:
        if entry.is_symlink() and (not entry.exists() or folder.resolve().is_relative_to(entry.resolve())):
            why = "a link to a folder that it lies in" if entry.exists() else "a link to nothing"
            found.left_out.append((entry, why))
        elif entry.is_dir():
            below = _below(entry, each if each_below is None else each_below, depth)
            found.videos.extend(below.videos)
            found.left_out.extend(below.left_out)
        elif entry.suffix.lower() not in (*IMAGE_SUFFIXES, *FILM_SUFFIXES):
            found.left_out.append((entry, "neither image nor video by its name"))
        elif separate:
            found.videos.append(entry)
    return found


def _below(folder: Path, each: bool, depth: int) -> Listing:
    if folder.name == MASKS:
        return Listing([], [(folder, "masks")])
    if not depth:
        return Listing([], [(folder, "more than one folder down")])
    found = list_videos(folder, each, depth=depth - 1)
    return found if found.videos or found.left_out else Listing([], [(folder, "no images or videos in it")])


def _is_film(path: Path) -> bool:
    """Whether a file is a video by its name, or an image of several frames."""
    ending = path.suffix.lower()
    if ending not in _MAYBE_FILMS:
        return path.is_file() and ending in (*FILM_SUFFIXES, ".gif")
    if not path.is_file() or not path.stat().st_size:
        return False
    try:
        with opened(path) as image:
            return num_frames(path, image) > 1
    except UserError:  # it is refused when it is read
        return False

"""Read and write images and videos as uint8 RGB arrays (Pillow, PyAV).

A video is a film (mp4, mov, avi, mkv, webm, ...), an animated image (GIF, WebP, APNG), a TIFF stack, one image (a
video of one frame) or a folder of images in natural order (2 before 10). Transparency is dropped, not blended,
as the readers of CLEVR and CLEVRTex do. Images of more than 8 bits are scaled to 8 (`io/levels.py`).
Images and films are turned upright by
the orientation that the camera stored. Everything is written to a temporary file beside the target and then renamed:
a file under its final name is always complete.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from torchslots.io import films, images
from torchslots.io.counts import count_text
from torchslots.io.encode import write_gif, write_palette_png, write_png, write_video
from torchslots.io.errors import UserError
from torchslots.io.films import FILM_SUFFIXES
from torchslots.io.images import IMAGE_SUFFIXES, image_files, natural_key, read_image

__all__ = [
    "FILM_SUFFIXES",
    "IMAGE_SUFFIXES",
    "fps",
    "frame_count",
    "image_files",
    "iter_frames",
    "natural_key",
    "read_frames",
    "read_image",
    "write_gif",
    "write_palette_png",
    "write_png",
    "write_video",
]


def read_frames(
    path: Path | str, start: int = 0, count: int | None = None, allow_damaged: bool = False
) -> UInt8[ndarray, "T H W 3"]:
    """Frames `start` to `start + count` (None: to the end) of a video; fewer where it ends earlier.

    Args:
        allow_damaged: go on where frames of a film are damaged, and list them on standard error.

    Raises:
        UserError: the file is missing, empty, truncated, damaged, neither image nor video, or ends before `start`.
    """
    if start < 0 or (count is not None and count < 1):
        raise UserError(
            f"{path}: cannot read {count} frames from frame {start}; start at 0 or later and read 1 or more."
        )
    frames = list(_frames(Path(path), start, None if count is None else start + count, allow_damaged))
    if not frames:
        raise UserError(
            f"{path} has {count_text(frame_count(path), 'frame')}, none from number {start} on. Start earlier."
        )
    return np.stack(frames)


def iter_frames(
    path: Path | str, chunk: int, allow_damaged: bool = False
) -> Iterator[UInt8[ndarray, "T H W 3"]]:
    """All frames in order, in arrays of `chunk` (the last may be shorter), in constant memory.

    Raises:
        UserError: as `read_frames`, when the faulty frame is reached.
    """
    frames = _frames(Path(path), 0, None, allow_damaged)
    for first in frames:
        yield np.stack([first, *islice(frames, chunk - 1)])


def frame_count(path: Path | str, allow_damaged: bool = False) -> int:
    """Number of frames; a film's packets are counted, not decoded, where that is exact.

    Raises:
        UserError: as `read_frames`.
    """
    path = images.existing(Path(path))
    if path.is_dir():
        return len(image_files(path))
    if path.suffix.lower() in IMAGE_SUFFIXES:
        with images.opened(path) as image:
            return images.num_frames(path, image)
    times = films.time_stamps(path)
    return sum(1 for _ in _frames(path, 0, None, allow_damaged)) if times is None else len(times)


def fps(path: Path | str) -> float | None:
    """Frames per second (the mean, where it varies); None for an image or a folder.

    Raises:
        UserError: as `read_frames`.
    """
    path = images.existing(Path(path))
    if path.is_dir():
        return None
    if path.suffix.lower() in IMAGE_SUFFIXES:
        spans = images.frame_durations(path)
        return 1000 * len(spans) / sum(spans) if len(spans) > 1 and sum(spans) > 0 else None
    with films.opened(path) as (_, stream):
        rate = stream.average_rate or stream.guessed_rate
        return float(rate) if rate else None


def _frames(
    path: Path, start: int, stop: int | None, allow_damaged: bool = False
) -> Iterator[UInt8[ndarray, "H W 3"]]:
    """Frames of a video of any kind, all of the size of the first."""
    images.existing(path)
    if path.is_dir():
        yield from images.folder_frames(path, start, stop)
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        yield from images.image_frames(path, start, stop)
    elif path.suffix.lower() in FILM_SUFFIXES:
        yield from films.film_frames(path, start, stop, allow_damaged)
    else:
        kinds = images.known((*IMAGE_SUFFIXES, *FILM_SUFFIXES))
        raise UserError(f"{path} is neither an image nor a video by its name. Known endings: {kinds}.")

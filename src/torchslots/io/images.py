"""Read images, still and animated, and folders of them (Pillow)."""

import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageOps, ImageSequence

from torchslots.io.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".apng")
"""Endings of files that Pillow reads."""
_ANIMATED = (".gif", ".webp", ".png", ".apng")
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


def read_image(path: Path | str) -> UInt8[ndarray, "H W 3"]:
    """One image; of an animated one the first frame.

    Raises:
        UserError: the file is missing, empty, truncated or no image.
    """
    path = existing(Path(path))
    with opened(path) as image:
        return _rgb(image)


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order.

    Raises:
        UserError: there is none.
    """
    named = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    files = [file for file in named if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise UserError(
            f"{folder} holds no images. A folder is read as one video: its {known(IMAGE_SUFFIXES)}."
        )
    return sorted(files, key=lambda file: natural_key(file.name))


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key in which the numbers inside a name count as numbers: `frame_2` before `frame_10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def folder_frames(folder: Path, start: int, stop: int | None) -> Iterator[UInt8[ndarray, "H W 3"]]:
    """The images of a folder as one video.

    Raises:
        UserError: no images, one cannot be read, or two differ in size.
    """
    shape = None
    for file in image_files(folder)[start:stop]:
        frame = read_image(file)
        shape = shape or frame.shape
        if frame.shape != shape:
            (h, w, _), (height, width, _) = frame.shape, shape
            raise UserError(
                f"{file} is {w}x{h} pixels, the frames before it {width}x{height}. A folder is one video: "
                "bring its images to one size, or move the others to a folder of their own."
            )
        yield frame


def image_frames(path: Path, start: int, stop: int | None) -> Iterator[UInt8[ndarray, "H W 3"]]:
    """Frames of an image file; a still one is a video of one frame.

    Raises:
        UserError: as `opened`.
    """
    with opened(path) as image:
        if num_frames(path, image) == 1:
            yield from [_rgb(image)][start:stop]
            return
        for frame in islice(ImageSequence.Iterator(image), start, stop):
            yield _rgb(frame)


def num_frames(path: Path, image: Image.Image) -> int:
    """Frames of an animated image, else 1: a phone's .jpg or a scanner's .tif may hold several that are no video."""
    return getattr(image, "n_frames", 1) if path.suffix.lower() in _ANIMATED else 1


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The opened image.

    Raises:
        UserError: Pillow cannot read it, then or in the block; it is truncated.
    """
    try:
        if path.suffix.lower() == ".gif":
            _check_trailer(path)
        with Image.open(path) as image:
            yield image
    except Image.UnidentifiedImageError as error:
        raise UserError(
            f"{path} is not an image, whatever its name says. Remove it or write it again."
        ) from error
    except (*_PILLOW_ERRORS, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path} cannot be read as an image ({error}). Remove it or write it again."
        ) from error


def _check_trailer(path: Path) -> None:
    with path.open("rb") as file:
        magic, _ = file.read(3), file.seek(max(path.stat().st_size - 64, 0))
        if magic == b"GIF" and not file.read().rstrip(b"\0").endswith(b";"):
            raise OSError("truncated: it does not end as a GIF does")


def _rgb(image: Image.Image) -> UInt8[ndarray, "H W 3"]:
    """8-bit RGB, upright; alpha dropped."""
    if image.mode.startswith("I"):
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    upright = ImageOps.exif_transpose(image)
    full = upright.convert("RGBA") if upright.mode in ("P", "PA", "LA", "La", "RGBa") else upright
    return np.array(full.convert("RGB"))


def existing(path: Path) -> Path:
    """The path itself.

    Raises:
        UserError: nothing is there, or an empty file.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist. Check the name.")
    if path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes). Copy or record it again.")
    return path


def known(suffixes: Iterable[str]) -> str:
    """Endings of file names as text: png, jpg."""
    return ", ".join(suffix.lstrip(".") for suffix in suffixes)

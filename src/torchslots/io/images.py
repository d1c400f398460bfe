"""Read images, still and animated, and folders of them (Pillow)."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageOps, ImageSequence

from torchslots.io.counts import count_text
from torchslots.io.errors import UserError, first_line, note
from torchslots.io.files import hidden
from torchslots.io.levels import deep_values, levels_of, to_bytes

IMAGE_SUFFIXES = tuple(".png .jpg .jpeg .webp .bmp .gif .tif .tiff .ppm .apng .heic .heif".split())
"""Endings of files that Pillow reads, those of HEIC with `pillow-heif`."""
_HEIC = (".heic", ".heif")
_ANIMATED = (".gif", ".webp", ".png", ".apng", ".tif", ".tiff")
_TIFF = (".tif", ".tiff")
_ORIENTATION = 0x0112
_REDUCED = 254
"""TIFF's NewSubfileType, 1 for a smaller copy of another page."""


def read_image(path: Path | str) -> UInt8[ndarray, "H W 3"]:
    """One image; of an animated one the first frame.

    Raises:
        UserError: the file is missing, empty, truncated or no image.
    """
    path = existing(Path(path))
    with opened(path) as image:
        return _rgb(image, (path,))


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order.

    Raises:
        UserError: there is none.
    """
    named = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    files = [file for file in named if file.is_file() and not hidden(file)]
    if not files:
        raise UserError(
            f"{folder} holds no images. A folder is read as one video: its {known(IMAGE_SUFFIXES)}."
        )
    return sorted(files, key=lambda file: natural_key(file.name))


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key in which the numbers inside a name count as numbers: `frame_2` before `frame_10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def folder_frames(folder: Path, start: int, stop: int | None) -> Iterator[UInt8[ndarray, "H W 3"]]:
    """The images of a folder as one video; those of another size than the first are fitted to it, with a note.

    Raises:
        UserError: no images, one cannot be read, or one is a video itself.
    """
    files = image_files(folder)
    size, fitted = image_size(files[0]), False
    for file in files[start:stop]:
        with opened(existing(file)) as image:
            if (count := num_frames(file, image)) > 1:
                raise UserError(
                    f"{file} holds {count_text(count, 'frame')}, and a folder of images is one video of an image "
                    "each. Move it to "
                    "another place, or save its frames as images."
                )
            frame = _rgb(image, tuple(files))
        if frame.shape[:2] != size:
            fitted, frame = True, _fitted(frame, size)
        yield frame
    if fitted:
        note(
            f"{folder}: images of another size than the first, {size[1]}x{size[0]} pixels, are resized to it and cut "
            "to its shape in the middle.",
            everywhere=True,
        )


def image_size(file: Path) -> tuple[int, int]:
    """Height and width of an image, upright.

    Raises:
        UserError: it is missing, empty or no image.
    """
    with opened(existing(file)) as image:
        turned = image.getexif().get(_ORIENTATION, 1) >= 5 and file.suffix.lower() not in _TIFF
        return (image.width, image.height) if turned else (image.height, image.width)


def _fitted(frame: UInt8[ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[ndarray, "h w 3"]:
    """A frame resized so that it covers `size`, height first, and cut to it in the middle."""
    height, width = size
    return np.asarray(ImageOps.fit(Image.fromarray(frame), (width, height), Image.Resampling.BICUBIC))


def image_frames(path: Path, start: int, stop: int | None) -> Iterator[UInt8[ndarray, "H W 3"]]:
    """Frames of an image file; a still one is a video of one frame.

    Raises:
        UserError: as `opened`.
    """
    with opened(path) as image:
        if num_frames(path, image) == 1:
            yield from [_rgb(image, (path,))][start:stop]
            return
        for frame in islice(_frames(path, image), start, stop):
            yield _rgb(frame, (path,))


def _frames(path: Path, image: Image.Image) -> Iterator[Image.Image]:
    """The frames of an animated image; of a TIFF the pages of the first one's size."""
    if path.suffix.lower() not in _TIFF:
        yield from ImageSequence.Iterator(image)
        return
    for page in _pages(path, image):
        image.seek(page)
        yield image


def _pages(path: Path, image: Image.Image) -> list[int]:
    """Numbers of the pages that are frames: no smaller copies. Pages of other sizes are left out, with a note."""
    return list(_listed_pages(path, path.stat().st_mtime_ns))


@lru_cache(maxsize=1024)
def _listed_pages(path: Path, _changed: int) -> tuple[int, ...]:
    with Image.open(path) as image:
        full, size = [], image.size
        others = 0
        for page in range(getattr(image, "n_frames", 1)):
            image.seek(page)
            if page and int(getattr(image, "tag_v2", {}).get(_REDUCED, 0)) & 1:
                continue
            if image.size == size:
                full.append(page)
            else:
                others += 1
    if others:
        note(f"{path}: {others} pages of another size than the first are left out.", everywhere=True)
    return tuple(full)


def num_frames(path: Path, image: Image.Image) -> int:
    """Frames of an animated image or pages of a TIFF, else 1: a phone's .jpg may hold several that are no video."""
    count = getattr(image, "n_frames", 1) if path.suffix.lower() in _ANIMATED else 1
    return len(_pages(path, image)) if count > 1 and path.suffix.lower() in _TIFF else count


def frame_durations(path: Path) -> list[float]:
    """Milliseconds that each frame of an animated image is shown; zeros where the file does not say.

    Raises:
        UserError: as `opened`.
    """
    spans = []
    with opened(path) as image:
        for frame in _frames(path, image):
            if path.suffix.lower() == ".webp":  # Pillow knows the duration once the frame is decoded
                frame.load()
            spans.append(float(frame.info.get("duration", 0)))
    return spans


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The opened image.

    Raises:
        UserError: Pillow cannot read it, then or in the block; it is truncated.
    """
    try:
        if path.suffix.lower() == ".gif":
            _check_trailer(path)
        if path.suffix.lower() in _HEIC:
            _know_heic(path)
        with Image.open(path) as image:
            if image.format == "TIFF" and image.getexif().get(_ORIENTATION, 1) >= 5:
                image.filename = (
                    ""  # else Pillow maps an uncompressed file into memory as if it were turned already
                )
            yield image
    except Image.UnidentifiedImageError as error:
        raise UserError(
            f"{path} is not an image, whatever its name says. Remove it or write it again."
        ) from error
    except UserError:
        raise
    except Exception as error:  # Pillow raises whatever a damaged or huge image makes it meet
        raise UserError(
            f"{path} cannot be read as an image ({first_line(error)}). Remove it or write it again."
        ) from error


def _check_trailer(path: Path) -> None:
    with path.open("rb") as file:
        magic, _ = file.read(3), file.seek(max(path.stat().st_size - 64, 0))
        if magic == b"GIF" and not file.read().rstrip(b"\0").endswith(b";"):
            raise OSError("truncated: it does not end as a GIF does")


def _know_heic(path: Path) -> None:
    try:
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(
            f"{path} is a HEIC image, which needs pillow-heif: `pip install pillow-heif`. Or save it as JPEG."
        ) from error
    register_heif_opener()


def _rgb(image: Image.Image, video: tuple[Path, ...]) -> UInt8[ndarray, "H W 3"]:
    """8-bit RGB, upright; alpha dropped.

    Args:
        video: the files of the image's video, which share the levels of more than 8 bits.
    """
    deep = deep_values(image)
    if deep is not None:
        plain = Image.fromarray(to_bytes(deep, levels_of(video)))
        plain.info = {key: image.info[key] for key in ("exif",) if key in image.info}
        return np.array(ImageOps.exif_transpose(plain).convert("RGB"))
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

"""Decode and encode PNG images of 8 and 16 bits, and read image files of a known kind."""

import io
import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt, UInt8
from PIL import Image

from torchslots.data.formats.example import MalformedExample
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.io.errors import UserError, first_line

_MOST_PIXELS = 1 << 26
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BIT_DEPTH, _COLOR_TYPE, _RGB = 24, 25, 2


def decode_png(data: bytes) -> UInt[np.ndarray, "H W C"]:
    """One image as uint8 or uint16 [H, W, C]; C is 1 for grey.

    Raises:
        MalformedExample: no PNG image, or an incomplete one.
    """
    if data[:8] != _SIGNATURE or len(data) <= _COLOR_TYPE:
        raise MalformedExample("an image that is no PNG")
    width, height = struct.unpack(">II", data[16:24])
    if width * height > _MOST_PIXELS:
        raise MalformedExample(f"a PNG image of {width} x {height} pixels, more than any data set has")
    if data[_BIT_DEPTH] == 16 and data[_COLOR_TYPE] == _RGB:
        return _decode_deep_color(data)
    try:
        image = np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)))
    except Exception as error:  # Pillow raises whatever a damaged chunk makes it meet
        raise MalformedExample(f"a PNG image that cannot be decoded ({first_line(error)})") from error
    return image if image.ndim == 3 else image[..., None]


def _decode_deep_color(data: bytes) -> UInt[np.ndarray, "H W 3"]:
    """16-bit RGB, which Pillow would reduce to 8 bits; each image needs its own decoder."""
    import av
    from av.error import FFmpegError

    try:
        frames = av.CodecContext.create("png", "r").decode(av.Packet(data))  # type: ignore[attr-defined]
    except (FFmpegError, ValueError) as error:
        raise MalformedExample(f"a PNG image that cannot be decoded ({first_line(error)})") from error
    if not frames:
        raise MalformedExample("a PNG image that is cut off")
    return frames[0].to_ndarray()


def read_image(
    path: Path, record: int, modes: tuple[str, ...], formats: tuple[str, ...] = ("PNG",)
) -> UInt8[np.ndarray, "H W *C"]:
    """An image file's stored pixels; of a palette image the indices.

    Args:
        record: Number of the example, for the message.
        modes: Allowed modes, in Pillow's letters.

    Raises:
        CorruptRecord: it is missing, broken, or of another kind.
    """
    try:
        with Image.open(path, formats=formats) as image:
            if image.mode not in modes:
                kinds = " or ".join(modes)
                raise CorruptRecord(path, record, f"is an image of mode {image.mode}, not {kinds}")
            return np.asarray(image)
    except UserError:
        raise
    except Exception as error:  # as in `decode_png`
        raise CorruptRecord(path, record, f"cannot be read: {first_line(error)}") from error


def encode_png(image: UInt[np.ndarray, "H W *C"]) -> bytes:
    """uint8 [H, W] or [H, W, 1 or 3], or uint16 grey [H, W] or [H, W, 1], as PNG bytes."""
    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image).save(stream, "PNG")
    return stream.getvalue()


def decode_frames(frames: list[bytes]) -> UInt[np.ndarray, "T H W C"]:
    """Images of one size as one array [T, H, W, C].

    Raises:
        MalformedExample: an image is broken, or two differ in size or depth.
    """
    first = decode_png(frames[0])
    video = np.empty((len(frames), *first.shape), first.dtype)
    video[0] = first
    for i, data in enumerate(frames[1:], 1):
        image = decode_png(data)
        if image.shape != first.shape or image.dtype != first.dtype:
            raise MalformedExample(
                f"frame {i} is {image.dtype} {image.shape}, frame 0 {first.dtype} {first.shape}"
            )
        video[i] = image
    return video

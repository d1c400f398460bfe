"""Photographs as JPEG, and masks as the indices of palette PNG."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from torchslots.data.formats.png import read_image
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.io.errors import first_line


def read_photo(path: Path, record: int) -> UInt8[np.ndarray, "H W 3"]:
    """A JPEG file's pixels; grey ones become RGB.

    Args:
        record: Number of the example that it belongs to, for the message.

    Raises:
        CorruptRecord: it is missing or broken.
    """
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises whatever a damaged or huge image makes it meet
        raise CorruptRecord(path, record, f"cannot be read: {first_line(error)}") from error


def read_indices(path: Path, record: int, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    """A palette PNG's indices, which are ids.

    Args:
        size: Height and width of its image.

    Raises:
        CorruptRecord: it is missing, broken, of another size, or was saved anew in colour.
    """
    ids = read_image(path, record, ("P", "L", "RGB", "RGBA"))
    if ids.ndim > 2:
        raise CorruptRecord(
            path, record, "holds colours: the ids were the indices of its palette and are lost"
        )
    if ids.shape != size:
        raise CorruptRecord(
            path, record, f"is {ids.shape[0]} x {ids.shape[1]}, its image {size[0]} x {size[1]}"
        )
    return ids

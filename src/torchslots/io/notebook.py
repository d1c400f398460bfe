"""Show segmented frames in a notebook, or as an image."""

import base64
import io
import sys

import numpy as np
from PIL import Image

from torchslots.io.draw import Ids, Pixels, colorize, overlay

_SIDE = 128
"""Pixels of the short side of a shown frame, at least."""
_GAP = 4


def strip(ids: Ids, frames: Pixels | None = None, num_frames: int = 6) -> Image.Image:
    """Evenly spaced frames side by side: above as they are, below with their objects; without `frames` ids alone.

    Args:
        ids: [T, H, W], 0 for background.
        frames: uint8 [T, H, W, 3].
        num_frames: frames that are shown, at most.
    """
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(num_frames, len(ids))).round().astype(int))
    factor = max(1, -(-_SIDE // min(ids.shape[-2:])))
    large = _enlarged(ids[chosen], factor)
    rows = [colorize(large)]
    if frames is not None:  # enlarged first, so that outlines stay thin
        above = _enlarged(frames[chosen], factor)
        rows = [above, overlay(above, large)]
    height, width = (side + _GAP for side in large.shape[1:3])
    sheet = Image.new("RGB", (len(chosen) * width - _GAP, len(rows) * height - _GAP), "white")
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            sheet.paste(Image.fromarray(np.ascontiguousarray(tile, dtype=np.uint8)), (x * width, y * height))
    return sheet


def _enlarged(values: Ids, factor: int) -> Ids:
    return values.repeat(factor, axis=1).repeat(factor, axis=2)


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def html(image: Image.Image, caption: str) -> str:
    """An image and a line of text, for a notebook."""
    data = base64.b64encode(png(image)).decode()
    return f'<figure><img src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'


def shown(image: Image.Image) -> Image.Image | None:
    """Display the image where a notebook runs, and return None; elsewhere return it."""
    console = sys.modules.get("IPython")
    if console is None or console.get_ipython() is None:
        return image
    from IPython.display import display  # pyright: ignore[reportMissingImports]

    display(image)
    return None

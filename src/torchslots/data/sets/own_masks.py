"""Find and read the masks of your own clips; `sets/own_files.py` describes the folder."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Integer
from numpy import ndarray
from PIL import Image
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.io.video import image_files, read_frames


def masks_of(root: Path, clip: Path) -> Path | None:
    """The file or folder with a clip's masks; None where there is none."""
    inside = clip.relative_to(root)
    for place in (root / "masks" / inside, clip.parent / "masks" / clip.name):
        bare = place.with_suffix("") if clip.is_file() else place
        for ending in ("", ".png", ".gif", ".npy", ".npz"):
            found = bare.with_name(bare.name + ending)
            if found.is_dir() or (found.is_file() and found.suffix):
                return found
    return None


def read_masks(masks: Path, count: int, start: int = 0, stop: int | None = None) -> Int[Tensor, "T H W"]:
    """Object ids of frames `start` to `stop` of a clip of `count` frames.

    Raises:
        UserError: unreadable; in colour; ids negative or not integer; sizes differ; not `count` masks.
    """
    if masks.is_dir():
        files = image_files(masks)
        _check_count(masks, len(files), count)
        planes = [_image_ids(file) for file in files[start:stop]]
        _check_alike(masks, planes)
        ids = np.stack(planes)
    elif masks.suffix in (".npy", ".npz"):
        ids = _array_ids(masks)
        _check_count(masks, len(ids), count)
        ids = ids[start:stop]
    else:
        planes = _gif_ids(masks) if masks.suffix == ".gif" else [_image_ids(masks)]
        _check_count(masks, len(planes), count)
        ids = np.stack(planes[start:stop])
    return torch.from_numpy(ids.astype(np.int32))


def _image_ids(file: Path) -> Integer[ndarray, "H W"]:
    try:
        with Image.open(file) as image:
            ids = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{file} cannot be read as a mask ({error}). Write it again.") from error
    if ids.ndim != 2 or ids.dtype.kind not in "uib":
        raise UserError(
            f"{file} is in colour ({image.mode}), a mask holds object ids. Save it as a palette or grey PNG."
        )
    return ids.astype(np.uint8) if ids.dtype == bool else ids


def _gif_ids(file: Path) -> list[Integer[ndarray, "H W"]]:
    """A GIF's colours as ids in order of appearance; black, or else the most frequent colour, is background.

    Palette indices cannot serve as ids: each frame of a GIF may have its own palette.
    """
    rgb = read_frames(file).astype(np.int32)
    packed = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    colours, first, places, counts = np.unique(
        packed, return_index=True, return_inverse=True, return_counts=True
    )
    if len(colours) > 256:
        raise UserError(f"{file} has {len(colours)} colours, too many for masks. Save masks as PNG or .npz.")
    background = 0 if colours[0] == 0 else int(counts.argmax())
    order = [background, *(k for k in np.argsort(first) if k != background)]
    return list(np.argsort(order)[places].reshape(packed.shape))


def _array_ids(file: Path) -> Integer[ndarray, "T H W"]:
    try:
        loaded = np.load(file, allow_pickle=False, mmap_mode="r" if file.suffix == ".npy" else None)
        if isinstance(loaded, np.ndarray):
            ids = loaded
        else:
            with loaded:
                names = [name for name in ("masks", "segmentations", *loaded.files) if name in loaded.files]
                ids = loaded[names[0]]
    except (OSError, ValueError, EOFError, IndexError) as error:
        raise UserError(
            f"{file} cannot be read as an array ({error}). Write it again with numpy.savez."
        ) from error
    ids = ids[None] if ids.ndim == 2 else ids
    if ids.ndim != 3 or ids.dtype.kind not in "uib" or (ids.size and ids.min() < 0):
        raise UserError(
            f"{file}: masks should be integer ids [T, H, W], 0 or more, got {ids.dtype} {list(ids.shape)}."
        )
    return ids.astype(np.uint8) if ids.dtype == bool else ids


def _check_count(masks: Path, found: int, count: int) -> None:
    if found != count:
        raise UserError(
            f"{masks} holds masks for {found} frames, its clip has {count}. Give one for every frame."
        )


def _check_alike(masks: Path, planes: list[ndarray]) -> None:
    if len({plane.shape for plane in planes}) > 1:
        raise UserError(f"{masks} holds masks of different sizes. All need the size of the frames.")


def check_size(clip: Path, frames: ndarray, masks: Path, ids: Tensor) -> None:
    """Check that masks have the size of the frames.

    Raises:
        UserError: they have not.
    """
    (height, width), (rows, columns) = frames.shape[1:3], ids.shape[1:]
    if (height, width) != (rows, columns):
        raise UserError(
            f"{masks} is {columns}x{rows} pixels, {clip.name} {width}x{height}. Resize the masks to fit."
        )

"""Find and read the masks of your own clips; `sets/own_files.py` describes the folder."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Integer
from numpy import ndarray
from PIL import Image
from torch import Tensor

from torchslots.io.arrays import array_shapes, map_array, read_arrays
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError
from torchslots.io.images import opened
from torchslots.io.video import IMAGE_SUFFIXES, image_files, read_frames

_LOSSY = ("JPEG", "MPO", "JPEG2000", "HEIF", "AVIF")
_ENDINGS = tuple(dict.fromkeys(("", ".png", ".gif", ".npy", ".npz", *IMAGE_SUFFIXES)))
_MOST_IDS, _LOOSE = 200, 3
_AGAIN = "Write it again with numpy.savez."
_ODD = (
    "Save the ids themselves, unsmoothed, as a palette or grey PNG or as .npz. If it is meant as it is, give "
    "--allow-odd-masks (in training --data.allow-odd-masks)."
)


def masks_of(root: Path, clip: Path) -> Path | None:
    """The file or folder with a clip's masks; None where there is none."""
    inside = clip.relative_to(root)
    for place in (root / "masks" / inside, clip.parent / "masks" / clip.name):
        if not place.parent.is_dir():
            continue
        bare = place.with_suffix("") if clip.is_file() else place
        for ending in _ENDINGS:
            for found in (bare.with_name(bare.name + ending), bare.with_name(bare.name + ending.upper())):
                if found.is_dir() or (found.is_file() and found.suffix):
                    return found
    return None


class Ids(NamedTuple):
    """Object ids, 0 for background, and where pixels are void: unknown, and counted by no metric."""

    ids: Int[Tensor, "T H W"]
    void: Bool[Tensor, "T H W"]


def read_masks(
    masks: Path,
    count: int,
    start: int = 0,
    stop: int | None = None,
    *,
    clip: Path | None = None,
    void_id: int | None = None,
    allow_odd: bool = False,
) -> Ids:
    """Object ids of frames `start` to `stop` of a clip of `count` frames.

    Args:
        clip: the clip; where it is a folder of images, masks in a folder are paired with them by name.
        void_id: value of void pixels in palette images; None: no value is void.
        allow_odd: take masks that `check_label_map` refuses.

    Raises:
        UserError: unreadable; in colour; ids negative or not integer; sizes differ; not `count` masks, a frame without
            a mask or a mask without a frame; or no label map.
    """
    if masks.is_dir():
        files = paired(image_files(masks), clip, count, masks)
        planes = [_image_ids(file, void_id, allow_odd) for file in files[start:stop]]
        _check_alike(masks, [plane for plane, _ in planes])
        ids, void = (np.stack(part) for part in zip(*planes))
    elif masks.suffix in (".npy", ".npz"):
        ids = _array_ids(masks, count)
        _check_count(masks, len(ids), count)
        ids = ids[start:stop]
        void = np.zeros(ids.shape, bool)
    else:
        if masks.suffix == ".gif":
            ids = np.stack(_gif_ids(masks))
            void = np.zeros(ids.shape, bool)
        else:
            ids, void = (part[None] for part in _image_ids(masks, void_id, allow_odd))
        _check_count(masks, len(ids), count)
        ids, void = ids[start:stop], void[start:stop]
    if not allow_odd:
        check_label_map(ids, masks)
    return Ids(torch.from_numpy(ids.astype(np.int32)), torch.from_numpy(void))


def read_mask_image(
    file: Path, void_id: int | None = None, allow_odd: bool = False
) -> Integer[ndarray, "H W"]:
    """Object ids of one image, 0 for background and void.

    Raises:
        UserError: unreadable, in colour, or no label map.
    """
    ids, _ = _image_ids(file, void_id, allow_odd)
    if not allow_odd:
        check_label_map(ids, file)
    return ids


def paired(files: list[Path], clip: Path | None, count: int, masks: Path) -> list[Path]:
    """Masks in the order of the frames: of equal names, or else of the last number in equal numbers.

    Masks of a film are in their own order, without a gap in their numbers.

    Raises:
        UserError: frames without a mask, or masks without a frame; they are named.
    """
    if clip is None or not clip.is_dir():
        _check_count(masks, len(files), count)
        numbers = [_number(file) for file in files]
        known = [number for number in numbers if number is not None]
        if len(known) == len(set(numbers)) == len(files) and max(known) - min(known) >= len(files):
            missing = sorted({*range(min(known), max(known) + 1)} - {*known})
            raise UserError(
                f"{masks} holds {count_text(count, 'mask')}, but none with number {missing[0]}: which frame each "
                "is of is not clear. "
                "Number them without a gap."
            )
        return files
    frames = image_files(clip)
    for key in (_stem, _number):
        ours: dict[Any, Path] = {key(file): file for file in frames}
        theirs: dict[Any, Path] = {key(file): file for file in files}
        unclear = len(ours) < len(frames) or len(theirs) < len(files) or None in (*ours, *theirs)
        if not unclear and (ours.keys() & theirs.keys() or key is _number):
            break
    else:
        ours, theirs = (_by_stem(part) for part in (frames, files))
    alone = [file for key, file in ours.items() if key not in theirs]
    extra = [file for key, file in theirs.items() if key not in ours]
    if alone or extra:
        said = [f"no mask for {_named(alone)}"] * bool(alone) + [f"no frame for {_named(extra)}"] * bool(
            extra
        )
        raise UserError(
            f"{masks} does not fit {clip}: {', and '.join(said)}. Masks belong to the frames of their name; name each "
            "as its frame, and add or remove what is left."
        )
    return [theirs[key] for key in ours]


def _by_stem(files: list[Path]) -> dict[Any, Path]:
    """Files by their name without its ending.

    Raises:
        UserError: two of one name; they are named.
    """
    found: dict[Any, Path] = {}
    for file in files:
        if (other := found.setdefault(_stem(file), file)) is not file:
            raise UserError(
                f"{file.parent} holds {_named([other, file])}: which of them a mask belongs to is not clear. Masks "
                "belong to the frames of their name; give each frame a name of its own."
            )
    return found


def _named(files: list[Path]) -> str:
    return ", ".join(file.name for file in files[:5]) + (
        f" and {len(files) - 5} more" if len(files) > 5 else ""
    )


def _stem(file: Path) -> str:
    return file.stem


def _number(file: Path) -> int | None:
    """The last number in a file's name; None: there is none."""
    found = re.findall(r"\d+", file.stem)
    return int(found[-1]) if found else None


def check_label_map(ids: Integer[ndarray, "*T H W"], file: Path | str) -> None:
    """Check that ids, of an image or of some frames of a clip, can be those of objects: not hundreds, and not most of
    them on scattered pixels and thin edges alone.

    Smoothing and compression with loss leave such ids between those of the objects.

    Raises:
        UserError: they cannot.
    """
    planes = ids.reshape(-1, *ids.shape[-2:])
    most = max((len(_sizes(plane)) for plane in planes), default=0)
    if most > _MOST_IDS:
        raise UserError(f"{file} holds {most} different values: no mask has so many objects. {_ODD}")
    sizes = _sizes(ids)
    objects = [value for value in sizes if value]
    if len(objects) < _LOOSE:
        return
    same = ids[..., 1:, 1:] == ids[..., :-1, :-1]
    same &= (ids[..., 1:, 1:] == ids[..., :-1, 1:]) & (ids[..., 1:, 1:] == ids[..., 1:, :-1])
    solid = np.zeros(ids.shape, bool)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            solid[..., rows, columns] |= same
    firm = _sizes(ids[solid])
    loose = [value for value in objects if firm.get(value, 0) < sizes[value] / 2]
    if len(loose) >= _LOOSE and 2 * len(loose) > len(objects):
        raise UserError(
            f"{file} holds {len(objects)} ids, {len(loose)} of them on scattered pixels or thin lines: it was "
            f"smoothed, or compressed with loss. {_ODD}"
        )


def _sizes(ids: Integer[ndarray, "*shape"]) -> dict[int, int]:
    """Pixels of each id; small ones are counted, which takes a part of the time of sorting."""
    if ids.dtype.itemsize > 2 or ids.dtype.kind == "i":
        return dict(zip(*(part.tolist() for part in np.unique(ids, return_counts=True))))
    counts = np.bincount(ids.ravel())
    return {value: int(counts[value]) for value in np.flatnonzero(counts).tolist()}


def _check_format(file: Path, image: Image.Image) -> None:
    tiff = image.format == "TIFF" and image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")
    webp = image.format == "WEBP" and file.read_bytes()[12:16] != b"VP8L"
    if image.format in _LOSSY or tiff or webp:
        raise UserError(f"{file} is stored with loss ({image.format}), which changes ids. {_ODD}")


def _image_ids(
    file: Path, void_id: int | None, allow_odd: bool
) -> tuple[Integer[ndarray, "H W"], Bool[ndarray, "H W"]]:
    """The values of a mask, 0 where void, and where that is."""
    with opened(file) as image:
        if not allow_odd:
            _check_format(file, image)
        ids = np.asarray(image)
    if ids.ndim != 2 or ids.dtype.kind not in "uib":
        raise UserError(
            f"{file} is in colour ({image.mode}), a mask holds object ids. Save it as a palette or grey PNG."
        )
    ids = ids.astype(np.uint8) if ids.dtype == bool else ids
    void = (ids == void_id) if image.mode == "P" and void_id is not None else np.zeros(ids.shape, bool)
    return np.where(void, 0, ids), void


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


def _array_ids(file: Path, count: int | None = None) -> Integer[ndarray, "T H W"]:
    """All masks of a file; one for each of `count` frames, which is checked before they are read."""
    if file.suffix == ".npy":
        ids = map_array(file, _AGAIN)
    else:
        shapes = array_shapes(file, _AGAIN)
        name = next((name for name in ("masks", "segmentations", *shapes) if name in shapes), None)
        if name is None:
            raise UserError(f"{file} holds no array. {_AGAIN}")
        if count is not None:
            _check_count(file, shapes[name][0] if len(shapes[name]) == 3 else 1, count)
        ids = read_arrays(file, _AGAIN, (name,))[name]
    ids = ids[None] if ids.ndim == 2 else ids
    if ids.ndim != 3 or ids.dtype.kind not in "uib" or (ids.size and ids.min() < 0):
        raise UserError(
            f"{file}: masks should be integer ids [T, H, W], 0 or more, got {ids.dtype} {list(ids.shape)}."
        )
    return ids.astype(np.uint8) if ids.dtype == bool else ids


def _check_count(masks: Path, found: int, count: int) -> None:
    if found != count:
        raise UserError(
            f"{masks} holds masks for {count_text(found, 'frame')}, its clip has {count}. Give one for every frame."
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

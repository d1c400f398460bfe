"""The data set `folder`: your own images and videos, with or without masks.

```
root/train/      optional, with root/validation/ (and root/test/); without them a tenth is for validation
    dog.mp4      a video file, an animated GIF, or one image (a clip of one frame)
    street/      a folder of images: one clip, in natural order
    trips/rome/  folders may lie in folders, at most 8 deep
root/masks/      optional; where there are splits root/masks/train/ or root/train/masks/
    dog/         a folder of PNG, one for each frame;  or dog.npy, dog.npz [T, H, W];  or dog.gif (colours)
    street.npz
```
A folder with films is no clip: each of its films is. Hidden files are passed over; what else is left out is noted.

Masks have the size of the frames, and in a folder the names of its frames. Their values are object ids, 0 for
background: the indices of a palette PNG, where 255 is void (`DataConfig.void_id`), or the values of a grey one (a black
and white mask is one object). Masks that were smoothed or stored with loss are refused. Where an id exceeds the rows of
`boxes`, the clip's ids are renumbered 1, 2, ... in their order. There is no flow and no depth.

Frames are cropped to `DataConfig.crop`, in their own pixels, or else to their central square (random crops of a recipe
lie within it), and resized such that the shorter side has `DataConfig.resolution` pixels. Frames more than twice as
large, where bilinear resizing would skip pixels, are first averaged over areas; others are resized as by the published
readers.
"""

import hashlib
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from numpy import ndarray

from torchslots.data.clips import Example, finish_cropped
from torchslots.data.config import DataConfig
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.sets.own_masks import Ids, check_size, masks_of, read_masks
from torchslots.data.transforms import Crop, Sample, crop, mask_boxes, resize_nearest
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError
from torchslots.io.listing import MASKS, Listing, list_videos
from torchslots.io.video import FILM_SUFFIXES, IMAGE_SUFFIXES, frame_count, read_frames

SPLITS = ("train", "validation", "test")
_VALIDATION_PART = 0.1
_DEPTH = 8
"""Levels of folders below the root that are looked into."""
_FROM_MASKS = {"segmentations", "boxes", "ignore"}
_BESIDE = (".txt", ".md", ".json", ".csv", ".yaml", ".yml", ".html", ".ini", ".db", "")
"""Endings of files that are ignored beside the clips: notes, licences, leftovers of file managers."""


class UnusableClip(CorruptRecord):
    """A clip that cannot be read or does not fit its masks; skipped with --skip-corrupt."""

    def __init__(self, file: Path, record: int, reason: str) -> None:
        UserError.__init__(self, f"{reason} With --skip-corrupt such clips are left out.")
        self.file, self.record, self.reason = file, record, reason


class OwnFiles:
    """The clips of one split of a folder; the module's docstring has the layout."""

    title, keys = "your folder", None

    def __init__(self, root: Path, split: str, config: DataConfig) -> None:
        """List the clips and their masks.

        Args:
            split: `train`, `validation`, `test`, or `all` for every clip.

        Raises:
            UserError: no such folder or split, no clips, a file of unknown kind, masks for some clips only.
        """
        self.root, self.config = Path(root), config
        self.clips = split_clips(self.root, split)
        masks = {clip: masks_of(self.root, clip) for clip in self.clips}
        without = [clip for clip in self.clips if masks[clip] is None]
        if without and len(without) < len(self.clips):
            raise UserError(
                f"{without[0]} and {len(without) - 1} other clips have no masks, the rest has. Add "
                f"{self.root / 'masks' / without[0].relative_to(self.root).with_suffix('')}, or remove all."
            )
        self.masks = masks

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def files(self) -> str:
        """Number of clips, and of those with masks."""
        return f"{count_text(len(self), 'clip')}, {sum(masks is not None for masks in self.masks.values())} with masks"

    def name(self, index: int) -> str:
        """The clip's path below the root."""
        return self.clips[index].relative_to(self.root).as_posix()

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """A clip cropped to its central square; `keys` None: whole frames and masks.

        Raises:
            UnusableClip: it cannot be read, or does not fit its masks.
        """
        clip = self.clips[index]

        def read(start: int, stop: int) -> dict[str, ndarray]:
            with _named(clip, index):
                frames, found = self._read(clip, start, stop, keys)
                if keys is not None:
                    return self._fitted(frames, found, keys)
                stored = {} if found is None else {"segmentations": found.ids.numpy()}
                return {"video": frames} | stored

        def finish(
            sample: Sample, config: DataConfig, length: int, rng: np.random.Generator | None
        ) -> Sample:
            with _named(clip, index):
                return finish_cropped(sample, config, length, rng)

        with _named(clip, index):
            return Example(_frame_count(clip), read, finish)

    def num_objects(self, index: int) -> None:
        """Unknown."""

    def _read(
        self, clip: Path, start: int, stop: int, keys: Collection[str] | None
    ) -> tuple[UInt8[ndarray, "T H W 3"], Ids | None]:
        """Frames, and object ids where they are asked for and there are masks."""
        frames, masks = read_frames(clip, start, stop - start), self.masks[clip]
        if masks is None or (keys is not None and _FROM_MASKS.isdisjoint(keys)):
            return frames, None
        found = read_masks(
            masks,
            _frame_count(clip),
            start,
            stop,
            clip=clip,
            void_id=self.config.void_id,
            allow_odd=self.config.allow_odd_masks,
        )
        check_size(clip, frames, masks, found.ids)
        return frames, found

    def _fitted(
        self, frames: UInt8[ndarray, "T H W 3"], found: Ids | None, keys: Collection[str]
    ) -> dict[str, ndarray]:
        area = _area(frames.shape[1], frames.shape[2], self.config.crop)
        size = _stored_size(area, 2 * self.config.resolution)
        arrays = {"video": _shrunk(frames, area, size)}
        if found is not None:
            arrays |= _objects(found, area, size, keys, self.config)
        return arrays


@contextmanager
def _named(clip: Path, index: int) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UnusableClip(clip, index, str(error)) from error


def split_clips(root: Path, split: str) -> list[Path]:
    """The clips of a split in natural order: those of its folder; without such folders, a tenth or the rest of all.

    The names alone decide which. A single clip is in both splits.

    Raises:
        UserError: no such folder or split, no clips, or a file of unknown kind.
    """
    folders = existing_splits(root)
    if split == "all":
        return [clip for folder in folders or (".",) for clip in _clips(root / folder)]
    if split in folders:
        return _clips(root / split)
    if folders or split not in SPLITS[:2]:
        raise UserError(
            f"{root} has no split `{split}`. It has: {', '.join(folders or SPLITS[:2])}. "
            f"Make the folder {root / split} for it."
        )
    clips = _clips(root)
    shuffled = sorted(clips, key=lambda clip: hashlib.sha256(os.fsencode(clip.name)).digest())
    cut = max(1, round(_VALIDATION_PART * len(clips)))
    held_out = set(shuffled[:cut])
    if len(clips) == 1:
        return clips
    return [clip for clip in clips if (clip in held_out) == (split == "validation")]


def existing_splits(root: Path) -> tuple[str, ...]:
    """The splits that have a folder of their own.

    Raises:
        UserError: no such folder.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder. Give the folder that holds your images or videos.")
    return tuple(split for split in SPLITS if (root / split).is_dir())


def listed(folder: Path) -> Listing:
    """The clips of a folder and of the folders below it, and what is left out, but for masks and notes."""
    found = list_videos(folder, each=True, each_below=False, depth=_DEPTH)
    left_out = [(path, why) for path, why in found.left_out if path != folder / MASKS and not _beside(path)]
    return Listing(found.videos, left_out)


class UnknownKind(UserError):
    """A folder holds files that are no image or video by name."""


def of_unknown_kind(found: Listing, folder: Path) -> list[Path]:
    """The files that are left out and lie beside the clips, so that they were probably meant to be some."""
    return [path for path, _ in found.left_out if path.parent == folder and path.is_file()]


def _clips(folder: Path) -> list[Path]:
    found = listed(folder)
    unknown = of_unknown_kind(found, folder)
    if unknown:
        kinds = ", ".join(kind[1:] for kind in (*IMAGE_SUFFIXES, *FILM_SUFFIXES))
        others = f" and {count_text(len(unknown) - 1, 'other file')} are" if len(unknown) > 1 else " is"
        raise UnknownKind(
            f"{unknown[0]}{others} no image or video by name. Known: {kinds}. Convert what you need, and move the rest "
            "away."
        )
    found.note(folder)
    if not found.videos:
        raise UserError(f"{folder} is empty: no image, video or folder of images. Put your clips there.")
    return found.videos


def _beside(path: Path) -> bool:
    """Whether a file that is left out is no surprise: notes, licences."""
    return path.is_file() and path.suffix.lower() in _BESIDE


def _frame_count(clip: Path) -> int:
    return _counted(clip, clip.stat().st_mtime_ns)


@lru_cache(maxsize=65536)
def _counted(clip: Path, _changed: int) -> int:
    return frame_count(clip)


def _area(height: int, width: int, area: tuple[int, ...] | None) -> Crop:
    """The part of a frame that is used: `DataConfig.crop`, or else the central square.

    Raises:
        UserError: the crop extends beyond the frame.
    """
    if area is None:
        side = min(height, width)
        return Crop((height - side) // 2, (width - side) // 2, side, side)
    part = Crop(*area)
    if min(part) < 0 or part.top + part.height > height or part.left + part.width > width:
        raise UserError(
            f"The crop takes rows {part.top} to {part.top + part.height} and columns {part.left} to "
            f"{part.left + part.width}, but the frames are {height} x {width}. Change `data.crop`, or set it to None."
        )
    return part


def _stored_size(area: Crop, most: int) -> tuple[int, int]:
    """Height and width of the part, its shorter side shrunk to `most` pixels if it is larger."""
    scale = min(1.0, most / min(area.height, area.width))
    return round(area.height * scale), round(area.width * scale)


def _shrunk(
    frames: UInt8[ndarray, "T H W 3"], area: Crop, size: tuple[int, int]
) -> UInt8[ndarray, "T h w 3"]:
    """Crop to `area`; where that is larger than `size` pixels, average it down to `size`."""
    rows, columns = slice(area.top, area.top + area.height), slice(area.left, area.left + area.width)
    video = np.ascontiguousarray(frames[:, rows, columns])
    if (area.height, area.width) == size:
        return video
    pixels = torch.from_numpy(video).permute(0, 3, 1, 2)
    small = [F.interpolate(frame[None].float(), size, mode="area") for frame in pixels]
    return torch.cat(small).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _objects(
    found: Ids, area: Crop, size: tuple[int, int], keys: Collection[str], config: DataConfig
) -> dict[str, ndarray]:
    """`segmentations`, `ignore` and `boxes`, where asked for; boxes come from the masks at full size."""
    ids, most = found.ids, config.max_instances
    if ids.max() > most:
        values = ids.unique()
        ids = (torch.searchsorted(values[values > 0], ids) + (ids > 0)).to(torch.int32)
    cut = crop({"segmentations": ids, "ignore": found.void}, area)
    arrays = {}
    if "boxes" in keys:
        arrays["boxes"] = mask_boxes(cut["segmentations"], most).numpy()
    if "segmentations" in keys:
        arrays["segmentations"] = resize_nearest(cut["segmentations"], *size).numpy()
    if "ignore" in keys and config.void == "ignore":
        arrays["ignore"] = resize_nearest(cut["ignore"], *size).numpy()
    return arrays

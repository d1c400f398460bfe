"""The data set `folder`: your own images and videos, with or without masks.

```
root/train/      optional, with root/validation/ (and root/test/); without them a tenth is for validation
    dog.mp4      a video file, an animated GIF, or one image (a clip of one frame)
    street/      a folder of images: one clip, in natural order
root/masks/      optional; where there are splits root/masks/train/ or root/train/masks/
    dog/         a folder of PNG, one for each frame;  or dog.npy, dog.npz [T, H, W];  or dog.gif (colours)
    street.npz
```
Masks have the size of the frames. Their values are object ids, 0 for background: the indices of a palette PNG or the
values of a grey one (a black and white mask is one object). Where an id exceeds the rows of `boxes`, the clip's ids are
renumbered 1, 2, ... in their order. There is no flow and no depth.

Frames are cropped to their central square (random crops of a recipe lie within it) and resized to
`DataConfig.resolution`. Frames more than twice as large, where bilinear resizing would skip pixels, are first averaged
over areas; others are resized as by the published readers.
"""

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from numpy import ndarray
from torch import Tensor

from torchslots.data.clips import Example, finish_clip
from torchslots.data.config import DataConfig
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.sets.own_masks import check_size, masks_of, read_masks
from torchslots.data.transforms import Crop, Sample, crop, mask_boxes, resize_nearest
from torchslots.io.errors import UserError
from torchslots.io.video import FILM_SUFFIXES, IMAGE_SUFFIXES, frame_count, natural_key, read_frames

SPLITS = ("train", "validation", "test")
_VALIDATION_PART = 0.1
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
        return f"{len(self)} clips, {sum(masks is not None for masks in self.masks.values())} with masks"

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
                frames, ids = self._read(clip, start, stop, keys)
                if keys is not None:
                    return self._fitted(frames, ids, keys)
                return {"video": frames} | ({} if ids is None else {"segmentations": ids.numpy()})

        def finish(
            sample: Sample, config: DataConfig, length: int, rng: np.random.Generator | None
        ) -> Sample:
            with _named(clip, index):
                return finish_clip(sample, config, length, rng)

        with _named(clip, index):
            return Example(_frame_count(clip), read, finish)

    def num_objects(self, index: int) -> None:
        """Unknown."""

    def _read(
        self, clip: Path, start: int, stop: int, keys: Collection[str] | None
    ) -> tuple[UInt8[ndarray, "T H W 3"], Int[Tensor, "T H W"] | None]:
        """Frames, and object ids where they are asked for and there are masks."""
        frames, masks = read_frames(clip, start, stop - start), self.masks[clip]
        if masks is None or (keys is not None and {"segmentations", "boxes"}.isdisjoint(keys)):
            return frames, None
        ids = read_masks(masks, _frame_count(clip), start, stop)
        check_size(clip, frames, masks, ids)
        return frames, ids

    def _fitted(
        self, frames: UInt8[ndarray, "T H W 3"], ids: Int[Tensor, "T H W"] | None, keys: Collection[str]
    ) -> dict[str, ndarray]:
        area, size = _middle(frames.shape[1], frames.shape[2]), 2 * self.config.resolution
        arrays = {"video": _shrunk(frames, area, size)}
        if ids is not None:
            arrays |= _objects(ids, area, min(size, area.height), keys, self.config.max_instances)
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
    shuffled = sorted(clips, key=lambda clip: hashlib.sha256(clip.name.encode()).digest())
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


def _clips(folder: Path) -> list[Path]:
    entries = [entry for entry in folder.iterdir() if entry.name[0] != "." and entry.name != "masks"]
    kinds = (*IMAGE_SUFFIXES, *FILM_SUFFIXES)
    unknown = [e for e in entries if e.is_file() and e.suffix.lower() not in (*kinds, *_BESIDE)]
    if unknown:
        raise UserError(
            f"{unknown[0]} and {len(unknown) - 1} other files are no images or videos by their names. "
            f"Known: {', '.join(kind[1:] for kind in kinds)}. Convert them or move them away."
        )
    clips = [entry for entry in entries if entry.is_dir() or entry.suffix.lower() in kinds]
    if not clips:
        raise UserError(f"{folder} is empty: no image, video or folder of images. Put your clips there.")
    return sorted(clips, key=lambda clip: natural_key(clip.name))


def _frame_count(clip: Path) -> int:
    return _counted(clip, clip.stat().st_mtime_ns)


@lru_cache(maxsize=65536)
def _counted(clip: Path, _changed: int) -> int:
    return frame_count(clip)


def _middle(height: int, width: int) -> Crop:
    side = min(height, width)
    return Crop((height - side) // 2, (width - side) // 2, side, side)


def _shrunk(frames: UInt8[ndarray, "T H W 3"], area: Crop, size: int) -> UInt8[ndarray, "T h w 3"]:
    """Crop to `area`; where that is larger than `size` pixels, average it down to `size`."""
    rows, columns = slice(area.top, area.top + area.height), slice(area.left, area.left + area.width)
    video = np.ascontiguousarray(frames[:, rows, columns])
    if area.height <= size:
        return video
    pixels = torch.from_numpy(video).permute(0, 3, 1, 2)
    small = [F.interpolate(frame[None].float(), (size, size), mode="area") for frame in pixels]
    return torch.cat(small).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _objects(
    ids: Int[Tensor, "T H W"], area: Crop, size: int, keys: Collection[str], most: int
) -> dict[str, ndarray]:
    """`segmentations` and `boxes`, where asked for; boxes come from the masks at full size."""
    if ids.max() > most:
        values = ids.unique()
        ids = (torch.searchsorted(values[values > 0], ids) + (ids > 0)).to(torch.int32)
    cut = crop({"segmentations": ids}, area)["segmentations"]
    arrays = {}
    if "boxes" in keys:
        arrays["boxes"] = mask_boxes(cut, most).numpy()
    if "segmentations" in keys:
        arrays["segmentations"] = resize_nearest(cut, size, size).numpy()
    return arrays

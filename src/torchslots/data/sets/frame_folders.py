"""Videos as folders of numbered images: MOVi-Solid and MOVi-Tex (Singh, Wu and Ahn, 2022, STEVE), and MOVi-D and MOVi-E
as SlotDiffusion's script converts them.

```
MOVi-Solid/{train,val,test}/00000000/00000000_image.png       frame 0
                                     00000000_mask_00.png     mask of its first object, 0 or 255
MOVi-D/{train,validation,test}/00000000/000000.jpg            frame 0, compressed with loss
                                        000000_mask.png       ids of its objects, 0 for background
```

Objects of a frame of MOVi-Solid are numbered from 1 in the order of their masks. Where masks overlap the greatest value
wins, of equal ones the first; where all are 0 there is background. Its `val` has no masks, so validate on `test`.
"""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from torchslots.data.clips import Example
from torchslots.data.config import DataConfig
from torchslots.data.find import check_split, find
from torchslots.data.formats.png import read_image
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.io.errors import UserError
from torchslots.io.files import hidden
from torchslots.io.video import natural_key

_FROM_MASKS = ("segmentations", "boxes")
_NO_MASKS = (
    "Evaluate on another split, such as with `--evaluation.split test` (as published trainings on MOVi-Solid and "
    "MOVi-Tex do; prepare `--splits train test`), or ask for `video` alone with `--data.keys video`."
)


class Video(NamedTuple):
    """One video: its folder, the names of its frames in order, and of all files in the folder."""

    folder: Path
    frames: list[str]
    names: frozenset[str]


ReadIds = Callable[[Video, int, int], UInt8[np.ndarray, "H W"]]
"""(video, frame, number of the video) -> ids of a frame's objects, 0 for background."""


class Layout(NamedTuple):
    """File names of one of these sets."""

    title: str
    splits: dict[str, str]
    """Our names of the splits, and the names of their folders."""
    image: re.Pattern[str]
    """Names of frames, with their number."""
    mask: re.Pattern[str]
    """Names of masks."""
    ids: ReadIds


def _merged_masks(video: Video, frame: int, index: int) -> UInt8[np.ndarray, "H W"]:
    """The first object of the greatest mask value at each pixel; the background comes first, with value 1."""
    start = video.frames[frame].removesuffix("image.png")
    objects = {int(match[1]) for name in video.names if (match := _OBJECT.fullmatch(name))}
    files = [f"{start}mask_{number:02d}.png" for number in range(max(objects, default=0) + 1)]
    planes = [read_image(video.folder / file, index, ("L",)) for file in files]
    for file, plane in zip(files, planes):
        if plane.shape != planes[0].shape:
            raise CorruptRecord(
                video.folder / file, index, f"is {plane.shape}, its first mask {planes[0].shape}"
            )
    return np.stack([np.ones_like(planes[0]), *planes]).argmax(0).astype(np.uint8)


def _stored_ids(video: Video, frame: int, index: int) -> UInt8[np.ndarray, "H W"]:
    return read_image(video.folder / f"{Path(video.frames[frame]).stem}_mask.png", index, ("L",))


_OBJECT = re.compile(r"\d+_mask_(\d+)\.png")
_PUBLISHED = {"train": "train", "validation": "val", "test": "test"}
_CONVERTED = {split: split for split in ("train", "validation", "test")}


def _masked(title: str) -> Layout:
    return Layout(title, _PUBLISHED, re.compile(r"(\d+)_image\.png"), _OBJECT, _merged_masks)


def _converted(title: str) -> Layout:
    return Layout(title, _CONVERTED, re.compile(r"(\d+)\.jpg"), re.compile(r"\d+_mask\.png"), _stored_ids)


LAYOUTS = {
    "movi_solid": _masked("MOVi-Solid"),
    "movi_tex": _masked("MOVi-Tex"),
    "movi_d_frames": _converted("MOVi-D"),
    "movi_e_frames": _converted("MOVi-E"),
}


class FrameFolders:
    """The videos of one split; an object has the same id in all frames."""

    keys = ("video", "segmentations")

    def __init__(self, root: Path, split: str, config: DataConfig) -> None:
        """List the videos' folders; their files are listed on reading.

        Args:
            config: Its `dataset` names the set; `keys`, `max_objects` and `num_records` are used.

        Raises:
            UserError: no such set or split, no masks where the recipe wants them, or a limit of objects.
        """
        self.layout = LAYOUTS[config.dataset]
        self.title = self.layout.title
        if config.max_objects is not None:
            raise UserError(
                f"{self.title} does not store the number of objects of a video: set `data.max_objects` to None."
            )
        self.folder = find_base(root, config.dataset)
        self.videos = _videos(self.folder, self.layout, split)[: config.num_records]
        self.has_masks = any(map(self.layout.mask.fullmatch, _names(self.videos[0])))
        if not self.has_masks and not {*_FROM_MASKS}.isdisjoint(config.keys):
            raise UserError(
                f"{self.videos[0].parent} has no masks (the recipe asks for {', '.join(config.keys)}). {_NO_MASKS}"
            )

    @property
    def files(self) -> str:
        """Kind of the files, by the first video."""
        return f"folders of frames {'with' if self.has_masks else 'without'} masks"

    def __len__(self) -> int:
        return len(self.videos)

    def name(self, index: int) -> str:
        """Split and folder of the video."""
        return f"{self.videos[index].parent.name}/{self.videos[index].name}"

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """List a video's files; masks are read where they are asked for and stored.

        Raises:
            CorruptRecord: a frame or mask is missing or cannot be read; the message names its file.
        """
        video = self.video(index)
        masks = self.has_masks if keys is None else "segmentations" in keys
        return Example(
            len(video.frames), lambda start, stop: self._read(index, video, range(start, stop), masks)
        )

    def num_objects(self, index: int) -> None:
        """Unknown."""

    def video(self, index: int) -> Video:
        """The files of a video's folder.

        Raises:
            CorruptRecord: no frames, or a gap in their numbers.
        """
        folder = self.videos[index]
        names = frozenset(_names(folder))
        frames = {int(match[1]): name for name in names if (match := self.layout.image.fullmatch(name))}
        missing = next((number for number in range(max(len(frames), 1)) if number not in frames), None)
        if missing is not None:
            raise CorruptRecord(folder, index, f"has no frame {missing}")
        return Video(folder, [frames[number] for number in range(len(frames))], names)

    def _read(self, index: int, video: Video, frames: Sequence[int], masks: bool) -> dict[str, np.ndarray]:
        files = [video.folder / video.frames[frame] for frame in frames]
        pixels = [read_image(file, index, ("RGB", "RGBA"), ("PNG", "JPEG"))[..., :3] for file in files]
        arrays = {"video": _stack(pixels, files, index)}
        if masks:
            ids = _stack([self.layout.ids(video, frame, index) for frame in frames], files, index)
            size = arrays["video"].shape[1:3]
            if ids.shape[1:] != size:
                raise CorruptRecord(files[0], index, f"is {size} pixels, its mask {ids.shape[1:]}")
            arrays["segmentations"] = ids
        return arrays


def _stack(planes: list[UInt8[np.ndarray, "..."]], files: list[Path], index: int) -> UInt8[np.ndarray, "..."]:
    for plane, file in zip(planes, files):
        if plane.shape != planes[0].shape:
            found, first = plane.shape[:2], planes[0].shape[:2]
            raise CorruptRecord(
                file, index, f"or its mask is {found} pixels, {files[0].name} or its mask {first}"
            )
    return np.stack(planes)


def find_base(root: Path, name: str) -> Path:
    """The folder that holds a set's splits: `root` itself, or one of the set's name below it.

    Raises:
        UserError: there is none.
    """
    layout = LAYOUTS[name]
    wanted = {_plain(name), _plain(layout.title)}

    def look(folder: Path) -> Path | None:
        named = folder == root or _plain(folder.name) in wanted
        return folder if named and _present(folder, layout) else None

    expected = (
        f"{layout.title} (expected {layout.title}/train and so on, with a folder of images for each video)"
    )
    return find(
        root, look, expected, "`torchslots data list --long` says how to get it; give the folder with --root."
    )


def splits(root: Path, name: str) -> Sequence[str]:
    """The splits of a set below a folder.

    Raises:
        UserError: the set is not there.
    """
    return list(_present(find_base(root, name), LAYOUTS[name]))


def _present(base: Path, layout: Layout) -> dict[str, Path]:
    """The splits that are there, by our names, and their folders."""
    return {ours: base / theirs for ours, theirs in layout.splits.items() if (base / theirs).is_dir()}


def recognise(folder: Path) -> str | None:
    """The set in a folder, by the names of its first video's files and of the folder; None: none of these."""
    found = [name for name, layout in LAYOUTS.items() if _holds(folder, layout)]
    named = [name for name in found if _plain(LAYOUTS[name].title) == _plain(folder.resolve().name)]
    return next(iter([*named, *found]), None)


def _holds(folder: Path, layout: Layout) -> bool:
    for split in layout.splits.values():
        names = _names(
            next((entry for entry in sorted((folder / split).glob("*/")) if not hidden(entry)), folder)
        )
        if any(map(layout.image.fullmatch, names)) and any(map(layout.mask.fullmatch, names)):
            return True
    return False


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if not hidden(entry)]


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _videos(base: Path, layout: Layout, split: str) -> list[Path]:
    folders = _present(base, layout)
    check_split(base, split, folders)
    videos = [entry for entry in folders[split].iterdir() if entry.is_dir() and not hidden(entry)]
    if not videos:
        raise UserError(f"{folders[split]} holds no folders of videos. Extract the archive again.")
    return sorted(videos, key=lambda video: natural_key(video.name))

"""DAVIS 2017 (Pont-Tuset et al., 2017; Caelles et al., 2019): videos with ids of their objects, as published.

```
DAVIS/JPEGImages/480p/bear/00000.jpg
      Annotations_unsupervised/480p/bear/00000.png    ids as palette indices, the same through a video; 255 void
      Annotations/480p/bear/00000.png                 those of the semi-supervised track: fewer objects
      ImageSets/2017/{train,val}.txt                  names of videos
```
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from torchslots.data.clips import Example
from torchslots.data.config import DataConfig
from torchslots.data.find import check_split, find, names
from torchslots.data.formats.photos import read_indices, read_photo
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.sets.instances import stack_frames, without_void
from torchslots.io.errors import UserError, first_line

_LABELS = ("segmentations", "ignore")
_DOWNLOAD = "Get it with `torchslots data download davis_2017`, or give the folder that holds DAVIS."


class Track(NamedTuple):
    """The list of a split's videos, and the folder of its masks."""

    list: str
    masks: str


_UNSUPERVISED, _SEMI = "Annotations_unsupervised", "Annotations"
SPLITS = {
    "train": Track("train", _UNSUPERVISED),
    "validation": Track("val", _UNSUPERVISED),
    "train_semi_supervised": Track("train", _SEMI),
    "validation_semi_supervised": Track("val", _SEMI),
}


class DavisVideos:
    """The videos of one split, in the order of its list."""

    title, keys = "DAVIS 2017", ("video", *_LABELS)

    def __init__(self, root: Path, split: str, config: DataConfig) -> None:
        """Read the list of videos.

        Raises:
            UserError: nothing is found there, or a video's frames or masks are missing.
        """
        check_split(self.title, split, SPLITS)
        self.track, self.config = SPLITS[split], config
        what = "DAVIS with JPEGImages/480p and ImageSets/2017"
        self.base = find(root, lambda folder: folder if present(folder) else None, what, _DOWNLOAD)
        self.videos = _list_of(self.base, self.track.list)
        self._demand_folders("JPEGImages", self.videos[: config.num_records])
        if set(config.keys) & {*_LABELS, "boxes"}:
            self._demand_folders(self.track.masks, self.videos[: config.num_records])

    @property
    def files(self) -> str:
        """Which masks there are."""
        return f"folders of JPEG frames with {self.track.masks}"

    def __len__(self) -> int:
        return len(self.videos)

    def name(self, index: int) -> str:
        """The video's folder."""
        return self.videos[index]

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """List a video's frames; masks are read where they are asked for.

        Raises:
            CorruptRecord: there are no frames, or a mask has none.
        """
        frames = self._frames(index)
        wanted = self.keys if keys is None else keys
        if set(_LABELS) & set(wanted):
            self._refuse_unknown(index, set(frames))
        return Example(len(frames), lambda start, stop: self._read(index, frames[start:stop], wanted))

    def num_objects(self, index: int) -> int:
        """Ids of all masks of the video."""
        frames = self._frames(index)
        ids = self._read(index, frames, ("segmentations",))["segmentations"]
        return len(np.unique(ids[ids > 0]))

    def _frames(self, index: int) -> list[str]:
        """Names of the frames without their ending, in order."""
        folder = self._folder("JPEGImages", index)
        frames = sorted(name[:-4] for name in names(folder) if name.endswith(".jpg"))
        if not frames:
            raise CorruptRecord(folder, index, "holds no frames")
        return frames

    def _refuse_unknown(self, index: int, frames: set[str]) -> None:
        folder = self._folder(self.track.masks, index)
        masks = sorted(name for name in names(folder) if name.endswith(".png") and name[:-4] not in frames)
        if masks:
            raise CorruptRecord(
                folder / masks[0], index, f"is a mask of frame {masks[0][:-4]}.jpg, which is not there"
            )

    def _folder(self, kind: str, index: int) -> Path:
        return self.base / kind / "480p" / self.videos[index]

    def _read(self, index: int, frames: Sequence[str], keys: Collection[str]) -> dict[str, np.ndarray]:
        """Raises CorruptRecord: a file is missing, broken, or of another size."""
        folder = self._folder("JPEGImages", index)
        pixels = [read_photo(folder / f"{frame}.jpg", index) for frame in frames]
        for frame, image in zip(frames, pixels):
            if image.shape != pixels[0].shape:
                sizes = f"is {image.shape[0]} x {image.shape[1]}, {frames[0]}.jpg {pixels[0].shape[:2]}"
                raise CorruptRecord(folder / f"{frame}.jpg", index, sizes)
        arrays = {"video": np.stack(pixels)} if "video" in keys else {}
        wanted = [key for key in _LABELS if key in keys]
        if wanted:
            labels = stack_frames([self._labels(index, frame, pixels[0].shape[:2]) for frame in frames])
            arrays |= {key: labels[key] for key in wanted}
        return arrays

    def _labels(self, index: int, frame: str, size: tuple[int, int]) -> dict[str, np.ndarray]:
        ids = read_indices(self._folder(self.track.masks, index) / f"{frame}.png", index, size)
        return without_void(ids, ids, self.config)

    def _demand_folders(self, kind: str, videos: Sequence[str]) -> None:
        folder = self.base / kind / "480p"
        there = set(names(folder)) if folder.is_dir() else set()
        missing = [name for name in videos if name not in there or not (folder / name).is_dir()]
        if missing:
            raise UserError(
                f"{folder} lacks {len(missing)} of {len(videos)} videos that {self.track.list}.txt lists, such as "
                f"{missing[0][:60]}. Extract the archive again. Annotations_unsupervised comes in the archive of the "
                "unsupervised track, Annotations (splits `train_semi_supervised`, `validation_semi_supervised`) in the "
                "other."
            )


def present(folder: Path) -> bool:
    """Whether DAVIS 2017 lies in a folder."""
    return (folder / "JPEGImages" / "480p").is_dir() and (folder / "ImageSets" / "2017").is_dir()


def _list_of(base: Path, name: str) -> list[str]:
    path = base / "ImageSets" / "2017" / f"{name}.txt"
    try:
        return path.read_text(encoding="utf-8-sig").split()
    except OSError as error:
        raise UserError(
            f"{path} cannot be opened: {first_line(error)}. Extract the archive again."
        ) from error
    except UnicodeError as error:
        raise UserError(
            f"{path} is no list of names: {first_line(error)}. Extract the archive again."
        ) from error

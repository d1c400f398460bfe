"""YouTube-VIS 2021 and 2019 (Yang, Fan and Xu, 2019): videos with instances of 40 classes, as published.

```
2021: train/JPEGImages/0043f083b5/00000.jpg    every fifth frame; train/instances.json
2019: train/JPEGImages/0043f083b5/00000.jpg    train.json beside train
```
Labels of `valid` and `test` are not public. So the last 300 videos of the annotation file, in its order, are
`validation` and the others `train`, as in published work on 2021. Published figures on 2021 are of fewer: the first 210
of these 300 (`--data.num_records 210`), or the first 224 chunks of 6 frames.
"""

import itertools
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchslots.data.clips import Example
from torchslots.data.config import DataConfig
from torchslots.data.find import check_split, find, names
from torchslots.data.formats.annotation_file import AnnotationFile
from torchslots.data.formats.photos import read_photo
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.sets.instances import Annotation, LabelReader, stack_frames
from torchslots.io.cache import cached
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError

SPLITS = ("train", "validation", "all")
_NUM_VALIDATION = 300
_LABELS = ("segmentations", "ignore", "classes", "boxes")
_AGAIN = "Extract the archive with the annotations of the training videos again."
_GET = "`torchslots data list` says how to get it; give the folder that holds `train` with --root."


class Place(NamedTuple):
    """Where one edition lies."""

    annotations: Path
    frames: Path


class Video(NamedTuple):
    """One video of the annotation file."""

    number: int
    """Its `id` there."""
    files: tuple[str, ...]
    height: int
    width: int


class YouTubeVis:
    """The videos of one split, in the order of the annotation file."""

    keys = ("video", *_LABELS)

    def __init__(self, root: Path, split: str, config: DataConfig) -> None:
        """Read the table of videos, and the annotations where the recipe asks for labels.

        Raises:
            UserError: nothing is found there, the file is broken, or folders of videos are missing or unknown.
        """
        self.title = TITLES[config.dataset]
        check_split(self.title, split, SPLITS)
        what = f"{self.title} ({_EXPECTED[config.dataset]}, and train/JPEGImages)"
        self.place = find(root, partial(place_of, config.dataset), what, _GET)
        self.labels = LabelReader(self.place.annotations, config, "error")
        videos = _videos(self.place.annotations)
        parts = {"train": videos[:-_NUM_VALIDATION], "validation": videos[-_NUM_VALIDATION:], "all": videos}
        self.videos = parts[split]
        self._demand_folders(self.videos[: config.num_records])
        self._refuse_unknown({_folder_of(video) for video in videos})
        if set(config.keys) & set(_LABELS):
            _ = self.annotations

    @property
    def files(self) -> str:
        """The annotation file, and the folder of frames."""
        return f"{self.place.annotations.name} with folders of JPEG frames"

    def __len__(self) -> int:
        return len(self.videos)

    def name(self, index: int) -> str:
        """The video's folder."""
        return _folder_of(self.videos[index])

    @cached_property
    def annotations(self) -> dict[int, list[Annotation]]:
        """Of each video of the split that has some, by its `id`, in the order of the file."""
        lengths = {video.number: len(video.files) for video in _videos(self.place.annotations)}
        found = _annotations(AnnotationFile(self.place.annotations, _AGAIN), lengths)
        return {video.number: found[video.number] for video in self.videos if video.number in found}

    def objects(self, index: int) -> list[Annotation]:
        """A video's instances, in the order of their ids."""
        return self.labels.objects(self._of(index))

    def _of(self, index: int) -> list[Annotation]:
        return self.annotations.get(self.videos[index].number, [])

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """Find a video; labels are read where they are asked for."""

        def read(start: int, stop: int) -> dict[str, np.ndarray]:
            arrays = self._read(index, range(start, stop), self.keys if keys is None else keys)
            return {key: array for key, array in arrays.items() if keys is not None or key in self.keys}

        return Example(len(self.videos[index].files), read)

    def num_objects(self, index: int) -> int:
        """Instances of the video."""
        return len(self.objects(index))

    def _read(self, index: int, frames: Sequence[int], keys: Collection[str]) -> dict[str, np.ndarray]:
        """Raises CorruptRecord: a frame is missing, broken or of another size, or a mask is."""
        video, size = self.videos[index], (self.videos[index].height, self.videos[index].width)
        arrays = {}
        wanted = [key for key in _LABELS if key in keys]
        if wanted:
            labels = [self.labels.read(self._of(index), frame, size, index, wanted) for frame in frames]
            arrays = stack_frames(labels)
        if "video" in keys:
            arrays["video"] = np.stack([self._frame(index, video, frame) for frame in frames])
        return arrays

    def _frame(self, index: int, video: Video, frame: int) -> np.ndarray:
        file = self.place.frames / video.files[frame]
        pixels = read_photo(file, index)
        if pixels.shape[:2] != (video.height, video.width):
            told = f"but {self.place.annotations.name} says {video.height} x {video.width}"
            raise CorruptRecord(file, index, f"is {pixels.shape[0]} x {pixels.shape[1]}, {told}")
        return pixels

    def _demand_folders(self, videos: Sequence[Video]) -> None:
        frames = self.place.frames
        there = set(names(frames))
        missing = [
            name for name in map(_folder_of, videos) if name not in there or not (frames / name).is_dir()
        ]
        if missing:
            raise UserError(
                f"{self.place.frames} lacks {len(missing):,} of {len(videos):,} videos that "
                f"{self.place.annotations.name} lists, such as {missing[0][:60]}. Extract the archive with the frames "
                "of the training videos again, or use the first N with `data.num_records`."
            )

    def _refuse_unknown(self, listed: set[str]) -> None:
        unknown = sorted(name for name in names(self.place.frames) if name not in listed and "." not in name)
        if unknown:
            raise UserError(
                f"{self.place.frames} holds {count_text(len(unknown), 'video')} that {self.place.annotations.name} "
                "does not list, "
                f"such as {unknown[0]}. Move them elsewhere, or get the annotations that belong to them. {_AGAIN}"
            )


def _place_2021(base: Path) -> Place:
    return Place(base / "instances.json", base / "JPEGImages")


def _place_2019(base: Path) -> Place:
    return Place(base / "train.json", base / "train" / "JPEGImages")


TITLES = {"youtube_vis_2021": "YouTube-VIS 2021", "youtube_vis_2019": "YouTube-VIS 2019"}
_EXPECTED = {"youtube_vis_2021": "train/instances.json", "youtube_vis_2019": "train.json"}
_PLACES = {"youtube_vis_2021": _place_2021, "youtube_vis_2019": _place_2019}


def place_of(name: str, folder: Path) -> Place | None:
    """Where an edition lies in a folder; None: it does not."""
    place = _PLACES[name](folder)
    return place if place.annotations.is_file() and place.frames.is_dir() else None


def present(name: str, folder: Path) -> bool:
    """Whether an edition lies in a folder."""
    return place_of(name, folder) is not None


def _folder_of(video: Video) -> str:
    return Path(video.files[0]).parent.as_posix()


def _videos(path: Path) -> list[Video]:
    """The table of videos, stored so that all annotations are not read each time."""
    table = {
        name: array.tolist() for name, array in cached(path, "videos", lambda: _video_table(path)).items()
    }
    ends = itertools.accumulate(table["length"])
    return [
        Video(number, tuple(table["frame"][end - length : end]), height, width)
        for number, height, width, length, end in zip(*(table[name] for name in _COLUMNS), ends)
    ]


_COLUMNS = ("id", "height", "width", "length")


def _video_table(path: Path) -> dict[str, np.ndarray]:
    """Raises UserError: a field is missing or does not fit."""
    kinds: dict[str, Any] = {"id": int, "height": int, "width": int, "file_names": list}
    file = AnnotationFile(path, _AGAIN)
    rows = file.rows("videos", kinds)
    for row in rows:
        if not row["file_names"] or not all(
            isinstance(name, str) and "/" in name for name in row["file_names"]
        ):
            raise file.error(f"lists no frames of video {row['id']} as FOLDER/FRAME.jpg")
        row["length"] = len(row["file_names"])
    table = {name: np.array([row[name] for row in rows], np.int64) for name in _COLUMNS}
    return table | {"frame": np.array([name for row in rows for name in row["file_names"]], str)}


def _annotations(file: AnnotationFile, lengths: dict[int, int]) -> dict[int, list[Annotation]]:
    """Raises UserError: a field is missing or does not fit, or names a video or category that is not in the file."""
    found, categories = defaultdict(list), file.categories()
    kinds: dict[str, Any] = {"id": int, "video_id": int, "category_id": int, "segmentations": list}
    for row in file.rows("annotations", kinds):
        masks, number = row["segmentations"], row["id"]
        if row["video_id"] not in lengths:
            raise file.error(f"has annotation {number} of video {row['video_id']}, which `videos` lacks")
        if row["category_id"] not in categories:
            raise file.error(
                f"has annotation {number} of category {row['category_id']}, which `categories` lacks"
            )
        if len(masks) != lengths[row["video_id"]]:
            raise file.error(
                f"has {len(masks)} masks in annotation {number}, of {lengths[row['video_id']]} frames"
            )
        crowd = file.is_crowd(row)
        found[row["video_id"]].append(Annotation(number, row["category_id"], crowd, masks))
    return dict(found)

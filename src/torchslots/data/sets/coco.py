"""COCO 2017 (Lin et al., 2014): photographs with instances of 80 classes, from its folders as published.

```
{train2017,val2017}/000000000139.jpg
annotations/instances_{train,val}2017.json    images in its order; polygons, crowds as run lengths
```
An image is a clip of one frame. The annotations of 118,287 training images are only read where labels are asked for.
"""

from collections import defaultdict
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchslots.data.clips import Example, image_example
from torchslots.data.config import DataConfig
from torchslots.data.find import check_split, find, names
from torchslots.data.formats.annotation_file import AnnotationFile
from torchslots.data.formats.photos import read_photo
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.sets.instances import Annotation, LabelReader
from torchslots.io.cache import cached
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError

SPLITS = {"train": "train2017", "validation": "val2017"}
_LABELS = ("segmentations", "ignore", "classes", "boxes")
_AGAIN = "Extract annotations_trainval2017.zip again."
_DOWNLOAD = (
    "Get it with `torchslots data download coco`, or give the folder that holds train2017 and annotations."
)


_PHOTO = {"file_name": str, "id": int, "height": int, "width": int}


class Photo(NamedTuple):
    """One image of the annotation file's table."""

    file: str
    number: int
    """Its `id` there."""
    height: int
    width: int


class CocoImages:
    """The images of one split, in the order of the annotation file; those without annotations too."""

    title, keys = "COCO 2017", ("video", *_LABELS)

    def __init__(self, root: Path, split: str, config: DataConfig) -> None:
        """Read the table of images, and the annotations where the recipe asks for labels.

        Raises:
            UserError: nothing is found there, images are missing or unknown, the annotation file is broken.
        """
        check_split("COCO 2017", split, SPLITS)
        folder = SPLITS[split]
        base = find(root, _looker(folder), f"{folder}/ beside annotations/instances_{folder}.json", _DOWNLOAD)
        self.folder, self.path = base / folder, _annotations_of(base, folder)
        self.labels = LabelReader(self.path, config, "ignore")
        self.photos = _photos(self.path)
        self._check_folder(config.num_records)
        if set(config.keys) & set(_LABELS):
            _ = self.annotations

    @property
    def files(self) -> str:
        """The folder, and the file of its annotations."""
        return f"{self.folder.name}/*.jpg with {self.path.name}"

    def __len__(self) -> int:
        return len(self.photos)

    def name(self, index: int) -> str:
        """The image's file."""
        return f"{self.folder.name}/{self.photos[index].file}"

    @cached_property
    def annotations(self) -> dict[int, list[Annotation]]:
        """Of each image that has some, by its `id`, in the order of the file."""
        return _annotations(AnnotationFile(self.path, _AGAIN), {photo.number for photo in self.photos})

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """Read an image, and its labels where they are asked for.

        Raises:
            CorruptRecord: the image or a mask cannot be read.
        """
        photo = self.photos[index]
        pixels = read_photo(self.folder / photo.file, index)
        wanted = [key for key in _LABELS if keys is None or key in keys]
        labels = {}
        if wanted:
            self._check_size(photo, pixels.shape[:2], index)
            found = self.annotations.get(photo.number, [])
            labels = self.labels.read(found, 0, pixels.shape[:2], index, wanted)
        return image_example(video=pixels, **labels)

    def num_objects(self, index: int) -> int:
        """Instances of the image."""
        return len(self.labels.objects(self.annotations.get(self.photos[index].number, [])))

    def _check_size(self, photo: Photo, size: tuple[int, ...], index: int) -> None:
        if size != (photo.height, photo.width):
            told = f"but {self.path.name} says {photo.height} x {photo.width}"
            raise CorruptRecord(self.folder / photo.file, index, f"is {size[0]} x {size[1]}, {told}")

    def _check_folder(self, num_records: int | None) -> None:
        """Raise a `UserError` where the folder and the table of images do not agree."""
        there, listed = set(names(self.folder)), [photo.file for photo in self.photos]
        missing = [file for file in listed[:num_records] if file not in there]
        if missing:
            raise UserError(
                f"{self.folder} lacks {len(missing):,} of {len(listed):,} images that {self.path.name} lists, such as "
                f"{missing[0]}. Extract {self.folder.name}.zip again, or use the first N with `data.num_records`."
            )
        unknown = sorted(file for file in there.difference(listed) if file.endswith(".jpg"))
        if unknown:
            raise UserError(
                f"{self.folder} holds {count_text(len(unknown), 'image')} that {self.path.name} does not list, such as "
                f"{unknown[0]}. Remove them, or get the annotations that belong to them. {_AGAIN}"
            )


def present(folder: Path) -> bool:
    """Whether some split of COCO lies in a folder."""
    return any(_annotations_of(folder, part).is_file() for part in SPLITS.values())


def _annotations_of(base: Path, part: str) -> Path:
    return base / "annotations" / f"instances_{part}.json"


def _looker(part: str) -> Callable[[Path], Path | None]:
    return lambda base: base if (base / part).is_dir() and _annotations_of(base, part).is_file() else None


def _photos(path: Path) -> list[Photo]:
    """The table of images, stored so that half a gigabyte of JSON is not read each time."""
    table = cached(path, "images", lambda: _image_table(path))
    columns = (table[field].tolist() for field in _PHOTO)
    return [Photo(*row) for row in zip(*columns)]


def _image_table(path: Path) -> dict[str, np.ndarray]:
    rows = AnnotationFile(path, _AGAIN).rows("images", _PHOTO)
    return {field: np.array([row[field] for row in rows]) for field in _PHOTO}


def _annotations(file: AnnotationFile, images: set[int]) -> dict[int, list[Annotation]]:
    """Raises UserError: an annotation lacks a field, or is of an image or category that is not in the file."""
    found, categories = defaultdict(list), file.categories()
    kinds: dict[str, Any] = {"id": int, "image_id": int, "category_id": int, "segmentation": (list, dict)}
    for row in file.rows("annotations", kinds):
        if row["image_id"] not in images:
            raise file.error(f"has annotation {row['id']} of image {row['image_id']}, which `images` lacks")
        if row["category_id"] not in categories:
            raise file.error(
                f"has annotation {row['id']} of category {row['category_id']}, which `categories` lacks"
            )
        crowd = file.is_crowd(row)
        found[row["image_id"]].append(Annotation(row["id"], row["category_id"], crowd, [row["segmentation"]]))
    return dict(found)

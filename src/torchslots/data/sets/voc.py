"""PASCAL VOC 2012 (Everingham et al.): photographs with instances of 20 classes, from its folder as published.

```
VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg
                  SegmentationObject/2007_000032.png    ids as palette indices, 255 void
                  SegmentationClass/2007_000032.png     classes, 255 void
                  ImageSets/Segmentation/{train,val,trainval,trainaug}.txt    names
```
`trainaug`, on which published models are trained, is a list of 10,582 names that does not come with the data: those of
`train`, and those of SBD that are not in `val`. Only their images are used, most have no masks here.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from torchslots.data.clips import Example, image_example
from torchslots.data.config import DataConfig
from torchslots.data.find import check_split, find, names
from torchslots.data.formats.photos import read_indices, read_photo
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.sets.instances import without_void
from torchslots.io.errors import UserError, first_line

SPLITS = {"train": "train", "validation": "val", "trainval": "trainval", "trainaug": "trainaug"}
_LABELS = ("segmentations", "ignore", "classes")
_NUM_CLASSES = 20
_OBJECTS, _CLASSES = "SegmentationObject", "SegmentationClass"
_DOWNLOAD = "Get it with `torchslots data download voc`, or give the folder that holds VOC2012."


class VocImages:
    """The images of one split, in the order of its list."""

    title, keys = "PASCAL VOC 2012", ("video", *_LABELS)

    def __init__(self, root: Path, split: str, config: DataConfig) -> None:
        """Read the list of names.

        Raises:
            UserError: nothing is found there, no such list, an image or a mask is missing.
        """
        check_split(self.title, split, SPLITS)
        what = "VOC2012 with JPEGImages and ImageSets/Segmentation"
        self.base, self.config = (
            find(root, lambda folder: folder if present(folder) else None, what, _DOWNLOAD),
            config,
        )
        self.list = _list_of(self.base, split)
        self.names = _names_of(self.list)
        self._demand(self.names[: config.num_records], "JPEGImages", ".jpg")
        if set(config.keys) & {*_LABELS, "boxes"}:
            for folder in (_OBJECTS, _CLASSES):
                self._demand(self.names[: config.num_records], folder, ".png")

    @property
    def files(self) -> str:
        """The list of names."""
        return f"{self.list.name} of {self.base.name}"

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The image's name."""
        return self.names[index]

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """Read an image, and its labels where they are asked for; `keys` None: where they are there.

        Raises:
            CorruptRecord: a file is missing, broken, of another size, or has a class that is none.
        """
        pixels = read_photo(self.base / "JPEGImages" / f"{self.names[index]}.jpg", index)
        wanted = _LABELS if keys is None and self._mask(index, _OBJECTS).exists() else keys or ()
        labels = {}
        if not set(_LABELS).isdisjoint(wanted):
            planes = (
                read_indices(self._mask(index, kind), index, pixels.shape[:2])
                for kind in (_OBJECTS, _CLASSES)
            )
            labels = without_void(*planes, config=self.config)
            self._check_classes(int(labels["classes"].max()), index)
        arrays = {key: value for key, value in labels.items() if key in wanted}
        return image_example(video=pixels, **arrays)

    def num_objects(self, index: int) -> int | None:
        """Ids of the mask, where there is one."""
        found = self.open(index, None).read(0, 1).get("segmentations")
        return None if found is None else len(np.unique(found[found > 0]))

    def _check_classes(self, largest: int, index: int) -> None:
        """Grey values stand in the place of ids where a program saved the mask anew."""
        if largest > _NUM_CLASSES:
            reason = f"has class {largest}, VOC has {_NUM_CLASSES}: it was perhaps saved anew in grey"
            raise CorruptRecord(self._mask(index, _CLASSES), index, reason)

    def _mask(self, index: int, folder: str) -> Path:
        return self.base / folder / f"{self.names[index]}.png"

    def _demand(self, wanted: list[str], folder: str, ending: str) -> None:
        """Raise a `UserError` where a folder lacks files of some names."""
        there = set(names(self.base / folder)) if (self.base / folder).is_dir() else set()
        missing = [name + ending for name in wanted if name + ending not in there]
        if not missing:
            return
        remedy = "Extract VOCtrainval_11-May-2012.tar again."
        if self.list.stem == "trainaug" and ending == ".png":
            remedy = "Most images of this list have no masks: ask for `video` alone with `--data.keys video`."
        raise UserError(
            f"{self.base / folder} lacks {len(missing):,} of {len(wanted):,} files that {self.list.name} lists, such "
            f"as {missing[0][:60]}. {remedy}"
        )


def present(folder: Path) -> bool:
    """Whether VOC lies in a folder."""
    return (folder / "JPEGImages").is_dir() and (folder / "ImageSets" / "Segmentation").is_dir()


def _list_of(base: Path, split: str) -> Path:
    path = base / "ImageSets" / "Segmentation" / f"{SPLITS[split]}.txt"
    if path.is_file():
        return path
    remedy = "Extract VOCtrainval_11-May-2012.tar again."
    if split == "trainaug":
        remedy = (
            "Put the list of 10,582 names there, one a line, that programs for semantic segmentation on VOC come with; "
            "or take the 1,464 images of `train`."
        )
    raise UserError(f"{path} is missing. {remedy}")


def _names_of(path: Path) -> list[str]:
    """Raises UserError: it is no list of single names."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"{path} is no list of names: {first_line(error)}. Extract the archive again."
        ) from error
    wrong = next((line for line in lines if len(line) != 1 or "/" in line[0]), None)
    if wrong is not None:
        raise UserError(
            f"{path} has the line {' '.join(wrong)[:60]!r}. Each line should be the name of one image, such as "
            "2007_000032."
        )
    return [name for (name,) in lines]

"""CLEVRTex (Karazija, Laina, Rupprecht, 2021) and its variants, from the extracted folders or from the ZLIB records of
Invariant Slot Attention's scripts.

```
clevrtex_full/0/CLEVRTEX_full_000000.png         image, RGBA 320 x 240
clevrtex_full/0/CLEVRTEX_full_000000_flat.png    ids of objects as the indices of a palette, 0 for background
clevrtex_full/0/CLEVRTEX_full_000000.json        objects
clevrtex_full_240x320.tfrecords-zlib-00000-of-00064
```

Splits: `test`, `validation`, `train` are the first tenth, the second tenth and the rest of the images of `full`, by
their numbers; of the whole set these are the published ranges from 0, 5,000 and 10,000. A variant, `full`, `camo`,
`pbg`, `vbg`, `grassbg` or `outd`, is itself a split, all of its images; `camo_train` and so on are parts of it.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchslots.data.array_cache import PackedShards
from torchslots.data.clips import Example, image_example
from torchslots.data.find import check_split, find_shards, folders
from torchslots.data.formats.compressed import decode_plane
from torchslots.data.formats.example import (
    MalformedExample,
    RawFeature,
    decode_floats,
    decode_ints,
    scan_example,
)
from torchslots.data.formats.png import read_image
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.io.errors import UserError, first_line
from torchslots.io.json_files import read_object

VARIANTS = ("full", "camo", "pbg", "vbg", "grassbg", "outd")
PARTS = ("train", "validation", "test")
SPLITS = (*PARTS, *VARIANTS, *(f"{variant}_{part}" for variant in VARIANTS for part in PARTS))
RESOLUTION = (240, 320)
"""Height and width as published."""
_KEYS = ("video", "segmentations")
_TITLE, _FILES = "CLEVRTex", "single images"
_REMEDY = "Download the variant's archives, extract them all, and give the folder they lie in with --root."
_LAYOUT = "CLEVRTex, as version 1 reads it"


def find_clevrtex(root: Path, split: str, limit: int | None = None) -> "ClevrTexFolder | ClevrTexRecords":
    """A split's images: from the extracted folder if it is there, else from records.

    Args:
        limit: Unpack only the first so many records of the variant; None: all.

    Raises:
        UserError: no such split, or neither folder nor records.
    """
    check_split(_TITLE, split, SPLITS)
    root, (variant, part) = Path(root), _variant(split)
    folder = find_images(root, variant)
    if folder is not None:
        return ClevrTexFolder(folder, variant, part)
    what = f"images CLEVRTEX_{variant}_000000.png and no clevrtex_{variant}_240x320.tfrecords-zlib files of {_TITLE}"
    shards = find_shards(root, rf"clevrtex_{variant}_\d+x\d+", what, _REMEDY)
    return ClevrTexRecords(shards, part, limit)


def _variant(split: str) -> tuple[str, str | None]:
    if split in PARTS:
        return "full", split
    variant, _, part = split.partition("_")
    return variant, part or None


def part_of(numbers: Sequence[int], part: str | None) -> Sequence[int]:
    """The images of a part, of all in the order of their numbers: test, validation, train."""
    tenth, fifth = len(numbers) // 10, len(numbers) // 5
    parts = {"test": slice(0, tenth), "validation": slice(tenth, fifth), "train": slice(fifth, None)}
    return numbers if part is None else numbers[parts[part]]


class ClevrTexFolder:
    """A variant's extracted archives."""

    title, files, keys = _TITLE, _FILES, _KEYS

    def __init__(self, folder: Path, variant: str, part: str | None = None) -> None:
        """List the images.

        Args:
            folder: It holds the folders 0, 1, ... of a thousand images each.

        Raises:
            UserError: a gap in the images' numbers.
        """
        pattern = re.compile(rf"CLEVRTEX_{variant}_(\d+)\.png")
        found = {
            int(match[1]): path
            for path in folder.glob(f"*/CLEVRTEX_{variant}_*.png")
            if (match := pattern.fullmatch(path.name))
        }
        gap = next((number for number in range(len(found)) if number not in found), None)
        if gap is not None:
            raise UserError(
                f"{folder} holds image {max(found)} of {_TITLE} {variant} but not image {gap}. Splits go by number: "
                "extract all archives up to it."
            )
        self.images = [found[number] for number in part_of(range(len(found)), part)]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The image's file name."""
        return self.images[index].name

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """The image without alpha, and the palette's indices as ids.

        Raises:
            CorruptRecord: a file is missing or broken.
        """
        path = self.images[index]
        ids = read_image(_beside(path, "_flat.png"), index, ("P", "L"))
        if keys is not None and "video" not in keys:
            return image_example(segmentations=ids)
        image = read_image(path, index, ("RGBA", "RGB"))[..., :3]
        if image.shape[:2] != ids.shape:
            raise CorruptRecord(path, index, f"is {image.shape[:2]} pixels, its _flat.png {ids.shape}")
        return image_example(video=image, segmentations=ids)

    def num_objects(self, index: int) -> int:
        """Number of objects, by the scene's description."""
        return len(self.scene(index)["objects"])

    def scene(self, index: int) -> dict[str, Any]:
        """The scene's description: objects with shape, size, material, position.

        Raises:
            CorruptRecord: it is missing or broken.
        """
        path = _beside(self.images[index], ".json")
        try:
            scene = read_object(path)
            if not isinstance(scene["objects"], list):
                raise TypeError("objects are no list")
        except (UserError, KeyError, TypeError) as error:
            raise CorruptRecord(path, index, f"cannot be read: {first_line(error)}") from error
        return scene


def find_images(root: Path, variant: str) -> Path | None:
    """The folder of a variant's numbered folders: `root`, or a folder of the variant's name below it; None: none."""
    for folder in folders(root, _TITLE):
        named = folder == root or folder.name == f"clevrtex_{variant}"
        if named and next(folder.glob(f"*/CLEVRTEX_{variant}_*.png"), None) is not None:
            return folder
    return None


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.stem + ending)


class ClevrTexRecords:
    """A variant's records by Invariant Slot Attention's script; unpacked once, 0.3 MB for each image."""

    title, files, keys = _TITLE, _FILES, _KEYS

    def __init__(self, shards: list[Path], part: str | None = None, limit: int | None = None) -> None:
        self.records = PackedShards(shards, _row, _LAYOUT, limit)
        order = np.argsort(self.records.column("image_index"), kind="stable").tolist()
        self.records.take(part_of(order, part))

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """File and number of the record."""
        return self.records.name(index)

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """Image and ids.

        Raises:
            CorruptRecord: the record could not be read.
        """
        return image_example(
            video=self.records.read(index, "image"), segmentations=self.records.read(index, "segmentations")
        )

    def num_objects(self, index: int) -> int:
        """Number of objects, by the record."""
        return int(self.records.read(index, "num_objects"))


_PLANES = {"image": 3, "albedo": 3, "normal": 3, "depth": 1, "shadow": 1, "segmentations": 1}
_COORDS = {"object_3d_coords": 3, "object_pixel_coords": 3, "object_rotations": 1}


def decode_record(payload: bytes, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Features of one record as its published reader gives them (`names` None: all).

    Images are uint8 [H, W, 3] or [H, W], positions float32 [objects, 3], rotations in degrees [objects], zero-padded;
    `num_objects` and `image_index` int64 [1].

    Raises:
        MalformedExample: it is no such record.
    """
    raw = scan_example(payload, names)
    missing = sorted(set(names or ("image", "segmentations")) - set(raw))
    if missing:
        raise MalformedExample(f"has no `{missing[0]}`, so it is no record of {_TITLE}")
    return {name: _decode(name, feature) for name, feature in raw.items()}


def _decode(name: str, raw: RawFeature) -> np.ndarray:
    if name in _PLANES:
        return decode_plane(raw, name, _PLANES[name], RESOLUTION)
    if name in _COORDS:
        values = decode_floats(raw)
        return values if _COORDS[name] == 1 else values.reshape(-1, _COORDS[name])
    return decode_ints(raw)


def _row(payload: bytes) -> dict[str, np.ndarray]:
    arrays = decode_record(payload, ("image", "segmentations", "num_objects", "image_index"))
    if arrays["image"].shape[:2] != arrays["segmentations"].shape:
        raise MalformedExample("has ids of another size than the image")
    numbers = {
        name: arrays[name].reshape(-1)[0] for name in ("num_objects", "image_index") if arrays[name].size
    }
    if len(numbers) < 2:
        raise MalformedExample("has an empty `num_objects` or `image_index`")
    return {**arrays, **{name: np.array(value, np.int64) for name, value in numbers.items()}}

"""CLEVR (Johnson et al., 2017): images of 3 to 10 solids with their properties; there are no masks.

Read from the folder that TensorFlow Datasets writes (`clevr` 3.1.0), or from that of the original ZIP file. Both hold
the same images: TFDS shuffles them, the original is read in the order of its file names.

Splits: `train`, without the first 512 images, and `train_eval`, those 512, as in Slot Attention (in TFDS' order);
`validation`; `test`, whose objects are not published; `train_full`. Of at most 512 training images `train` is all.

Slot Attention crops these images of 320 x 480 pixels by the numbers for CLEVR with masks, 240 x 320:
`REFERENCE_CROP`, left of the centre. `SAME_REGION_CROP` is the intended region.
"""

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from torchslots.data.clips import Example, image_example
from torchslots.data.find import check_split, folders, not_found
from torchslots.data.formats.example import (
    MalformedExample,
    RawFeature,
    decode_bytes,
    decode_floats,
    decode_ints,
    scan_example,
)
from torchslots.data.formats.png import decode_png
from torchslots.data.formats.tfds import TfdsSplit, find_folder
from torchslots.data.formats.tfrecord import CorruptRecord, RecordFile
from torchslots.data.objects import LABELS, encode_objects
from torchslots.io.cache import cached
from torchslots.io.errors import UserError, first_line
from torchslots.io.files import hidden
from torchslots.io.progress import progress

REFERENCE_CROP = (29, 64, 192, 192)
"""Top, left, height, width, as Slot Attention has it."""
SAME_REGION_CROP = (39, 112, 256, 256)
"""The same part of the height, in the middle of the 480 columns."""

_LOG = logging.getLogger("torchslots.data")
_HELD_OUT = 512
_SPLITS = {
    "train": ("train", _HELD_OUT, None),
    "train_eval": ("train", 0, _HELD_OUT),
    "train_full": ("train", 0, None),
    "validation": ("validation", 0, None),
    "test": ("test", 0, None),
}
_ORIGINAL = {"train": "train", "validation": "val", "test": "test"}


class Objects(NamedTuple):
    """The objects of an image."""

    positions: Float32[np.ndarray, "n 3"]
    """In the scene's units, -3 to 3."""
    labels: Mapping[str, Int64[np.ndarray, "n"]]
    """Indices into `torchslots.data.objects.LABELS`."""


class ClevrImages:
    """Images of one split."""

    title, files = "CLEVR", "single images"
    keys = ("video", "properties")

    def __init__(self, root: Path, split: str) -> None:
        """Find the images: TFDS' files or the original's folders, in `root` or below.

        Raises:
            UserError: neither is there; no such split.
        """
        check_split("clevr", split, _SPLITS)
        stored, start, stop = _SPLITS[split]
        self._scenes = find_scenes(Path(root), stored)
        count = len(self._scenes)
        if 0 < count <= start:
            _LOG.warning("CLEVR's training file holds only %d images, so none is left out of `train`.", count)
            start = 0
        self._window = range(count)[start:stop]

    def __len__(self) -> int:
        return len(self._window)

    def name(self, index: int) -> str:
        """File of the image, or file and number of its record."""
        return self._scenes.name(self._window[index])

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """The image, and a row of numbers for each object.

        Raises:
            CorruptRecord: it cannot be read.
        """
        image, objects = self.example(index)
        rows = encode_objects(objects.positions, objects.labels, len(objects.positions))
        return image_example(video=image, properties=rows)

    def num_objects(self, index: int) -> int:
        """Objects in the image; of a corrupt record 0."""
        return int(self._scenes.counts[self._window[index]])

    def example(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], Objects]:
        """An image without its fourth channel, and its objects (none in the test split)."""
        return self._scenes.read(self._window[index])


def find_scenes(root: Path, split: str) -> "_TfdsScenes | _OriginalScenes":
    """A split's images below `root`; TFDS' files come before the original's.

    Raises:
        UserError: neither is there.
    """
    records, images = "clevr-train.tfrecord-00000-of-<n>", "images/train and scenes"
    what = f"CLEVR, neither TFDS' files ({records}) nor the original's folders ({images})"
    below = list(folders(root, what))
    if not _is_original(root) and any(next(folder.glob("clevr-*.tfrecord*"), None) for folder in below):
        return _TfdsScenes(root, split)
    original = next(filter(_is_original, below), None)
    if original is None:
        raise not_found(root, what, "Get them with `torchslots data download clevr`, or give another --root.")
    return _OriginalScenes(original, split)


def _is_original(folder: Path) -> bool:
    return any((folder / "images" / name).is_dir() for name in _ORIGINAL.values())


def _pixels(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """The original's PNG without its fourth channel.

    Raises:
        MalformedExample: it is no PNG file in colour.
    """
    image = decode_png(data)
    if image.shape[2] < 3 or image.dtype != np.uint8:
        raise MalformedExample(f"an image of {image.shape[2]} channels of {image.dtype}")
    return image[..., :3].copy()


# TensorFlow Datasets' files

_FEATURES = ("image", "objects/3d_coords", *(f"objects/{name}" for name in LABELS))


class _TfdsScenes:
    """Records in TFDS' order."""

    def __init__(self, root: Path, split: str) -> None:
        self._records = TfdsSplit(find_folder(root, "clevr"), split)

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        return self._records.name(index)

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], Objects]:
        raw, (file, number) = self._records.scan(index), self._records.place(index)
        _demand_features(raw, file, number)
        try:
            return _pixels(decode_bytes(raw["image"])[0]), _objects(raw)
        except (MalformedExample, ValueError, IndexError) as error:
            raise CorruptRecord(file, number, f"cannot be decoded: {first_line(error)}") from error

    @cached_property
    def counts(self) -> Int64[np.ndarray, "N"]:
        """Number of objects in each image, counted once for each file and stored; 0 for corrupt records."""
        files = self._records.files
        with progress("Counting objects", len(files), "files") as advance:
            found = []
            for file in files:
                found.append(cached(file.path, "objects", partial(_count_objects, file))["counts"])
                advance(1)
        return np.concatenate(found) if found else np.zeros(0, np.int64)


def _demand_features(raw: Mapping[str, RawFeature], file: Path, number: int) -> None:
    missing = [name for name in _FEATURES if name not in raw]
    if missing:
        raise UserError(
            f"{file}: record {number} has no feature `{missing[0]}`, only: {', '.join(sorted(raw)) or 'none'}. Is this "
            "CLEVR as TFDS 3.1.0 writes it?"
        )


def _objects(raw: Mapping[str, RawFeature]) -> Objects:
    positions = decode_floats(raw["objects/3d_coords"]).reshape(-1, 3)
    labels = {name: decode_ints(raw[f"objects/{name}"]) for name in LABELS}
    for name, values in labels.items():
        if len(values) != len(positions):
            raise MalformedExample(f"{len(positions)} positions, but {len(values)} of `{name}`")
        if len(values) and not 0 <= values.min() <= values.max() < len(LABELS[name]):
            raise MalformedExample(f"a {name} of number {values.max()}, of {len(LABELS[name])}")
    return Objects(positions, labels)


def _count_objects(file: RecordFile) -> dict[str, np.ndarray]:
    counts = np.zeros(len(file), np.int64)
    for number in range(len(file)):
        try:
            raw = scan_example(file.read(number), ("objects/size",))
            counts[number] = len(decode_ints(raw["objects/size"])) if raw else 0
        except (CorruptRecord, MalformedExample):
            continue
    return {"counts": counts}


# The original's folders


class _OriginalScenes:
    """The original's PNG files in the order of their names, and their scenes."""

    def __init__(self, folder: Path, split: str) -> None:
        self._images = folder / "images" / _ORIGINAL[split]
        self._listed = folder / "scenes" / f"CLEVR_{_ORIGINAL[split]}_scenes.json"
        if not self._images.is_dir():
            raise UserError(f"{folder} has no images of `{split}`: {self._images} is missing.")

    @cached_property
    def _table(self) -> Mapping[str, np.ndarray]:
        """`names` and `counts` of images, `positions` and `labels` of all objects; the test split has no objects."""
        if not self._listed.exists() and self._images.name == "test":
            files = (file for file in self._images.glob("*.png") if not hidden(file))
            names = np.array(sorted(file.name for file in files), np.str_)
            return _scene_table(names, [], [])
        return cached(self._listed, "scenes", partial(_read_scenes, self._listed))

    @cached_property
    def _ends(self) -> Int64[np.ndarray, "N"]:
        return np.cumsum(self._table["counts"])

    def __len__(self) -> int:
        return len(self._table["names"])

    def name(self, index: int) -> str:
        return str(self._table["names"][index])

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], Objects]:
        file = self._images / self.name(index)
        try:
            image = _pixels(file.read_bytes())
        except (OSError, MalformedExample) as error:
            raise CorruptRecord(file, index, f"cannot be read: {first_line(error)}") from error
        own = slice(self._ends[index] - self._table["counts"][index], self._ends[index])
        labels = {name: self._table["labels"][own, place] for place, name in enumerate(LABELS)}
        return image, Objects(self._table["positions"][own], labels)

    @cached_property
    def counts(self) -> Int64[np.ndarray, "N"]:
        return self._table["counts"]


def _read_scenes(file: Path) -> Mapping[str, np.ndarray]:
    """The list of scenes as arrays, in the order of file names."""
    names, objects = [], []
    try:
        for scene in _each_scene(file.read_text()):
            names.append(scene["image_filename"])
            places = [thing["3d_coords"] for thing in scene["objects"]]
            labels = [[LABELS[name].index(thing[name]) for name in LABELS] for thing in scene["objects"]]
            objects.append(list(zip(places, labels)))
        order = np.argsort(names)
        things = [thing for index in order for thing in objects[index]]
        return _scene_table(np.array(names)[order], [len(objects[index]) for index in order], things)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{file} is no list of CLEVR's scenes: {first_line(error)}. Extract it again."
        ) from error


def _each_scene(text: str) -> Iterator[dict[str, Any]]:
    """Parse scenes one by one; all together take ten times the memory of the text."""
    decoder = json.JSONDecoder()
    position = text.index("[", text.index('"scenes"')) + 1
    while True:
        while text[position] in " \t\r\n,":
            position += 1
        if text[position] == "]":
            return
        scene, position = decoder.raw_decode(text, position)
        yield scene


def _scene_table(names: np.ndarray, counts: list[int], things: list[tuple]) -> dict[str, np.ndarray]:
    return {
        "names": names,
        "counts": np.array(counts or np.zeros(len(names)), np.int64),
        "positions": np.array([position for position, _ in things], np.float32).reshape(-1, 3),
        "labels": np.array([labels for _, labels in things], np.int64).reshape(-1, len(LABELS)),
    }

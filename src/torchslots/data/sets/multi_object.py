"""Tetrominoes, Objects Room, CLEVR with masks and Multi-dSprites (Kabra et al., Multi-Object Datasets, 2019).

Each is one GZIP file of records, unpacked once (`torchslots.data.array_cache`). An image has a mask for every
entity, the background's first; `segmentations` holds the number of the entity whose mask is greatest at a pixel, as in
Invariant Slot Attention. In Objects Room entities 0 to 3 are sky, floor and two walls. Only 0 counts as background, as
in all data sets; evaluation with `num_background` 4 leaves out all four.

Splits, by records of the published file:

| split | records | defined by |
|---|---|---|
| `validation` | the first 100 | Invariant Slot Attention (which evaluates 64 of them: it drops the incomplete batch) |
| `train` | all others; of Tetrominoes the next 512 only | the same |
| `test_full`, `validation_full`, `train_full` | 0 to 15k, 15k to 30k, all others | CLEVRTex (Karazija et al.) |
| `all` | all | |
| `six_objects`, `identical_color`, `empty_room` | Objects Room's test files | |

Where a file ends before a split begins, the split is the whole file, with a warning.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from torchslots.data.array_cache import RecordArrays
from torchslots.data.clips import Example, image_example
from torchslots.data.find import check_split, find
from torchslots.data.formats.compressed import decode_one_byte_strings, decode_plane
from torchslots.data.formats.example import MalformedExample, RawFeature, decode_floats, scan_example
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError

_LOG = logging.getLogger("torchslots.data")
_VERSION = 1


@dataclass(frozen=True)
class Part:
    """Records `start` to `stop` (None: the last) of a file."""

    file: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Layout:
    """The format of one set's records."""

    name: str
    resolution: tuple[int, int]
    """Height and width as published; files of another size and the same aspect are read too."""
    splits: Mapping[str, Part]
    numbers: tuple[str, ...] = ()
    """Further features: 32-bit floats, one or several for each entity."""
    codes: tuple[str, ...] = ()
    """Further features: one byte for each entity."""
    channels: int = 3
    num_background: int = 1
    """Number of entities that are no objects."""
    entities_last: bool = False
    """Masks are stored [H, W, entities] instead of [entities, H, W]."""


def _splits(file: str, num_train: int | None = None, **others: str) -> dict[str, Part]:
    stop = None if num_train is None else 100 + num_train
    return {
        "train": Part(file, 100, stop),
        "validation": Part(file, 0, 100),
        "train_full": Part(file, 30_000),
        "validation_full": Part(file, 15_000, 30_000),
        "test_full": Part(file, 0, 15_000),
        "all": Part(file),
        **{split: Part(other) for split, other in others.items()},
    }


_PLACE = ("x", "y", "visibility")
_SPRITE = (*_PLACE, "shape", "color", "orientation", "scale")


def _sprites(variant: str, channels: int = 3) -> Layout:
    return Layout(
        f"multi_dsprites_{variant}",
        (64, 64),
        _splits(f"multi_dsprites_{variant}.tfrecords"),
        _SPRITE,
        channels=channels,
        entities_last=True,
    )


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "tetrominoes", (35, 35), _splits("tetrominoes_train.tfrecords", 512), (*_PLACE, "shape", "color")
        ),
        Layout(
            "objects_room",
            (64, 64),
            _splits(
                "objects_room_train.tfrecords",
                six_objects="objects_room_test_six_objects.tfrecords",
                identical_color="objects_room_test_identical_color.tfrecords",
                empty_room="objects_room_test_empty_room.tfrecords",
            ),
            num_background=4,
        ),
        Layout(
            "clevr_with_masks",
            (240, 320),
            _splits("clevr_with_masks_train.tfrecords"),
            (*_PLACE, "z", "rotation", "pixel_coords"),
            ("color", "material", "shape", "size"),
        ),
        _sprites("colored_on_grayscale"),
        _sprites("colored_on_colored"),
        _sprites("binarized", channels=1),
    )
}
"""The published sets by name."""


class MultiObjectImages:
    """Images of one split of a set."""

    files = "single images"
    keys = ("video", "segmentations")

    def __init__(self, root: Path, layout: Layout, split: str, num_records: int | None = None) -> None:
        """Find the file, below `root` or `root` itself; the split's records are unpacked on first use.

        Args:
            num_records: Only the first so many of the split; no more are unpacked.

        Raises:
            UserError: no such split or file; on first use, a file of another kind, no room to unpack it.
        """
        check_split(layout.name, split, layout.splits)
        self.layout, self.split, self.title = layout, split, layout.name
        self._part, self._limit = layout.splits[split], num_records
        word = f"{layout.name}, as version {_VERSION} reads it"
        self.records = RecordArrays(
            find_file(root, self._part.file, layout.name), partial(read_row, layout), word, "images"
        )

    @cached_property
    def _window(self) -> range:
        """Numbers of the split's records in their file; unpacks them."""
        part, limit = self._part, self._limit
        stop = part.stop if limit is None else min(part.start + limit, part.stop or part.start + limit)
        self.records.ensure(stop)
        count = len(self.records)
        if count > part.start:
            return range(part.start, count if stop is None else min(stop, count))
        if part.start:
            _LOG.warning(
                f"{self.records.path} holds only {count_text(count, 'record')}, and `{self.split}` begins after "
                "the first "
                f"{part.start}: the split is the whole file, which other splits share."
            )
        return range(count if limit is None else min(limit, count))

    def __len__(self) -> int:
        return len(self._window)

    def name(self, index: int) -> str:
        """File and number of the image's record."""
        return f"{self.records.path.name}__{self._window[index]}"

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """Colours and ids of entities.

        Raises:
            CorruptRecord: the record cannot be read.
        """
        number = self._window[index]
        return image_example(
            video=self.records.read(number, "image"), segmentations=self.records.read(number, "segmentations")
        )

    @cached_property
    def _counts(self) -> Int32[np.ndarray, "N"]:
        return self.records.column("num_objects")

    def num_objects(self, index: int) -> int:
        """Objects in the scene; of a corrupt record 0."""
        return int(self._counts[self._window[index]])

    def example(self, index: int) -> dict[str, np.ndarray]:
        """All fields of an image's record: `image`, `segmentations`, `num_objects`, properties of the entities."""
        return {name: self.records.read(self._window[index], name) for name in self.records.names}


def find_file(root: Path, file: str, name: str) -> Path:
    """A file by name in `root` or the folders below; `root` may be the file itself.

    Raises:
        UserError: it is not there; the message says what is.
    """
    root = Path(root)
    if root.is_file():
        if root.name == file:
            return root
        raise UserError(
            f"{root} is not {file}, the file of this split of {name}. Give that file, or its folder."
        )
    remedy = f"Get it with `torchslots data download {name}`, or give another --root."
    return find(root, lambda folder: folder / file if (folder / file).is_file() else None, file, remedy)


def recognise(folder: Path) -> str | None:
    """The set of which a folder holds a file; None: none of these."""
    for name, layout in LAYOUTS.items():
        if any((folder / part.file).is_file() for part in layout.splits.values()):
            return name
    return None


# One record


def read_row(layout: Layout, record: bytes) -> dict[str, np.ndarray]:
    """Image, ids of entities, and their properties.

    Raises:
        MalformedExample: the record is not of this layout.
    """
    raw = scan_example(record)
    missing = [name for name in ("image", "mask", *layout.numbers, *layout.codes) if name not in raw]
    if missing:
        raise MalformedExample(f"has no `{missing[0]}`, only: {', '.join(sorted(raw)) or 'nothing'}")
    image, ids, entities = _image_and_ids(raw, layout)
    row = {name: _numbers(raw[name], name, entities) for name in layout.numbers}
    row |= {name: _codes(raw[name], name, entities) for name in layout.codes}
    return {"image": image, "segmentations": ids, "num_objects": _num_objects(row, ids, layout), **row}


def _image_and_ids(
    raw: Mapping[str, RawFeature], layout: Layout
) -> tuple[UInt8[np.ndarray, "H W 3"], np.ndarray, int]:
    """Colours, ids [H, W] and the number of entities."""
    image = decode_plane(raw["image"], "image", layout.channels, layout.resolution)
    mask, (height, width) = decode_one_byte_strings(raw["mask"]), image.shape[:2]
    pixels = height * width
    if mask.size % pixels or not 0 < mask.size // pixels < 256:
        raise MalformedExample(
            f"has {mask.size} bytes of masks, which is no number of {height} x {width} images"
        )
    entities = mask.size // pixels
    if layout.entities_last:
        ids = mask.reshape(pixels, entities).argmax(1)
    else:
        ids = mask.reshape(entities, pixels).argmax(0)
    colors = np.broadcast_to(image.reshape(height, width, layout.channels), (height, width, 3))
    return colors, ids.astype(np.uint8).reshape(height, width), entities


def _numbers(raw: RawFeature, name: str, entities: int) -> Float32[np.ndarray, "entities *each"]:
    values = decode_floats(raw)
    if not values.size or values.size % entities:
        raise MalformedExample(f"has {values.size} numbers as `{name}` for {entities} entities")
    return values if values.size == entities else values.reshape(entities, -1)


def _codes(raw: RawFeature, name: str, entities: int) -> UInt8[np.ndarray, "entities"]:
    values = decode_one_byte_strings(raw)
    if values.size != entities:
        raise MalformedExample(f"has {values.size} codes as `{name}` for {entities} entities")
    return values


def _num_objects(row: Mapping[str, np.ndarray], ids: UInt8[np.ndarray, "H W"], layout: Layout) -> np.ndarray:
    """Number of objects, hidden ones included; where the records do not store it, of visible ones."""
    if "visibility" in row:
        return np.array((row["visibility"][layout.num_background :] > 0).sum(), np.int32)
    seen = np.flatnonzero(np.bincount(ids.reshape(-1)))
    return np.array((seen >= layout.num_background).sum(), np.int32)

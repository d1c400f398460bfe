"""Waymo Open camera images, as the ZLIB records that Invariant Slot Attention's script makes of them.

`tfrecords/{training,validation}/camera_1/waymo_open_128x192.tfrecords-zlib-00000-of-00016`: an image, ids of objects,
`num_objects`, `has_mask`, `camera`, and `depth` where another script has added it. Training images have no masks.
`torchslots.data.sets.waymo_prepare` makes these records from the original frames.

Ids are renumbered by size, as in the paper: objects of less than a hundredth of the image, and all but the ten
largest, become background.

Splits: `train`; `validation`, without unmarked images (1,872 remain); `validation_full`, with them.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, Integer

from torchslots.data.array_cache import PackedShards
from torchslots.data.clips import Example, image_example
from torchslots.data.find import check_split, find, find_shards, folders
from torchslots.data.formats.compressed import decode_plane
from torchslots.data.formats.example import MalformedExample, decode_floats, decode_ints, scan_example

RESOLUTION = (128, 192)
"""Height and width of the records' images."""
FOLDERS = {"train": "training", "validation": "validation", "validation_full": "validation"}
"""Folder of each split's records."""
SMALLEST, MOST = 0.01, 11
"""Least part of the image that an object fills; most ids, the background's included."""
_KNOWN_IDS = 50
_LAYOUT = "Waymo Open, as version 1 reads it"
_NUMBERS = ("num_objects", "has_mask", "camera")
_REMEDY = "Make them with `torchslots data prepare-waymo`, and give the folder they lie in with --root."


class WaymoImages:
    """Front camera images of one split."""

    title, files = "Waymo Open", "single images"

    def __init__(self, root: Path, split: str, limit: int | None = None, camera: int = 1) -> None:
        """Find the records and unpack them.

        Args:
            limit: Only the first so many; None: all.
            camera: 1 front, 2 front left, 3 front right, 4 side left, 5 side right.

        Raises:
            UserError: no such split, no records, a shard missing or of another kind, no room to unpack.
        """
        check_split(self.title, split, FOLDERS)
        folder = find_records(Path(root), FOLDERS[split], camera)
        what = f"waymo_open_128x192.tfrecords-zlib files of {self.title}"
        shards = find_shards(folder, r"waymo_open_\d+x\d+", what, _REMEDY)
        self.records = PackedShards(shards, _row, _LAYOUT, limit)
        if split == "validation" and len(self.records):
            marked = self.records.column("num_ids") >= 2
            self.records.take(np.flatnonzero(marked | ~self.records.intact()))

    @property
    def keys(self) -> tuple[str, ...]:
        """Batch keys that are stored."""
        depth = ("depth",) if "depth" in self.records.fields else ()
        return ("video", "segmentations", *depth)

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """File and number of the record."""
        return self.records.name(index)

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """Colours, and ids numbered by size.

        Raises:
            CorruptRecord: the record could not be read.
        """
        depth = "depth" in (self.keys if keys is None else keys)
        return image_example(
            video=self.records.read(index, "image"),
            segmentations=number_by_size(self.records.read(index, "segmentations")),
            depth=self.records.read(index, "depth")[..., None] if depth else None,
        )

    def num_objects(self, index: int) -> int:
        """Objects after renumbering."""
        ids = number_by_size(self.records.read(index, "segmentations"))
        return len(np.setdiff1d(ids, [0]))


def find_records(root: Path, folder: str, camera: int) -> Path:
    """Folder of a split's records of one camera: the script's folder below `root`, or `root` itself.

    Raises:
        UserError: `root` is no folder, or only other splits and cameras are below it.
    """
    inside = f"{folder}/camera_{camera}"
    what = f"{inside} of Waymo Open"
    if not any(below.name.startswith("camera_") for below in folders(root, what)):
        return root
    return find(root, lambda below: below / inside if (below / inside).is_dir() else None, what, _REMEDY)


def number_by_size(
    ids: Integer[np.ndarray, "*shape"], smallest: float = SMALLEST, most: int = MOST
) -> Int32[np.ndarray, "*shape"]:
    """Renumber ids 1, 2, ... from the largest object down, ties by their old ids; 0 stays 0.

    Args:
        smallest: Part of the image; smaller objects become 0, as do ids from 50 on.
        most: Number of ids in the result, 0 included.
    """
    counts = np.bincount(ids.reshape(-1), minlength=_KNOWN_IDS)[:_KNOWN_IDS]
    order = 1 + np.argsort(-counts[1:], kind="stable")[: most - 1]
    kept = order[counts[order] >= max(1, int(smallest * ids.size))]
    table = np.zeros(max(_KNOWN_IDS, int(ids.max()) + 1), np.int32)
    table[kept] = np.arange(1, len(kept) + 1)
    return table[ids]


def decode_record(payload: bytes) -> dict[str, np.ndarray]:
    """All features of one record as its published reader gives them.

    uint8 `image` [H, W, 3] and `segmentations` [H, W, 1]; int64 [1] `num_objects`, `has_mask`, `camera`; float32
    `depth` [H, W] where it is there.

    Raises:
        MalformedExample: it is no such record.
    """
    raw = scan_example(payload)
    missing = [name for name in ("image", "segmentations", *_NUMBERS) if name not in raw]
    if missing:
        raise MalformedExample(f"has no `{missing[0]}`, so it is no record of Waymo Open")
    image = decode_plane(raw["image"], "image", 3, RESOLUTION)
    ids = decode_plane(raw["segmentations"], "segmentations", 1, RESOLUTION)
    if image.shape[:2] != ids.shape:
        raise MalformedExample(f"has ids of {ids.shape} pixels, the image has {image.shape[:2]}")
    example = {"image": image, "segmentations": ids[..., None]}
    example |= {name: decode_ints(raw[name]) for name in _NUMBERS}
    if "depth" in raw:
        example["depth"] = _depth(decode_floats(raw["depth"]), ids.shape)
    return example


def _depth(values: Float32[np.ndarray, "n"], shape: tuple[int, ...]) -> Float32[np.ndarray, "H W"]:
    if values.size != np.prod(shape):
        raise MalformedExample(f"has {values.size} numbers as `depth` for an image of {shape} pixels")
    return values.reshape(shape)


def _row(payload: bytes) -> dict[str, np.ndarray]:
    example = decode_record(payload)
    ids = example["segmentations"][..., 0]
    row = {"image": example["image"], "segmentations": ids}
    row["num_ids"] = np.array(len(np.unique(ids)), np.int64)
    return row | {name: example[name] for name in ("depth",) if name in example}

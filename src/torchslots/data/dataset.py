"""Open a split of a data set as a torch `Dataset`."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from torchslots.data import catalog
from torchslots.data.batch import ClipDataset
from torchslots.data.config import RANGES, DataConfig
from torchslots.data.transforms import Sample
from torchslots.io.errors import UserError, check_type, nearest
from torchslots.io.ranges import COUNT, check_number, check_ranges


def open_dataset(
    name: str,
    root: str | Path,
    *,
    split: str = "train",
    frames: int = 24,
    resolution: int = 64,
    keys: tuple[str, ...] = ("video", "segmentations", "boxes"),
    train: bool = False,
    **changes: Any,
) -> "VideoDataset":
    """Open a split of a data set as a torch `Dataset`; images are videos of one frame.

    An item is a dict of the requested keys, `padding_mask` and `name`:

    | key | shape | dtype | range |
    |---|---|---|---|
    | `video` | [T, 3, H, W] | float32 | RGB in [0, 1] |
    | `segmentations` | [T, H, W] | int32 | 0 = background or not labelled, i + 1 = row i of `boxes` |
    | `ignore` | [T, H, W] | bool | True on void, crowds and overlaps; comes with `segmentations` where a set has it |
    | `classes` | [T, H, W] | int32 | category of each pixel, 0 = none |
    | `boxes` | [T, n, 4] | float32 | (ymin, xmin, ymax, xmax) in [0, 1], zeros for no object |
    | `flow` | [T, 3, H, W] | float32 | optical flow as an RGB image in [0, 1] |
    | `depth` | [T, 1, H, W] | float32 | transformed distance to the camera |
    | `properties` | [T, n, P] | float32 | of CLEVR's objects (`torchslots.data.objects`), in [0, 1] |
    | `padding_mask` | [T, H, W] | bool | False on padding |
    | `name` | str | | where the item comes from |

    `torch.utils.data.DataLoader(dataset, batch_size=8, collate_fn=torchslots.data.batch.collate)` makes batches.

    Args:
        name: One of `list_datasets()`; `folder` is your own images and videos.
        root: Folder that holds the data set's folder (`root/movi_a/128x128/1.0.0`), or a folder below it.
        split: Its name; `torchslots data list --long` names those of each set.
        frames: T; shorter videos are padded.
        resolution: Pixels of the shorter side after resizing.
        keys: Keys to load; nothing else is decoded. CLEVR has no masks: ask for `("video", "properties")`.
        train: Clips at random places, from torch's global generator; False: the first `frames` frames.
        changes: Other fields of `torchslots.data.config.DataConfig`, such as `max_objects=6`.

    Raises:
        UserError: no such data set, folder, split, key or field; a value of the wrong type or out of range; no example
            has at most `max_objects` objects.

    Examples:
        >>> dataset = torchslots.open_dataset("movi_a", root, split="train", frames=4, resolution=32)
        >>> item = dataset[0]
        >>> tuple(item["video"].shape), item["segmentations"].dtype
        ((4, 3, 32, 32), torch.int32)
    """
    known = [field.name for field in fields(DataConfig)]
    for unknown in set(changes) - set(known):
        raise UserError(f"DataConfig has no field `{unknown}`. {nearest(unknown, known)}")
    for key in check_type("keys", keys, tuple, list):
        check_type("keys", key, str)
    check_number("frames", frames, COUNT)
    config = DataConfig(dataset=name, keys=tuple(keys), resolution=resolution, num_frames=frames)
    config = replace(config, **changes)
    check_ranges(config, RANGES)
    folder = Path(check_type("root", root, str, Path))
    clips = catalog.open_dataset(name, folder, check_type("split", split, str), config, train)
    return VideoDataset(clips, train)


class VideoDataset(Dataset[Sample]):
    """Items of a split, see `open_dataset`.

    Args:
        train: Items are clips at random places.
    """

    def __init__(self, clips: ClipDataset, train: bool = False) -> None:
        self.clips, self.train = clips, train

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} items, got index {index}.")
        rng = np.random.default_rng(int(torch.randint(2**62, ()))) if self.train else None
        return self.clips.sample(range(len(self))[index], rng)

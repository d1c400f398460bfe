"""Read the features of frames that `torchslots data prepare --features` stored; they are memory-mapped.

`data/feature_store.py` writes and describes the files. A clip of features takes the place of its frames: the windows
are those of the frames, and what is sampled at each visit of a clip, a crop or a mirror, is lost (`lost`).
"""

from collections.abc import Collection
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchslots.data.clips import Example
from torchslots.data.config import DataConfig
from torchslots.data.sets.prepared import (
    Entry,
    arrays_text,
    differing,
    made_for,
    made_with,
    mapped,
    read_entries,
)
from torchslots.data.transforms import Sample
from torchslots.io.errors import UserError

VERSION = 1
TOKENS, KEYS = "features", "feature_keys"
"""Arrays of frames, by their keys in a batch."""
AGAIN = "Store them again for this recipe, in another folder: `torchslots data prepare --features RECIPE --out DIR`."
_ENDING = "_features"


def features_split(split: str) -> str:
    """Name of the features of a split, beside which its frames may be prepared, too."""
    return split + _ENDING


def is_features(split: str) -> bool:
    """Whether a split's name is that of features."""
    return split.endswith(_ENDING)


def unsampled(config: DataConfig) -> DataConfig:
    """The settings with only windows sampled: in place of random squares are those of evaluation, or the middle."""
    cut = config.train_crop
    if cut == "random":
        cut = "center" if config.eval_crop == "none" else config.eval_crop
    return replace(
        config,
        train_crop=cut,
        eval_crop=cut,
        flip=0.0,
        min_object_covered=None,
        label_size=None,
        eval_chunks=None,
    )


def lost(config: DataConfig) -> list[str]:
    """What training loses with stored features, in words; empty: nothing."""
    found = []
    if config.flip > 0:
        found.append(f"no clip is mirrored (from frames {config.flip:.0%} of them are)")
    if config.train_crop == "random":
        found.append("every clip is cut from the middle (from frames at a random place)")
    if config.min_object_covered is not None:
        found.append("every clip is the whole frame (from frames a random crop)")
    return found


def preprocessing(config: DataConfig) -> dict[str, Any]:
    """The fields that change what a backbone sees."""
    config = unsampled(config)
    return {
        "version": VERSION,
        "resolution": config.resolution,
        "square": config.square,
        "crop": list(config.crop) if config.crop else None,
        "train_crop": config.train_crop,
        "pre_resize": config.pre_resize,
        "interpolation": config.interpolation,
        "max_objects": config.max_objects,
    }


class FeatureArrays:
    """The stored features of one split."""

    title = "stored features"

    def __init__(self, root: Path, split: str, config: DataConfig) -> None:
        """Read the index.

        Args:
            root: The folder that the features were written to.
            split: As of `features_split`.
            config: Its keys are `TOKENS` and, where they are needed, `KEYS`.

        Raises:
            UserError: nothing is stored there, it is not finished, or its frames were prepared with other settings.
        """
        self.folder = Path(root) / split
        self.made = made_for(self.folder)
        wanted = preprocessing(config)
        field = differing(self.made, wanted) if config.keys else None
        if field is not None:
            raise UserError(
                f"{self.folder} holds features of frames with `{field}` = {made_with(self.made, field)!r}, the recipe "
                f"has {wanted[field]!r}. {AGAIN}"
            )
        if KEYS in config.keys and KEYS not in self.keys:
            raise UserError(
                f"{self.folder} holds features without the keys that the recipe's loss compares. {AGAIN}"
            )

    @property
    def keys(self) -> tuple[str, ...]:
        """The stored arrays."""
        return (TOKENS, KEYS) if self.made["keys"] else (TOKENS,)

    @property
    def backbone(self) -> str:
        """Digest of the weights that the features were computed with."""
        return self.made["backbone"]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches."""
        return tuple(self.made["grid"])

    @property
    def size(self) -> int:
        """Channels of each patch."""
        return self.made["size"]

    @property
    def files(self) -> str:
        """Number and size of the arrays."""
        return arrays_text(self.folder)

    @cached_property
    def _entries(self) -> list[Entry]:
        return read_entries(self.folder)

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, index: int) -> str:
        """The example's name in the original data set."""
        return self._entries[index].name

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """A video's features, which are not copied before they are put into a batch."""
        entry = self._entries[index]
        wanted = [key for key in self.keys if keys is None or key in keys]
        size = (entry.height, entry.width)

        def read(start: int, stop: int) -> dict[str, np.ndarray]:
            frames = slice(entry.start + start, entry.start + stop)
            found = {key: np.asarray(mapped(entry.shard / f"{key}.npy")[frames]) for key in wanted}
            return found if keys is None else found | {"padding_mask": np.ones((stop - start, *size), bool)}

        return Example(entry.length, read, self._finish)

    def num_objects(self, index: int) -> None:
        """Unknown; videos of too many objects were left out."""

    def _finish(
        self, clip: Sample, config: DataConfig, length: int, rng: np.random.Generator | None
    ) -> Sample:
        """The clip, padded with the features of black frames as `finish_clip` pads frames."""
        missing = length - len(clip["padding_mask"])
        if missing <= 0:
            return clip
        padded = {"padding_mask": torch.zeros(missing, *self.grid, dtype=torch.bool)}
        for key in clip.keys() - padded.keys():
            black = torch.from_numpy(np.array(mapped(self.folder / f"black_{key}.npy")))
            padded[key] = black.expand(missing, -1, -1)
        return {key: torch.cat([value, padded[key]]) for key, value in clip.items()}

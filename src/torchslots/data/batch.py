"""The contract between data and models: keys, shapes, dtypes, ranges.

| key | batch | dtype | range |
|---|---|---|---|
| `video` | [B, T, 3, H, W] | float32 | [0, 1] |
| `segmentations` | [B, T, H, W] | int32 | 0 = background or not labelled, i + 1 = row i of `boxes` |
| `ignore` | [B, T, H, W] | bool | True where no metric counts: void, crowds, overlaps; beside `segmentations` |
| `classes` | [B, T, H, W] | int32 | category of each pixel, 0 = none; of overlaps the largest |
| `boxes` | [B, T, n, 4] | float32 | (ymin, xmin, ymax, xmax) in [0, 1], zeros where absent |
| `flow` | [B, T, 3, H, W] | float32 | optical flow as an RGB image, [0, 1] |
| `depth` | [B, T, 1, H, W] | float32 | transformed distance to the camera |
| `properties` | [B, T, n, P] | float32 | of each object (`torchslots.data.objects`) in [0, 1], zeros for none |
| `features` | [B, T, N, C] | float16, float32 | stored features of a frozen backbone, in place of `video` |
| `feature_keys` | [B, T, N, C] | float16, float32 | keys of the backbone's last attention, where a loss compares them |
| `padding_mask` | [B, T, H, W] | bool | False on frames or pixels that are padding |
| `name` | list of B strings | | where the example comes from |

`segmentations`, `ignore` and `classes` may have a size of their own in evaluation (`DataConfig.label_size`). Where
`ignore` is True ids are 0, and classes too but for overlaps: metrics of classes ignore `ignore & (classes == 0)`. Ids
may pass the rows of `boxes`.

Beside `features` the `padding_mask` has the rows and columns of the patches.

A sample is the same without B. Every data set gives at least `video` (or `features`) and `padding_mask`. An image is a
clip with T = 1.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.models.types import Batch

_STORED = (torch.float16, torch.float32)
_KINDS = {
    "video": ((torch.float32,), 4),
    "features": (_STORED, 3),
    "feature_keys": (_STORED, 3),
    "segmentations": ((torch.int32,), 3),
    "ignore": ((torch.bool,), 3),
    "classes": ((torch.int32,), 3),
    "boxes": ((torch.float32,), 3),
    "flow": ((torch.float32,), 4),
    "depth": ((torch.float32,), 4),
    "properties": ((torch.float32,), 3),
    "padding_mask": ((torch.bool,), 3),
}
"""dtypes and number of dimensions of each key of a sample."""


@runtime_checkable
class ClipDataset(Protocol):
    """Indexed clips that a model is trained or evaluated on."""

    def __len__(self) -> int:
        """Number of videos (or images)."""
        ...

    def sample(self, index: int, rng: np.random.Generator | None) -> Batch:
        """A training clip sampled with `rng`; with None the evaluation clip, always the same."""
        ...

    def name(self, index: int) -> str:
        """Where the example comes from, without reading it."""
        ...


def collate(samples: Sequence[Batch]) -> Batch:
    """Stack samples into a batch; strings stay lists.

    Raises:
        UserError: two samples differ in shape; the message names both.
    """
    batch: Batch = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if not isinstance(first, Tensor):
            batch[key] = values
            continue
        for sample, value in zip(samples, values):
            if value.shape != first.shape:
                raise UserError(
                    f"`{key}` is {tuple(first.shape)} in {samples[0].get('name')} but {tuple(value.shape)} in "
                    f"{sample.get('name')}: a batch needs one shape. Resize the data, or set the batch size to 1."
                )
        batch[key] = torch.stack(values)
    return batch


def cut_clips(batch: Batch, frames: int) -> Batch:
    """Cut each clip of T frames into T / frames clips, each with the hints of its own first frame.

    Raises:
        UserError: `frames` does not divide T.
    """
    length = batch["features" if "features" in batch else "video"].shape[1]
    if length % frames:
        raise UserError(f"Clips of {length} frames cannot be cut into pieces of {frames}. Choose a divisor.")
    pieces = length // frames
    return {
        key: value.reshape(-1, frames, *value.shape[2:])
        if isinstance(value, Tensor)
        else [item for item in value for _ in range(pieces)]
        for key, value in batch.items()
    }


def check_sample(sample: Batch, where: str) -> Batch:
    """Check a sample against the contract above and return it unchanged.

    Raises:
        UserError: a wrong dtype or rank; the message begins with `where`, the sample's place.
    """
    for key, (kinds, rank) in _KINDS.items():
        value = sample.get(key)
        if value is not None and (value.dtype not in kinds or value.ndim != rank):
            expected = " or ".join(map(str, kinds))
            raise UserError(
                f"{where}: `{key}` should be {expected} with {rank} dimensions, got {value.dtype} in "
                f"{list(value.shape)}. See torchslots/data/batch.py for what a data set must return."
            )
    return sample

"""The slots of a whole data set, video by video, for what is made of many: compositions, concepts."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from torchslots.data.loader import ClipDataset, eval_batches
from torchslots.evaluation.evaluate import frame_slices, shown_batches
from torchslots.evaluation.observers import real_frames
from torchslots.io.errors import UserError
from torchslots.models.clips import frames_of, joined, moved_to, plain_clip
from torchslots.models.layers.ranges import to_bytes
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.seeding import seeded
from torchslots.models.types import Batch, Clip
from torchslots.recipes.config import EvalConfig


class EncodedVideo(NamedTuple):
    """One video without its padding, on the CPU."""

    number: int
    """Its place in the data set."""
    name: str
    frames: UInt8[Tensor, "T 3 h w"]
    clip: Clip
    """Slots and frames of reference; one clip, without attention."""
    masks: UInt8[Tensor, "T K h w"] | None
    """Soft masks in 255ths; None where they were not asked for."""


def encoded_videos(
    model: ObjectCentricModel,
    dataset: ClipDataset,
    settings: EvalConfig,
    with_masks: Callable[[int], bool],
    *,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[EncodedVideo]:
    """Every `world_size`th video, slice by slice as at evaluation.

    Args:
        with_masks: whether the video of that number is asked for its masks.

    Raises:
        UserError: no videos, or damaged data.
    """
    batches = shown_batches(
        dataset, settings, "Reading slots", rank=rank, world_size=world_size, num_workers=num_workers
    )
    seen = 0
    for batch in batches:
        numbers = [rank + (seen + row) * world_size for row in range(len(batch["video"]))]
        yield from _encoded(model, batch, numbers, settings, with_masks, torch.device(device))
        seen += len(numbers)


@torch.no_grad()
def number_of_slots(
    model: ObjectCentricModel, dataset: ClipDataset, settings: EvalConfig, device: torch.device | str = "cpu"
) -> int:
    """How many slots the model has on these data, seen from the first frame of the first video."""
    batch = next(eval_batches(dataset, batch_size=1, limit=1))
    first = replace(settings, num_frames=1, slice_size=1)
    for _, part in frame_slices(seeded(batch, settings.seed), first, torch.device(device)):
        return model.encode(part, attn=False).slots.shape[2]
    raise UserError(
        "The first video of the data set has no frame. Look at it with `torchslots data inspect`."
    )


def _encoded(
    model: ObjectCentricModel,
    batch: Batch,
    numbers: list[int],
    settings: EvalConfig,
    with_masks: Callable[[int], bool],
    device: torch.device,
) -> list[EncodedVideo]:
    """The videos of a batch."""
    state, clips, masks = None, [], []
    asked = any(with_masks(number) for number in numbers)
    for _, part in frame_slices(seeded(batch, settings.seed, numbers[0]), settings, device):
        with torch.no_grad():
            clip = model.encode(part, state, attn=asked)
            state = clip.state
            clips.append(moved_to(clip, "cpu"))
            masks += [_bytes(model.decode(clip, recon=False).masks)] if asked else []
    clip, video = joined(clips, 1), to_bytes(batch["video"][:, : settings.num_frames])
    shown = real_frames(batch)[:, : settings.num_frames]
    names = batch.get("name") or [f"video {number}" for number in numbers]
    drawn = torch.cat(masks, 1) if asked else None
    return [
        EncodedVideo(
            number,
            str(names[row]),
            video[row, shown[row]],
            frames_of(_row(clip, row), slice(0, int(shown[row].sum()))),
            drawn[row, shown[row]] if drawn is not None and with_masks(number) else None,
        )
        for row, number in enumerate(numbers)
    ]


def _bytes(masks: Tensor) -> Tensor:
    return (masks.float() * 255).round().to(torch.uint8).cpu()


def _row(clip: Clip, row: int) -> Clip:
    pose = None if clip.pose is None else clip.pose.map(lambda values: values[row : row + 1])
    return plain_clip(clip.slots[row : row + 1], pose)

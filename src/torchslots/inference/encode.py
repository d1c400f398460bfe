"""Encode the slots of all videos of a data set, for compositions and concepts."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchslots.data.batch import ClipDataset
from torchslots.data.loader import eval_batches
from torchslots.evaluation.evaluate import shown_batches
from torchslots.evaluation.observers import real_frames
from torchslots.io.errors import UserError
from torchslots.models.clips import frames_of, joined, moved_to, plain_clip
from torchslots.models.layers.ranges import to_bytes
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slices import carry_state, cut, demand_finite, to_device
from torchslots.models.slots.seeding import seeded
from torchslots.models.types import Batch, Clip, State
from torchslots.recipes.config import EvalConfig


class EncodedVideo(NamedTuple):
    """One video without its padding, on the CPU."""

    number: int
    """Index in the data set."""
    name: str
    frames: UInt8[Tensor, "T 3 h w"]
    clip: Clip
    """Slots and poses [1, T, K, ...], without attention."""
    masks: UInt8[Tensor, "T K h w"] | None
    """Soft masks in 255ths; None: not requested."""


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
    """Every `world_size`th video, encoded slice by slice as in evaluation.

    Args:
        with_masks: from a video's number to whether its masks are needed.

    Raises:
        UserError: no videos, damaged data, or values that are not finite.
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
    """The model's number of slots on these data, from the first frame of the first video.

    Raises:
        UserError: a first video without frames.
    """
    batch = next(eval_batches(dataset, batch_size=1, limit=1))
    for part in cut(seeded(batch, settings.seed), 1, 1):
        return model.encode(to_device(part, device), attn=False, keys=False).slots.shape[2]
    raise UserError(
        "The first video of the data set has no frame. Look at it with `torchslots data inspect`."
    )


@torch.no_grad()
def _encoded(
    model: ObjectCentricModel,
    batch: Batch,
    numbers: list[int],
    settings: EvalConfig,
    with_masks: Callable[[int], bool],
    device: torch.device,
) -> list[EncodedVideo]:
    """The videos of a batch."""
    clips, masks = [], []
    needed = any(with_masks(number) for number in numbers)
    parts = cut(seeded(batch, settings.seed, numbers[0]), settings.slice_size, settings.num_frames)

    names = batch.get("name") or [f"video {number}" for number in numbers]

    def step(part: Batch, state: State | None) -> Clip:
        clip = model.encode(to_device(part, device), state, attn=needed, keys=False)
        demand_finite(clip, names)
        return clip

    for _, clip in carry_state(step, parts):
        clips.append(moved_to(clip, "cpu"))
        masks += [to_bytes(_masks(model, clip, names)).cpu()] if needed else []
    clip, video = joined(clips, 1), to_bytes(batch["video"][:, : settings.num_frames])
    shown = real_frames(batch)[:, : settings.num_frames]
    soft = torch.cat(masks, 1) if needed else None
    return [
        EncodedVideo(
            number,
            str(names[row]),
            video[row, shown[row]],
            frames_of(_row(clip, row), slice(0, int(shown[row].sum()))),
            soft[row, shown[row]] if soft is not None and with_masks(number) else None,
        )
        for row, number in enumerate(numbers)
    ]


def _masks(model: ObjectCentricModel, clip: Clip, names: Sequence[str]) -> Float[Tensor, "B T K h w"]:
    found = model.decode(clip, recon=False)
    demand_finite(found, names)
    return found.masks


def _row(clip: Clip, row: int) -> Clip:
    pose = None if clip.pose is None else clip.pose.map(lambda values: values[row : row + 1])
    return plain_clip(clip.slots[row : row + 1], pose)

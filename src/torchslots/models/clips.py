"""New videos and pictures from slots of many: which slot comes from where, and the clips that this makes.

Pure functions on plans and clips; a composed clip is for decoding. A slot keeps its number: where slots are learned one
by one, the same number tends to mean the same kind of thing, so that a composition has one background, not many.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.models.slots.encoder import merge_poses
from torchslots.models.types import Clip, Pose, State


def random_plan(num_videos: int, num_slots: int, seed: int) -> Int[ndarray, "N K"]:
    """For every slot of every new video the video it is taken from: all slots are exchanged, each slot's videos in an
    order of their own, drawn from `seed`. Every slot of every video is used once."""
    orders = [np.random.default_rng((seed, slot)).permutation(num_videos) for slot in range(num_slots)]
    return np.stack(orders, axis=1)


def shifted_plan(num_videos: int, num_slots: int, batch_size: int) -> Int[ndarray, "N K"]:
    """The same without chance, as SlotDiffusion's published evaluation does it: in each batch of B consecutive videos,
    slot k of video b is taken from video (b + k) mod B while k < B; slots from B on stay with their own video.

    With a batch of one nothing is exchanged. The last batch may be smaller, and shifts within itself.
    """
    plan = np.empty((num_videos, num_slots), np.int64)
    for start in range(0, num_videos, batch_size):
        size = min(batch_size, num_videos - start)
        own, slot = np.mgrid[:size, :num_slots]
        plan[start : start + size] = start + np.where(slot < size, (own + slot) % size, own)
    return plan


def compose(clip: Clip, plan: Int[ndarray, "M K"]) -> Clip:
    """Clips whose slot k is slot k of clip `plan[m, k]`, at the same frames, with its frame of reference.

    Raises:
        UserError: the plan is for another number of slots, or names a clip that is not there.
    """
    num_clips, num_slots = clip.slots.shape[0], clip.slots.shape[2]
    if plan.shape[1] != num_slots or plan.min() < 0 or plan.max() >= num_clips:
        raise UserError(
            f"A plan {list(plan.shape)} of clips {plan.min()} to {plan.max()} does not fit {num_clips} clips of "
            f"{num_slots} slots. Make it for these."
        )
    chosen, own = torch.as_tensor(plan, device=clip.slots.device), torch.arange(num_slots)
    take = partial(_taken, clips=chosen, slots=own.to(chosen.device))
    return plain_clip(
        take(clip.slots), None if clip.pose is None else clip.pose.map(take), attn=take(clip.attn)
    )


def _taken(values: Tensor, clips: Int[Tensor, "M K"], slots: Int[Tensor, "K"]) -> Tensor:
    """[B, T, K, ...] to [M, T, K, ...]."""
    return values.transpose(1, 2)[clips, slots].transpose(1, 2)


def plain_clip(slots: Tensor, pose: Pose | None = None, attn: Tensor | None = None) -> Clip:
    """A clip of slots [B, T, K, D] that nobody encoded; without attention that is of no tokens."""
    last = None if pose is None else pose.map(lambda values: values[:, -1])
    empty = slots.new_zeros(*slots.shape[:3], 0)
    return Clip(slots, slots, empty if attn is None else attn, pose, State(slots[:, -1], last))


def joined(clips: Sequence[Clip], dim: int) -> Clip:
    """Clips side by side (`dim` 0) or one after the other (1), without attention."""
    merge = partial(torch.cat, dim=dim)
    return plain_clip(
        merge([clip.slots for clip in clips]), merge_poses([clip.pose for clip in clips], merge)
    )


def frames_of(clip: Clip, chosen: slice) -> Clip:
    """Some frames of a clip, without attention."""
    pose = None if clip.pose is None else clip.pose.map(lambda values: values[:, chosen])
    return plain_clip(clip.slots[:, chosen], pose)


def moved_to(clip: Clip, device: torch.device | str) -> Clip:
    """Slots and frames of reference on a device, nothing else."""
    pose = None if clip.pose is None else clip.pose.map(lambda values: values.to(device))
    return plain_clip(clip.slots.to(device), pose)

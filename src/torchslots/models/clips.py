"""Compose new clips from the slots of several: plans of the source video of each slot, and the clips they give.

Pure functions; a composed clip is for decoding. The index of a slot does not change: with learned initial slots an
index tends to be the same kind of object in all videos, so that a composition has one background.
"""

from collections.abc import Callable, Sequence
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
    """Source video of each slot of each new video: for each slot a random permutation of the videos, from `seed`."""
    orders = [np.random.default_rng((seed, slot)).permutation(num_videos) for slot in range(num_slots)]
    return np.stack(orders, axis=1)


def shifted_plan(num_videos: int, num_slots: int, batch_size: int) -> Int[ndarray, "N K"]:
    """Source video of each slot of each new video, as in SlotDiffusion's published evaluation.

    In each batch of B consecutive videos slot k of video b comes from video (b + k) mod B for k < B, and from video b
    otherwise. The last batch may be smaller.
    """
    plan = np.empty((num_videos, num_slots), np.int64)
    for start in range(0, num_videos, batch_size):
        size = min(batch_size, num_videos - start)
        own, slot = np.mgrid[:size, :num_slots]
        plan[start : start + size] = start + np.where(slot < size, (own + slot) % size, own)
    return plan


def compose(clip: Clip, plan: Int[ndarray, "M K"]) -> Clip:
    """Clips m whose slot k is slot k of clip `plan[m, k]`, at the same frames, with its pose.

    Raises:
        UserError: the plan is for another number of slots, or names a clip that does not exist.
    """
    num_clips, num_slots = clip.slots.shape[0], clip.slots.shape[2]
    if plan.shape[1] != num_slots or plan.min() < 0 or plan.max() >= num_clips:
        raise UserError(
            f"A plan {list(plan.shape)} of clips {plan.min()} to {plan.max()} does not fit {num_clips} clips of "
            f"{num_slots} slots. Make it for these."
        )
    chosen, own = torch.as_tensor(plan), torch.arange(num_slots)

    def take(values: Tensor) -> Tensor:
        """[B, T, K, ...] to [M, T, K, ...]."""
        return values.transpose(1, 2)[chosen.to(values.device), own.to(values.device)].transpose(1, 2)

    return _mapped(clip, take, attn=take(clip.attn))


def plain_clip(slots: Tensor, pose: Pose | None = None, attn: Tensor | None = None) -> Clip:
    """A clip of given slots [B, T, K, D], without an encoder; None: attention [B, T, K, 0]."""
    last = None if pose is None else pose.map(lambda values: values[:, -1])
    empty = slots.new_zeros(*slots.shape[:3], 0)
    return Clip(slots, slots, empty if attn is None else attn, pose, State(slots[:, -1], last))


def joined(clips: Sequence[Clip], dim: int) -> Clip:
    """Clips concatenated along the batch (`dim` 0) or along time (1), without attention."""
    merge = partial(torch.cat, dim=dim)
    return plain_clip(
        merge([clip.slots for clip in clips]), merge_poses([clip.pose for clip in clips], merge)
    )


def frames_of(clip: Clip, chosen: slice) -> Clip:
    """Some frames of a clip, without attention."""
    return _mapped(clip, lambda values: values[:, chosen])


def moved_to(clip: Clip, device: torch.device | str) -> Clip:
    """Slots and poses on a device, without attention."""
    return _mapped(clip, lambda values: values.to(device))


def _mapped(clip: Clip, change: Callable[[Tensor], Tensor], attn: Tensor | None = None) -> Clip:
    """`change` applied to slots and poses."""
    mapped = plain_clip(change(clip.slots), None if clip.pose is None else clip.pose.map(change), attn)
    return mapped._replace(grid=clip.grid)

"""Initial poses of slots: sampled in every call, or learned (Invariant Slot Attention)."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchslots.models.slots.seeding import sample_noise
from torchslots.models.types import Conditioning, Pose, State

Invariance = Literal["translation", "scale", "rotation"]
"""Parts of a pose: position; position and scale; position, scale and rotation."""


class WithPoses(nn.Module):
    """Combine an initializer of slots with an initializer of poses.

    Args:
        slots: a `Conditioning` to a `State` without poses.
        frames: (conditioning, number of slots) to a `Pose`; not used if the conditioning has poses. Its weights are
            saved under this name.
    """

    def __init__(self, slots: nn.Module, frames: nn.Module):
        super().__init__()
        self.slots, self.frames = slots, frames

    def forward(self, hint: Conditioning) -> State:
        state: State = self.slots(hint)
        pose = hint.pose if hint.pose is not None else self.frames(hint, state.slots.shape[1])
        return state._replace(pose=pose)


def rotation_from_angle(angle: Float[Tensor, "*b"]) -> Float[Tensor, "*b 2 2"]:
    """[[cos, sin], [-sin, cos]] of an angle in radians: the transpose of the usual matrix, as in the original."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, sin, -sin, cos], -1).unflatten(-1, (2, 2))


class SampledPoses(nn.Module):
    """Positions uniform over the image, scales normal around 0.1, rotations uniform within 45 degrees.

    Args:
        invariance: the parts that are sampled.
        scales: `independent` of the positions, or `correlated`: without rotation the released code samples both with
            one random key, so that scale = 0.1 + 0.1 * sqrt(2) * erfinv(position), which is normal too.
    """

    def __init__(
        self, invariance: Invariance, *, scales: Literal["independent", "correlated"] = "independent"
    ):
        super().__init__()
        self.invariance: Invariance = invariance
        self.sample_scale = _independent_scale if scales == "independent" else _correlated_scale

    def forward(self, hint: Conditioning, num_slots: int) -> Pose:
        position = _uniform(hint, (hint.batch_size, num_slots, 2))
        if self.invariance == "translation":
            return Pose(position)
        scale = self.sample_scale(hint, position)
        if self.invariance == "scale":
            return Pose(position, scale)
        angle = math.pi / 4 * _uniform(hint, (hint.batch_size, num_slots))
        return Pose(position, scale, rotation_from_angle(angle))


def _uniform(hint: Conditioning, shape: tuple[int, ...]) -> Tensor:
    """In [-1, 1)."""
    return sample_noise(hint, shape, torch.rand) * 2 - 1


def _independent_scale(hint: Conditioning, position: Float[Tensor, "B K 2"]) -> Float[Tensor, "B K 2"]:
    return 0.1 + 0.1 * sample_noise(hint, tuple(position.shape))


def _correlated_scale(hint: Conditioning, position: Float[Tensor, "B K 2"]) -> Float[Tensor, "B K 2"]:
    """The same quantile of a normal distribution, clamped to be finite."""
    return 0.1 + 0.1 * math.sqrt(2) * torch.erfinv(position.clamp(min=-1 + torch.finfo(position.dtype).eps))


class LearnedPoses(nn.Module):
    """One learned pose for each slot, the same for every clip; tanh bounds angles to 45 degrees."""

    def __init__(self, num_slots: int, invariance: Invariance):
        super().__init__()
        self.position = nn.Parameter(torch.rand(num_slots, 2) * 2 - 1)
        self.scale = (
            None if invariance == "translation" else nn.Parameter(0.1 + 0.01 * torch.randn(num_slots, 2))
        )
        self.angle = nn.Parameter(0.1 * torch.randn(num_slots, 1)) if invariance == "rotation" else None

    def forward(self, hint: Conditioning, num_slots: int) -> Pose:
        rotation = (
            None if self.angle is None else rotation_from_angle(math.pi / 4 * self.angle.squeeze(-1).tanh())
        )
        one = Pose(self.position, self.scale, rotation)
        return one.map(lambda part: part.expand(hint.batch_size, *part.shape))

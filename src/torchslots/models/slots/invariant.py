"""Invariant Slot Attention: each slot sees tokens relative to its pose, which is fitted to its attention.

Biza et al., Invariant Slot Attention (ICML 2023).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchslots.models.layers.reference_frames import GridEncoder, Laid, at_least_single, seen_from, turn
from torchslots.models.slots.attention import Corrector, SlotAttention
from torchslots.models.types import Grouping, Pose, State

Fit = Callable[[Float[Tensor, "B K N"], Float[Tensor, "B N 2"]], Pose]
"""Weights over tokens and the tokens' positions to each slot's pose."""
Part = Literal["position", "scale", "rotation"]

MIN_SCALE, MAX_SCALE = 1e-3, 2.0
"""Range of a scale; images are 2 wide."""
_EPS = 1e-8


def fit_scale(weights: Float[Tensor, "B K N"], offsets: Float[Tensor, "B K N 2"]) -> Float[Tensor, "B K 2"]:
    """Standard deviation of a slot's attention along each of its axes."""
    variance = (weights + _EPS)[..., None, :] @ offsets.square()
    return variance.squeeze(-2).sqrt().clamp(MIN_SCALE, MAX_SCALE)


def fit_rotation(
    weights: Float[Tensor, "B K N"], offsets: Float[Tensor, "B K N 2"], *, limit: Literal[45, 90] = 45
) -> Float[Tensor, "B K 2 2"]:
    """Principal axes of a slot's attention.

    Sign and order are fixed: within 45 degrees of the image's axes, or within 90 with the longer one first. Rotations
    are discontinuous at these limits.
    """
    xy = offsets.flip(-1)
    covariance = (xy * weights[..., None]).transpose(-1, -2) @ xy
    longer, shorter = _principal_axes(covariance, long_first=limit == 90)
    if limit == 45:
        upright = (longer[..., :1].abs() < 0.707).expand_as(longer)
        longer, shorter = torch.where(upright, shorter, longer), torch.where(upright, longer, shorter)
    first = torch.where(longer[..., :1] < 0, -longer, longer)
    return torch.stack([first, shorter], -1)


def _principal_axes(
    covariance: Float[Tensor, "*b 2 2"], *, long_first: bool
) -> tuple[Float[Tensor, "*b 2"], Float[Tensor, "*b 2"]]:
    """Unit eigenvectors (x, y), that of the larger eigenvalue first.

    Where the covariance of x and y vanishes they are the image's axes, ordered only with `long_first`.
    """
    xx, xy, yy = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    spread = (4 * xy.square() + (xx - yy).square() + 1e-16).sqrt()
    slope = xy + 1e-16
    aligned = (slope.abs() < 1e-6)[..., None]
    swapped = (xx <= yy)[..., None] & long_first
    across, down = covariance.new_tensor([1.0, 0.0]), covariance.new_tensor([0.0, 1.0])
    plain = torch.where(swapped, -down, across), torch.where(swapped, across, down)
    axes = []
    for sign, default in zip((1, -1), plain):
        x = ((xx + yy + sign * spread) / 2 - yy) / slope
        axis = torch.where(aligned, default, torch.stack([x, torch.ones_like(x)], -1))
        axes.append(axis / axis.square().sum(-1, keepdim=True).sqrt())
    return axes[0], axes[1]


def fit_translation(weights: Float[Tensor, "B K N"], grid: Float[Tensor, "B N 2"]) -> Pose:
    """Positions: centres of mass of the attention."""
    return Pose(weights @ grid)


def fit_translation_scale(weights: Float[Tensor, "B K N"], grid: Float[Tensor, "B N 2"]) -> Pose:
    """Positions and scales."""
    moved = fit_translation(weights, grid)
    return moved._replace(scale=fit_scale(weights, seen_from(grid, moved)))


def fit_translation_rotation_scale(
    weights: Float[Tensor, "B K N"], grid: Float[Tensor, "B N 2"], *, limit: Literal[45, 90] = 45
) -> Pose:
    """Positions, rotations, and scales along the rotated axes.

    Args:
        limit: as in `fit_rotation`.
    """
    moved = fit_translation(weights, grid)
    offsets = seen_from(grid, moved)
    rotation = fit_rotation(weights, offsets, limit=limit)
    return Pose(moved.position, fit_scale(weights, turn(offsets, rotation)), rotation)


def detached(fit: Fit, parts: tuple[Part, ...]) -> Fit:
    """`fit` without gradients through `parts` of the poses."""
    return partial(_detached, fit=fit, parts=parts)


def _detached(weights: Tensor, grid: Tensor, *, fit: Fit, parts: tuple[Part, ...]) -> Pose:
    pose = fit(weights, grid)
    return pose._replace(
        **{name: part.detach() for name, part in pose._asdict().items() if part is not None and name in parts}
    )


def first_frame(pose: Pose, *, centered: bool = False, fixed_scale: float | None = None) -> Pose:
    """An initializer's pose, clamped to its range.

    Args:
        centered: start in the middle of the image.
        fixed_scale: start with this scale; None: the initializer's.
    """
    position = pose.position * 0 if centered else pose.position.clamp(-1, 1)
    if pose.scale is None:
        return pose._replace(position=position)
    scale = pose.scale if fixed_scale is None else torch.full_like(pose.scale, fixed_scale)
    return pose._replace(position=position, scale=scale.clamp(MIN_SCALE, MAX_SCALE))


def statistics(pose: Pose, *, angle: bool = False) -> Float[Tensor, "*b K s"]:
    """All values of a pose in the original's order: position, scale, rotation by rows, with `angle` also its angle."""
    parts = [pose.position]
    if pose.scale is not None:
        parts.append(pose.scale)
    if pose.rotation is not None:
        parts.append(pose.rotation.flatten(-2))
        if angle:
            parts.append(torch.atan2(pose.rotation[..., 0, 0], pose.rotation[..., 1, 0])[..., None])
    return torch.cat(parts, -1)


class Placed(NamedTuple):
    """Keys, values and positions of one frame's tokens, or of all frames' with T behind B."""

    keys: Laid
    values: Laid | Float[Tensor, "*b N d"]
    grid: Float[Tensor, "*b N 2"]

    def frames(self) -> "list[Placed]":
        return [Placed(*parts) for parts in zip(*map(_unbound, self))]


def _unbound(part: Laid | Tensor) -> Sequence[Laid | Tensor]:
    """Split a part into frames."""
    if isinstance(part, Tensor):
        return part.unbind(1)
    return [Laid(*each) for each in zip(*(values.unbind(1) for values in part))]


class InvariantSlotAttention(Corrector):
    """Slot attention whose slots have poses (Biza et al. 2023).

    The last two channels of a token are its position; the core projects the others. There is one round more than the
    core has: it fits the poses and does not change the slots.

    Args:
        core: projections, normalizer and update of slot attention with one head, built for tokens without their last
            two channels.
        grid_encoder: adds positions relative to a slot to keys, and to values.
        fit: `fit_translation`, `fit_translation_scale` or `fit_translation_rotation_scale`.
        start: applied to the initializer's poses.
        scale_factor: as in `seen_from`; must equal the decoder's.
        relative_values: add relative positions to values too (the paper); otherwise only to keys.
        temperature: divides attention logits.
        tell: maps slots with the statistics of their poses appended to slots, before each update; None: slots do not
            depend on their poses. Its weights are saved under this name.

    Raises:
        ValueError: a core with several heads, or called with slots without poses.
    """

    def __init__(
        self,
        core: SlotAttention,
        grid_encoder: GridEncoder,
        fit: Fit,
        *,
        start: Callable[[Pose], Pose] = first_frame,
        scale_factor: float = 5.0,
        relative_values: bool = True,
        temperature: float = 1.0,
        tell: nn.Module | None = None,
    ):
        super().__init__()
        if core.num_heads != 1:
            raise ValueError(
                f"Invariant slot attention has one head, got a core with {core.num_heads}. Build it with num_heads=1."
            )
        self.core, self.grid_encoder, self.fit, self.start, self.tell = core, grid_encoder, fit, start, tell
        self.scale_factor, self.relative_values, self.temperature = scale_factor, relative_values, temperature

    def project(self, tokens: Float[Tensor, "*b N C"]) -> Placed:
        projected = self.core.project(tokens[..., :-2])
        keys, values = projected.keys.squeeze(-3), projected.values.squeeze(-3)
        lay = self.grid_encoder.lay
        return Placed(lay(keys), lay(values) if self.relative_values else values, tokens[..., -2:])

    def rounds(self, state: State, inputs: Placed) -> Iterator[Grouping]:
        """Slots, attention and poses after each round."""
        if state.pose is None:
            raise ValueError(
                "Invariant slot attention needs slots with poses: wrap its initializer in WithPoses."
            )
        slots, pose = state.slots, self.start(state.pose)
        for i in range(self.core.num_iterations + 1):
            seen = seen_from(inputs.grid, pose, self.scale_factor)
            attn, weights = self._attend(slots, inputs.keys, seen)
            with torch.autocast(slots.device.type, enabled=False):
                pose = self.fit(at_least_single(weights), at_least_single(inputs.grid))
            if i < self.core.num_iterations:
                if self.tell is not None:
                    slots = self.tell(torch.cat([slots, statistics(pose, angle=True)], -1))
                slots = self.core.update(slots, self._gather(weights, inputs.values, seen))
            yield Grouping(slots, attn, pose)

    def _attend(
        self, slots: Float[Tensor, "B K D"], keys: Laid, seen: Float[Tensor, "B K N 2"]
    ) -> tuple[Float[Tensor, "B K N"], Float[Tensor, "B K N"]]:
        """Softmax over slots, and weights over tokens."""
        queries = self.core.queries(slots).squeeze(1)
        logits = self.grid_encoder.score(self.grid_encoder.hidden(keys, seen), queries)
        attn = (logits / self.temperature).softmax(-2)
        return attn, self.core.normalizer(attn)

    def _gather(
        self,
        weights: Float[Tensor, "B K N"],
        values: Laid | Float[Tensor, "B N d"],
        seen: Float[Tensor, "B K N 2"],
    ) -> Float[Tensor, "B K d"]:
        if isinstance(values, Tensor):
            return weights @ values
        return self.grid_encoder.gather(self.grid_encoder.hidden(values, seen), weights)

    def forward(self, state: State, inputs: Placed) -> Grouping:
        """The last round's result on one frame."""
        return deque(self.rounds(state, inputs), maxlen=1).pop()

"""Edit the slots of a clip before they are decoded: remove, keep, move, resize, turn, swap.

Pure functions from clips to clips; decode the result with `model.decoder.decode(edited)`. Moving, resizing and turning
change a slot's pose and need a model whose slots have poses (Invariant Slot Attention). The state of an edited clip has
the edited slots of the last frame, but no memory of the predictor.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.models.types import Clip, Pose, State

_POSES = "Invariant Slot Attention (recipes isa_*)"


def remove(clip: Clip, slots: Iterable[int]) -> Clip:
    """The clip without `slots`; the others share their pixels.

    Raises:
        UserError: a slot that the clip lacks or that is named twice, or all slots.
    """
    removed = set(_checked(clip, slots))
    return _choose(clip, [slot for slot in range(clip.slots.shape[2]) if slot not in removed])


def keep(clip: Clip, slots: Iterable[int]) -> Clip:
    """The clip with `slots` only, in the order given.

    Raises:
        UserError: a slot that the clip lacks or that is named twice, or none.
    """
    return _choose(clip, _checked(clip, slots))


def move(clip: Clip, slot: int, dy: float, dx: float) -> Clip:
    """Shift a slot.

    Args:
        dy, dx: down and to the right, in halves of the image's height and width.

    Raises:
        UserError: no such slot, or slots without positions.
    """

    def moved(pose: Pose) -> Pose:
        step = pose.position.new_tensor([dy, dx]) * _at_slot(pose.position, slot)
        return pose._replace(position=pose.position + step)

    return _reframe(clip, slot, moved)


def resize(clip: Clip, slot: int, factor: float) -> Clip:
    """Enlarge a slot about its position.

    Args:
        factor: above 1 enlarges, below 1 shrinks.

    Raises:
        UserError: no such slot, slots without scales, or a factor that is not positive.
    """
    if not factor > 0 or math.isinf(factor):
        raise UserError(
            f"A slot is resized by a positive factor, got {factor}. Above 1 enlarges, below 1 shrinks."
        )

    def resized(pose: Pose) -> Pose:
        if pose.scale is None:
            raise UserError(f"This model's slots have no scale. {_POSES}, variants with `scale`, have one.")
        scale = torch.where(_at_slot(pose.scale, slot), pose.scale * factor, pose.scale)
        return pose._replace(scale=scale)

    return _reframe(clip, slot, resized)


def turn(clip: Clip, slot: int, angle: float) -> Clip:
    """Rotate a slot about its position, in coordinates in which the image is a square.

    Args:
        angle: radians, counter-clockwise in the image.

    Raises:
        UserError: no such slot, or slots without rotations.
    """
    cos, sin = math.cos(angle), math.sin(angle)

    def turned(pose: Pose) -> Pose:
        if pose.rotation is None:
            raise UserError(f"This model's slots have no rotation. {_POSES}, variants with `rot`, have one.")
        # Axes are columns of (x, y), y down: counter-clockwise in the image turns x towards minus y.
        rotation = pose.rotation.new_tensor([[cos, sin], [-sin, cos]]) @ pose.rotation
        here = _at_slot(pose.rotation[..., 0], slot)[..., None]
        return pose._replace(rotation=torch.where(here, rotation, pose.rotation))

    return _reframe(clip, slot, turned)


def swap(clip_a: Clip, clip_b: Clip, pairs: Sequence[tuple[int, int]]) -> tuple[Clip, Clip]:
    """Exchange slots between two clips; each keeps its pose.

    Args:
        pairs: (slot of `clip_a`, slot of `clip_b`).

    Raises:
        UserError: clips of different shapes or models, or a slot that is missing or named twice.
    """
    if clip_a.slots.shape != clip_b.slots.shape or _parts(clip_a.pose) != _parts(clip_b.pose):
        raise UserError(
            f"Slots {list(clip_a.slots.shape)} and {list(clip_b.slots.shape)} cannot be exchanged. Encode two inputs "
            "of equal size and length with one model."
        )
    order_a, order_b = _checked(clip_a, (a for a, _ in pairs)), _checked(clip_b, (b for _, b in pairs))
    swapped = _Exchange(order_a, order_b), _Exchange(order_b, order_a)
    return swapped[0](clip_a, clip_b), swapped[1](clip_b, clip_a)


@dataclass(frozen=True)
class _Exchange:
    """Slots `into` of one clip replaced by slots `out_of` of another."""

    into: list[int]
    out_of: list[int]

    def __call__(self, clip: Clip, other: Clip) -> Clip:
        state = State(
            self._put(clip.state.slots, other.state.slots, 1),
            self._pose(clip.state.pose, other.state.pose, 1),
            source=_alone(clip.state.source, self.into),
        )
        return Clip(
            self._put(clip.slots, other.slots, 2),
            self._put(clip.predicted, other.predicted, 2),
            self._put(clip.attn, other.attn, 2),
            self._pose(clip.pose, other.pose, 2),
            state,
        )

    def _put(self, mine: Tensor, theirs: Tensor, dim: int) -> Tensor:
        index = torch.tensor(self.into, device=mine.device)
        given = theirs.index_select(dim, torch.tensor(self.out_of, device=mine.device))
        return mine.index_copy(dim, index, given)

    def _pose(self, mine: Pose | None, theirs: Pose | None, dim: int) -> Pose | None:
        if mine is None or theirs is None:
            return None
        scale, rotation = (
            None if a is None or b is None else self._put(a, b, dim) for a, b in zip(mine[1:], theirs[1:])
        )
        return Pose(self._put(mine.position, theirs.position, dim), scale, rotation)


def _parts(pose: Pose | None) -> tuple[bool, ...]:
    return () if pose is None else tuple(part is not None for part in pose)


def _checked(clip: Clip, slots: Iterable[int]) -> list[int]:
    """The slots as a list, if each exists and is named once."""
    wanted, count = list(slots), clip.slots.shape[2]
    wrong = [slot for slot in wanted if not 0 <= slot < count]
    if wrong:
        raise UserError(f"There is no slot {wrong[0]}: this clip has slots 0 to {count - 1}.")
    if len(set(wanted)) < len(wanted):
        raise UserError(f"Slots {wanted} name one twice. Name each once.")
    return wanted


def _choose(clip: Clip, order: list[int]) -> Clip:
    if not order:
        raise UserError(f"No slot of {clip.slots.shape[2]} would be left to decode. Keep at least one.")
    index = torch.tensor(order, device=clip.slots.device)

    def whole(values: Tensor) -> Tensor:
        return values.index_select(2, index)

    def last(values: Tensor) -> Tensor:
        return values.index_select(1, index)

    state = State(
        last(clip.state.slots),
        None if clip.state.pose is None else clip.state.pose.map(last),
        source=None if clip.state.source is None else _lowest(last(clip.state.source)),
    )
    pose = None if clip.pose is None else clip.pose.map(whole)
    chosen = Clip(whole(clip.slots), whole(clip.predicted), whole(clip.attn), pose, state)
    return chosen._replace(features=clip.features, grid=clip.grid)


def _lowest(labels: Int[Tensor, "B K"]) -> Int[Tensor, "B K"]:
    """For each slot the lowest one with the same label."""
    return (labels[:, :, None] == labels[:, None]).int().argmax(-1)


def _alone(source: Int[Tensor, "B K"] | None, slots: list[int]) -> Int[Tensor, "B K"] | None:
    """`source` after `slots` have been changed, so that each differs from every other slot."""
    if source is None:
        return None
    labels = source.clone()
    labels[:, slots] = torch.arange(len(slots), device=source.device) + source.shape[1]
    return _lowest(labels)


def _reframe(clip: Clip, slot: int, change: Callable[[Pose], Pose]) -> Clip:
    """Change one slot's pose in every frame of the clip."""
    _checked(clip, [slot])
    if clip.pose is None:
        raise UserError(f"This model's slots have no pose to change. {_POSES} has poses.")
    state = clip.state._replace(
        pose=None if clip.state.pose is None else change(clip.state.pose),
        memory=None,
        source=_alone(clip.state.source, [slot]),
    )
    return clip._replace(pose=change(clip.pose), state=state)


def _at_slot(values: Float[Tensor, "*b K 2"], slot: int) -> Bool[Tensor, "K 1"]:
    return (torch.arange(values.shape[-2], device=values.device) == slot)[:, None]

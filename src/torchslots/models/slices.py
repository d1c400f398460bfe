"""Run a long video slice by slice: cut it, pass the state on, predict more slices without observations."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.models.model import START_KEYS, ObjectCentricModel, rollout
from torchslots.models.types import Batch, Pose, Prediction, State


class Carries(Protocol):
    """What a model returns for a slice: a `Clip` or a `Prediction`."""

    @property
    def state(self) -> State: ...


Part = TypeVar("Part")
Found = TypeVar("Found", bound=Carries)


def cut(batch: Batch, slice_size: int, num_frames: int | None = None) -> Iterator[Batch]:
    """The batch's frames in order, `slice_size` at once; the last slice may be shorter.

    Values without a time axis, such as generators, are unchanged in every slice.

    Args:
        num_frames: number of frames; None or more than there are: all.
    """
    total = batch["video"].shape[1]
    end = total if num_frames is None else min(total, num_frames)
    framed = {
        key
        for key, value in batch.items()
        if key not in START_KEYS and isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == total
    }
    for start in range(0, end, slice_size):
        frames = slice(start, min(start + slice_size, end))
        yield {key: value[:, frames] if key in framed else value for key, value in batch.items()}


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Move tensors and poses, also those in tables of the batch, to the device; other values are unchanged."""

    def move(value: Any) -> Any:
        if isinstance(value, Pose):
            return value.map(move)
        if isinstance(value, dict):
            return to_device(value, device)
        return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

    return {key: move(value) for key, value in batch.items()}


def demand_finite(found: Any, names: Sequence[str]) -> None:
    """Stop at values that are not finite, but for `logits`, which are minus infinity where a mask is zero.

    Args:
        found: named tuple of a slice, tensors [B, ...] and tables of them in its fields.
        names: of the B videos; none: they are called by their place.

    Raises:
        UserError: says which values, and of which video.
    """
    for field, value in found._asdict().items():
        if field == "logits":
            continue
        for key, tensor in value.items() if isinstance(value, dict) else [("", value)]:
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.isfinite().all():
                continue
            row = int((~tensor.isfinite()).flatten(1).any(1).nonzero()[0])
            name = names[row] if row < len(names) else f"number {row} of the batch"
            what = f"{field} of `{key}`" if key else field
            raise UserError(
                f"The model's {what} are not finite for {name}: its weights or the video's frames are damaged, or "
                "the precision is too low. Try --precision fp32, or an earlier checkpoint."
            )


def carry_state(
    step: Callable[[Part, State | None], Found],
    parts: Iterable[Part],
    state: State | None = None,
    between: Callable[[State], State] = lambda state: state,
) -> Iterator[tuple[Part, Found]]:
    """Each part and the result of `step(part, state)`, with the state of the part before.

    Args:
        state: for the first part; None: at the start of a video.
        between: applied to each state before it is passed on.
    """
    for part in parts:
        found = step(part, state)
        yield part, found
        state = between(found.state)


def predict_ahead(
    model: ObjectCentricModel,
    state: State,
    num_frames: int,
    slice_size: int,
    slot_recon: bool = False,
    recon: bool = True,
    grid: tuple[int, int] | None = None,
) -> Iterator[Prediction]:
    """Predict `num_frames` frames without observations, `slice_size` at once.

    Args:
        state: of the last observed slice.
        slot_recon: also return each slot's own reconstruction.
        recon, grid: as of `rollout`.
    """
    counts = [min(slice_size, num_frames - start) for start in range(0, num_frames, slice_size)]

    def step(count: int, state: State | None) -> Prediction:
        return rollout(model, {}, 0, count, state, slot_recon, recon, grid)

    return (found for _, found in carry_state(step, counts, state))

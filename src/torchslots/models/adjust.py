"""Change the number of slots, of slot attention rounds, of remembered frames or of images at once of a built model."""

import copy
import dataclasses
from typing import Any

from torch import nn

from torchslots.io.errors import UserError
from torchslots.models.decoders.broadcast import BroadcastDecoder
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.attention import SlotAttention
from torchslots.models.slots.initializers import FromBoxes, FromMasks, Gaussian
from torchslots.models.slots.temporal import MemoryPredictor


def with_counts(
    model: ObjectCentricModel, *, num_slots: int | None = None, num_iterations: int | None = None
) -> ObjectCentricModel:
    """A model with the same weights and another number of slots or of slot attention rounds.

    Rounds share their weights, so every model can have more or fewer. The number of slots can change only where they
    are sampled from one normal distribution. `model` does not change; the two share their weights.

    Args:
        num_slots, num_iterations: None: as in the model.

    Raises:
        UserError: a number below 1, or a model whose number of slots is fixed.
    """
    wanted = {"num_slots": num_slots, "num_iterations": num_iterations}
    changes = {name: value for name, value in wanted.items() if value is not None}
    for name, value in changes.items():
        if value < 1:
            raise UserError(f"{name} should be at least 1, got {value}.")
    if not changes:
        return model
    other = sharing_weights(model)
    if num_slots is not None:
        _sampling(other.slot_encoder.initializer).num_slots = num_slots
    if num_iterations is not None:
        for part in other.slot_encoder.corrector.modules():
            if isinstance(part, SlotAttention):
                part.num_iterations = part.first_iterations = num_iterations
    other.config = _replaced(model.config, changes)
    return other


def sharing_weights(model: ObjectCentricModel) -> ObjectCentricModel:
    """A copy whose parameters and buffers are those of `model`."""
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def decoding_in_parts(model: ObjectCentricModel, num_images: int) -> ObjectCentricModel:
    """A model with the same weights that decodes at most so many images of slots at once, where it decodes all."""
    if not any(isinstance(part, BroadcastDecoder) and part.chunk is None for part in model.modules()):
        return model
    other = sharing_weights(model)
    for part in other.modules():
        if isinstance(part, BroadcastDecoder):
            part.chunk = part.chunk or num_images
    return other


def _sampling(initializer: nn.Module) -> Gaussian:
    """The initializer, if it samples slots."""
    if isinstance(initializer, Gaussian):
        return initializer
    if isinstance(initializer, FromBoxes | FromMasks):
        raise UserError(
            "The hints of the first frame decide how many slots this model has, one for each object and one more: "
            "leave num_slots out."
        )
    raise UserError(
        "This model has learned a vector for each of its slots, so its weights fix their number: leave num_slots out. "
        "It can change where slots are sampled: slot_attention_*, and savi_* with `gaussian` or `learned_gaussian`."
    )


def _replaced(config: Any, changes: dict[str, int]) -> Any:
    """The configuration with `changes` applied, also in its nested dataclasses."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    found = {name: changes.get(name, _replaced(value, changes)) for name, value in vars(config).items()}
    return dataclasses.replace(config, **found)


def bound_memory(model: nn.Module, max_frames: int | None) -> int:
    """Bound the memory of each `MemoryPredictor` of a model, to run it over a stream; returns their number.

    Args:
        max_frames: frames that are remembered, the current one included; None: all.

    Raises:
        ValueError: `max_frames` below 1.
    """
    found = [module for module in model.modules() if isinstance(module, MemoryPredictor)]
    for predictor in found:
        predictor.bound(max_frames)
    return len(found)

"""A recipe at another size, and random data that fit it."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from torchslots.models.types import Batch
from torchslots.recipes.config import ModelConfig, Recipe

_CHANNELS = {"flow": 3, "depth": 1}


def scale(
    recipe: Recipe,
    batch: int | None,
    frames: int | None,
    slots: int | None,
    resolution: int | None,
    recompute: bool,
) -> Recipe:
    """The recipe at another size."""
    data, model = recipe.data, recipe.model
    if resolution is not None:
        model = change(model, resolution=(resolution, resolution), decoder=resized(model, resolution))
        data = replace(data, resolution=resolution)
    if slots is not None:
        model, data = change(model, num_slots=slots), replace(data, max_instances=slots - 1)
    model = change(model, recompute=recompute)
    data = replace(data, num_frames=frames or data.num_frames)
    train = replace(recipe.train, batch_size=batch or recipe.train.batch_size, accumulation=1)
    return replace(recipe, model=model, data=data, train=train)


def change(numbers: Any, **values: Any) -> Any:
    """Replace fields, those that there are, in these numbers and in models within."""
    kept = {field.name: getattr(numbers, field.name) for field in fields(numbers)}
    known = {name: value for name, value in values.items() if name in kept}
    within = {name: change(value, **values) for name, value in kept.items() if isinstance(value, ModelConfig)}
    return replace(numbers, **known, **within)


def resized(model: ModelConfig, resolution: int) -> Any:
    """The model's decoder with the grid that fits; its strides stay."""
    decoder = decoder_of(model)
    cells = resolution // math.prod(getattr(decoder, "strides", ()))
    return change(decoder, grid=(cells, cells))


def decoder_of(model: Any) -> Any:
    """The numbers of the decoder, which may be those of a model within."""
    inner = [getattr(model, field.name) for field in fields(model)]
    return (
        next((decoder_of(value) for value in inner if isinstance(value, ModelConfig)), None) or model.decoder
    )


def random_batch(recipe: Recipe, batch: int, frames: int, objects: Sequence[int] | None = None) -> Batch:
    """Noise in the shapes that the recipe's data would have.

    Args:
        objects: boxes that are not empty in each clip, all different; None: as many as there are rows.
    """
    size, rows = recipe.data.resolution, recipe.data.max_instances
    corner = 0.6 * torch.rand(batch, frames, rows, 2)
    found: Batch = {
        "video": torch.rand(batch, frames, 3, size, size),
        "boxes": torch.cat([corner, corner + 0.1 + 0.3 * torch.rand_like(corner)], -1),
        "segmentations": torch.randint(0, rows + 1, (batch, frames, size, size), dtype=torch.int32),
        "padding_mask": torch.ones(batch, frames, size, size, dtype=torch.bool),
    }
    for clip, count in enumerate(objects or ()):
        found["boxes"][clip, :, count:] = 0
    images = {key: torch.rand(batch, frames, channels, size, size) for key, channels in _CHANNELS.items()}
    found |= {key: images[key] for key in recipe.data.keys if key in images}
    properties = getattr(decoder_of(recipe.model), "num_properties", None)
    return (
        found if properties is None else found | {"properties": torch.rand(batch, frames, rows, properties)}
    )

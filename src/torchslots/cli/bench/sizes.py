"""Change the size of a recipe, and make random data for it."""

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


def change(config: Any, **values: Any) -> Any:
    """Replace the named fields, where they exist, in a configuration and in model configurations inside it."""
    present = {field.name: getattr(config, field.name) for field in fields(config)}
    known = {name: value for name, value in values.items() if name in present}
    inner = {
        name: change(value, **values) for name, value in present.items() if isinstance(value, ModelConfig)
    }
    return replace(config, **known, **inner)


def resized(model: ModelConfig, resolution: int) -> Any:
    """The decoder's configuration with the grid for a resolution; None: the model has none."""
    decoder = decoder_of(model)
    if decoder is None:
        return None
    cells = resolution // math.prod(getattr(decoder, "strides", ()))
    return change(decoder, grid=(cells, cells))


def decoder_of(model: Any) -> Any:
    """The configuration of the decoder, which may be inside an inner model's; None: there is none."""
    inner = [getattr(model, field.name) for field in fields(model)]
    found = [decoder_of(value) for value in inner if isinstance(value, ModelConfig)]
    return next((decoder for decoder in found if decoder is not None), getattr(model, "decoder", None))


def frame_size(recipe: Recipe) -> tuple[int, int]:
    """Height and width of a model's frames; of a model of any size, the sides that its data are resized to."""
    square = (recipe.data.resolution, recipe.data.resolution)
    return getattr(recipe.model, "resolution", None) or square


def random_batch(recipe: Recipe, batch: int, frames: int, objects: Sequence[int] | None = None) -> Batch:
    """Random data in the shapes of the recipe's.

    Args:
        objects: Number of distinct, not empty boxes in each clip; None: all rows.
    """
    height, width = frame_size(recipe)
    rows = recipe.data.max_instances
    corner = 0.6 * torch.rand(batch, frames, rows, 2)
    found: Batch = {
        "video": torch.rand(batch, frames, 3, height, width),
        "boxes": torch.cat([corner, corner + 0.1 + 0.3 * torch.rand_like(corner)], -1),
        "segmentations": torch.randint(0, rows + 1, (batch, frames, height, width), dtype=torch.int32),
        "padding_mask": torch.ones(batch, frames, height, width, dtype=torch.bool),
    }
    for clip, count in enumerate(objects or ()):
        found["boxes"][clip, :, count:] = 0
    images = {key: torch.rand(batch, frames, channels, height, width) for key, channels in _CHANNELS.items()}
    found |= {key: images[key] for key in recipe.data.keys if key in images}
    properties = getattr(decoder_of(recipe.model), "num_properties", None)
    return (
        found if properties is None else found | {"properties": torch.rand(batch, frames, rows, properties)}
    )

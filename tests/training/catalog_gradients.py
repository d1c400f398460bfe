"""Gradients of every recipe's model at tiny size on a fixed global batch; a program for `test_catalog_processes.py`."""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import save_file
from torch import Tensor

from recipes.shrunk import shrunk
from torchslots.models.types import Batch
from torchslots.recipes import catalog
from torchslots.recipes.config import TrainConfig
from torchslots.training.step import TrainStep
from torchslots.training.warm_start import add_teacher

CLIPS = 4


def cases(word: str = "") -> dict[str, list[str]]:
    """Recipes that differ at tiny size, by the first of those that do not."""
    found: dict[str, list[str]] = {}
    for name in (name for name in catalog.RECIPES if word in name):
        recipe = catalog.recipe(name)
        key = repr((shrunk(recipe.model), recipe.data.num_frames, recipe.train.short_clip))
        found.setdefault(key, []).append(name)
    return {names[0]: names for names in found.values()}


def clips(frames: int, size: tuple[int, int], objects: int, properties: int) -> Batch:
    """Random clips with everything that any recipe needs."""
    numbers = torch.Generator().manual_seed(3)

    def images(channels: int) -> Tensor:
        return torch.rand(CLIPS, frames, channels, *size, generator=numbers)

    corners = torch.rand(CLIPS, frames, objects, 2, 2, generator=numbers).sort(-2).values.flatten(-2)
    return {
        "video": images(3),
        "flow": images(3),
        "depth": images(1),
        "boxes": corners,
        "segmentations": torch.randint(0, 4, (CLIPS, frames, *size), generator=numbers, dtype=torch.int32),
        "properties": torch.rand(CLIPS, frames, objects, properties, generator=numbers).round(),
        "padding_mask": torch.ones(CLIPS, frames, *size, dtype=torch.bool),
    }


def gradients(name: str, accumulation: int = 1) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses, means over the processes, and gradients of a first step; they are those of all processes."""
    recipe = catalog.recipe(name)
    config: Any = shrunk(recipe.model)
    model = catalog.build_seeded(config, 0).train()
    add_teacher(model)
    frames = recipe.train.short_clip or min(recipe.data.num_frames, 3)
    train = TrainConfig(batch_size=CLIPS, accumulation=accumulation, compile=False)
    stepper = TrainStep(model, replace(recipe.optim, warmup_steps=0), train, "cpu", frames)
    accelerator = stepper.accelerator
    inner = next(
        (part for part in vars(config).values() if "resolution" in getattr(part, "__dict__", {})), config
    )
    size = tuple(getattr(config, "resolution", None) or inner.resolution)
    whole = clips(frames, size, 5, 19)
    rank, share = accelerator.process_index, CLIPS // accelerator.num_processes
    part = {key: value[rank * share : (rank + 1) * share] for key, value in whole.items()}
    losses = {key: float(accelerator.reduce(value, "mean")) for key, value in stepper.repeat(0, part).items()}
    found = {
        key: weight.grad.detach().clone(memory_format=torch.contiguous_format)
        for key, weight in model.named_parameters()
        if weight.grad is not None
    }
    return losses, found


def all_gradients(word: str) -> Iterator[tuple[str, dict[str, float], dict[str, Tensor]]]:
    """Of each case."""
    for name in cases(word):
        yield name, *gradients(name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder, said = Path(sys.argv[1]), {}
    for name, losses, found in all_gradients(sys.argv[2]):
        said[name] = losses
        if os.environ["RANK"] == "0":
            save_file(found, folder / f"{name}.safetensors")
    if os.environ["RANK"] == "0":
        (folder / "losses.json").write_text(json.dumps(said))
    torch.distributed.destroy_process_group()

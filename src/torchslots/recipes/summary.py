"""One row of facts for each recipe: what `torchslots recipes` and `torchslots.list_recipes` show and search."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from torchslots.models.tokenizers.base import Tokenizer
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe

_SYSTEMS = {
    "savi": "SAVi",
    "slot_attention": "Slot Attention",
    "isa": "ISA",
    "statm": "STATM-SAVi",
    "savi_pytorch": "SAVi, SlotDiffusion's",
    "vqvae": "VQ-VAE",
    "dvae": "dVAE",
    "steve": "STEVE, two steps",
    "steve_joint": "STEVE",
    "slotdiffusion": "SlotDiffusion",
}
"""Family -> the system as its paper calls it."""
_VARIANTS = {"savi_plus_plus": "SAVi++", "statm_savi_plus_plus": "STATM-SAVi++"}
"""Recipes whose system has a name of its own."""
_PUBLISHED = {
    "savi_small": "FG-ARI 92.1",
    "savi_medium": "FG-ARI 93.4",
    "savi_large": "FG-ARI 95.1",
    "savi_plus_plus": "FG-ARI 85.1",
    "slot_attention_tetrominoes": "FG-ARI 99.5",
}
"""What the authors report in per cent; others state no figure for this setting that could be checked."""


@dataclass(frozen=True)
class Summary:
    """What a reader compares of a recipe."""

    name: str
    system: str
    data: str
    resolution: int
    frames: int
    """Of a training clip; 1: images."""
    slots: int | None
    """Background included; None: a tokenizer, which has no slots."""
    weights: int
    """Parameters, those of a frozen tokenizer among them; fixed grids of positions are none."""
    published: str
    """The authors' figure in per cent; empty: none that could be checked."""
    about: str
    """The recipe's docstring."""


def chosen(word: str | None = None) -> Iterator[tuple[str, Recipe]]:
    """Recipes that have the word in their name, their system or their data set; None: all."""
    word = (word or "").lower()
    for name, make in catalog.RECIPES.items():
        recipe = make()
        if word in f"{name} {_system(name, recipe)} {recipe.data.dataset}".lower():
            yield name, recipe


def summaries(word: str | None = None) -> list[Summary]:
    """A row for each recipe that `chosen` gives."""
    return [_summary(name, recipe) for name, recipe in chosen(word)]


def _summary(name: str, recipe: Recipe) -> Summary:
    with torch.device("meta"):
        model = catalog.build(recipe.model)
    return Summary(
        name,
        _system(name, recipe),
        recipe.data.dataset,
        recipe.data.resolution,
        recipe.data.num_frames,
        None if isinstance(model, Tokenizer) else _num_slots(recipe.model),
        sum(parameter.numel() for parameter in model.parameters()),
        _PUBLISHED.get(name, ""),
        " ".join((catalog.RECIPES[name].__doc__ or "").split()),
    )


def _system(name: str, recipe: Recipe) -> str:
    return _VARIANTS.get(name, _SYSTEMS[recipe.model.family])


def _num_slots(config: Any) -> int | None:
    """Of the model, or of the model within it that has slots."""
    fields: dict[str, Any] = vars(config)
    if "num_slots" in fields:
        return fields["num_slots"]
    inner = (_num_slots(value) for value in fields.values() if dataclasses.is_dataclass(value))
    return next((found for found in inner if found is not None), None)

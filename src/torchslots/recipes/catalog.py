"""THE place to add a model: its family (how numbers become a model) and its named recipes."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torchslots.errors import UserError
from torchslots.model import ObjectCentricModel
from torchslots.recipes import savi
from torchslots.training.recipe import ModelConfig, Recipe, from_dict


@dataclass(frozen=True)
class Family:
    """One system: the type of its numbers, and the function that builds a model from them."""

    config: type[ModelConfig]
    build: Callable[[Any], ObjectCentricModel]


FAMILIES: dict[str, Family] = {"savi": Family(savi.SaviConfig, savi.build)}

RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__: function
    for function in (savi.savi_small, savi.savi_medium, savi.savi_large, savi.savi_plus_plus)
}


def recipe(name: str) -> Recipe:
    """The recipe of that name; UserError with the nearest names otherwise."""
    return _look_up(RECIPES, name, "recipe", "torchslots recipes")()


def build(config: ModelConfig) -> ObjectCentricModel:
    """A model with fresh weights."""
    return FAMILIES[family_of(config)].build(config)


def family_of(config: ModelConfig) -> str:
    """The name under which a model's numbers are saved."""
    for name, family in FAMILIES.items():
        if type(config) is family.config:
            return name
    raise UserError(f"No family builds from {type(config).__name__}. Add it to FAMILIES in recipes/catalog.py.")


def build_family(name: str, values: dict[str, Any], where: str = "config.json") -> tuple[ModelConfig, ObjectCentricModel]:
    """Numbers and model from what `save_pretrained` wrote."""
    family = _look_up(FAMILIES, name, "model family", "a newer torchslots")
    config = from_dict(family.config, values, where)
    return config, family.build(config)


def _look_up(table: dict[str, Any], name: str, what: str, where: str) -> Any:
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=3, cutoff=0.4) or list(table)
    raise UserError(f"There is no {what} `{name}`. Nearest: {', '.join(near)}. See `{where}` for all.")

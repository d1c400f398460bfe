"""THE place to add a model: its family (how numbers become a model) and its named recipes."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from torchslots.io.errors import UserError, nearest
from torchslots.models.model import ObjectCentricModel
from torchslots.models.tokenizers.base import Tokenizer
from torchslots.recipes import isa, savi, slot_attention, statm, steve, steve_joint, tokenizers
from torchslots.recipes import savi_slotdiffusion as savi_pytorch
from torchslots.recipes import slotdiffusion as slotdiffusion_ldm
from torchslots.recipes.config import ModelConfig, Recipe, current_name, from_dict

Built = ObjectCentricModel | Tokenizer
"""What recipes train: slots, or a code of images that is trained before them."""


@dataclass(frozen=True)
class Family:
    """One system: the type of its numbers, and the function that builds a model from them."""

    config: type[ModelConfig]
    build: Callable[[Any], Built]


FAMILIES: dict[str, Family] = {
    "savi": Family(savi.SaviConfig, savi.build),
    "slot_attention": Family(slot_attention.SlotAttentionConfig, slot_attention.build),
    "isa": Family(isa.IsaConfig, isa.build),
    "statm": Family(statm.StatmConfig, statm.build),
    "savi_pytorch": Family(savi_pytorch.SaviPytorchConfig, savi_pytorch.build),
    "vqvae": Family(tokenizers.VqvaeConfig, tokenizers.build_vqvae),
    "dvae": Family(tokenizers.DvaeConfig, tokenizers.build_dvae),
    "steve": Family(steve.SteveConfig, steve.build),
    "steve_joint": Family(steve_joint.SteveJointConfig, steve_joint.build),
    "slotdiffusion": Family(slotdiffusion_ldm.SlotDiffusionConfig, slotdiffusion_ldm.build),
}

RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__: function
    for function in (
        savi.savi_small,
        savi.savi_medium,
        savi.savi_large,
        savi.savi_plus_plus,
        savi.savi_demo,
        slot_attention.slot_attention_clevr6,
        slot_attention.slot_attention_tetrominoes,
        slot_attention.slot_attention_multi_dsprites,
        slot_attention.slot_attention_set_prediction,
        slot_attention.slot_attention_demo,
        slot_attention.set_prediction_demo,
        isa.isa_demo,
        statm.statm_savi_small,
        statm.statm_savi,
        statm.statm_savi_plus_plus,
        statm.statm_demo,
        savi_pytorch.savi_pytorch_movi_d,
        savi_pytorch.savi_pytorch_movi_e,
        savi_pytorch.savi_pytorch_movi_solid,
        savi_pytorch.savi_pytorch_movi_tex,
        savi_pytorch.savi_pytorch_clevrtex,
        tokenizers.vqvae_demo,
        tokenizers.dvae_demo,
        steve.steve_movi_d,
        steve.steve_movi_e,
        steve.steve_movi_solid,
        steve.steve_movi_tex,
        steve.steve_clevrtex,
        steve.steve_demo,
        steve_joint.steve_joint_movi_d,
        steve_joint.steve_joint_movi_e,
        steve_joint.steve_joint_movi_solid,
        steve_joint.steve_joint_movi_tex,
    )
} | {**isa.RECIPES, **tokenizers.RECIPES, **slotdiffusion_ldm.RECIPES}


def recipe(name: str) -> Recipe:
    """The recipe of that name; UserError with the nearest names otherwise."""
    return _look_up(RECIPES, name, "recipe", "`torchslots recipes`")()


def build(config: ModelConfig) -> Built:
    """A model with fresh weights."""
    return _look_up(FAMILIES, config.family, "model family", "`FAMILIES` in recipes/catalog.py").build(config)


def build_seeded(config: ModelConfig, seed: int) -> Built:
    """A model whose fresh weights depend on the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)


def read_recipe(file: Path) -> Recipe:
    """The recipe that a run wrote to `recipe.json`.

    Raises:
        UserError: the file is missing, not JSON, or of another version.
    """
    try:
        values = json.loads(file.read_text())
        family = values.pop("family", None) or _family_of(values["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not a recipe: {error}. Give a folder that `torchslots train` made."
        ) from error
    if family not in FAMILIES:
        raise UserError(f"{file} describes a model that this version does not know. Train again, or update.")
    model = from_dict(FAMILIES[family].config, values.pop("model"), f"{file}: model")
    return from_dict(Recipe, {**values, "model": model}, str(file))


def _family_of(values: dict[str, Any]) -> str | None:
    """The family whose numbers have these names, for runs that do not tell theirs."""
    for name, family in FAMILIES.items():
        known = {field.name for field in dataclasses.fields(family.config)}
        if {current_name(family.config, key) for key in values} == known:
            return name
    return None


def build_family(name: str, values: dict[str, Any], where: str = "config.json") -> tuple[ModelConfig, Built]:
    """Numbers and model from what `save_pretrained` wrote."""
    family = _look_up(FAMILIES, name, "model family", "a newer torchslots")
    config = from_dict(family.config, values, where)
    return config, family.build(config)


def _look_up(table: dict[str, Any], name: str, what: str, where: str) -> Any:
    if name in table:
        return table[name]
    raise UserError(f"There is no {what} `{name}`. {nearest(name, table)} See {where} for all.")

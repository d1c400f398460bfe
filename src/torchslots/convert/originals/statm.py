"""STATM, a program in JAX built on SAVi's: flax files of its trainer.

The arrays are SAVi's but the predictor's, whose module says how attention over slots and over time are combined.
"""

import json
from dataclasses import replace
from typing import Any

from torchslots.convert import layouts
from torchslots.convert.layouts import Shapes, WeightMap, fitting
from torchslots.convert.originals import savi
from torchslots.io.errors import UserError
from torchslots.recipes.statm import (
    FusionName,
    StatmConfig,
    build,
    statm_savi,
    statm_savi_plus_plus,
    statm_savi_small,
)

_MODULES: dict[FusionName, str] = {
    "space_then_time": "TimeSpaceTransformerBlock",
    "sum": "TimeSpaceTransformerBlock2",
    "time_then_space": "TimeSpaceTransformerBlock3",
    "shared_residual": "TimeSpaceTransformerBlock4",
    "all_slots": "TimeSpaceTransformerBlock5",
    "all_slots_as_released": "TimeSpaceTransformerBlock5",
}

_SUM_PRE = ("around_space.before.0", "around_time.before.0", "time.norm", "around_mlp.before.0")
_SUM_POST = ("around_space.after", "around_time.after", "around_mlp.after")
_PRE_NORMS: dict[str, tuple[str, ...]] = {
    "TimeSpaceTransformerBlock": ("around_space.before.0", "around_time.before.0", "around_mlp.before.0"),
    "TimeSpaceTransformerBlock3": (
        "around_time.before.0",
        "time.norm",
        "around_space.before.0",
        "around_mlp.before.0",
    ),
    "TimeSpaceTransformerBlock4": ("around_both.before.0", "around_both.before.1", *_SUM_PRE[2:]),
}
_POST_NORMS: dict[str, tuple[str, ...]] = {
    "TimeSpaceTransformerBlock3": ("around_time.after", "around_space.after", "around_mlp.after"),
    "TimeSpaceTransformerBlock4": ("around_both.after", "around_mlp.after"),
}


def _norms(module: str, pre_norm: bool) -> tuple[str, ...]:
    """The norms of a module, in the order in which the original numbers them."""
    return _PRE_NORMS.get(module, _SUM_PRE) if pre_norm else _POST_NORMS.get(module, _SUM_POST)


def leaves(config: StatmConfig) -> list[WeightMap]:
    """Every array of the original's parameter tree."""
    predictor = fusion_leaves(config, f"{_MODULES[config.fusion]}_0", "slot_encoder.predictor.fusion")
    return [*savi.leaves_but_predictor(config.savi), *predictor]


def fusion_leaves(config: StatmConfig, theirs: str, ours: str) -> list[WeightMap]:
    """The predictor's arrays. Norms and attentions are numbered in the order in which the original calls them."""
    attentions = [f"{ours}.space", f"{ours}.time.attention"]
    if config.fusion == "time_then_space":
        attentions.reverse()
    found = layouts.perceptron(f"{theirs}/MLP_0", f"{ours}.mlp")
    for i, name in enumerate(attentions):
        path = f"{theirs}/MultiHeadDotProductAttention_{i}"
        found += layouts.attention(path, name, config.savi.predictor_heads)
    for i, name in enumerate(_norms(_MODULES[config.fusion], config.pre_norm)):
        found += layouts.norm(f"{theirs}/LayerNorm_{i}", f"{ours}.{name}")
    return found


def fusion_of(module: str, pre_norm: bool) -> FusionName:
    """Our name of the fusion of the original's class.

    Raises:
        UserError: a class that no release has.
    """
    if module == "TimeSpaceTransformerBlock5":
        return "all_slots_as_released" if pre_norm else "all_slots"
    for name, theirs in _MODULES.items():
        if theirs == module:
            return name
    raise UserError(
        f"`{module}` is no predictor of STATM. Known: {', '.join(dict.fromkeys(_MODULES.values()))}."
    )


def from_shapes(shapes: Shapes) -> StatmConfig:
    """The published configuration whose arrays have exactly these names and shapes.

    Raises:
        UserError: none fits, or two that differ in the rounds of slot attention, which weights do not show.
    """
    recipes = (statm_savi_small(), statm_savi(), statm_savi_plus_plus())
    found = fitting("STATM", recipes, like, leaves, build, shapes)
    if len(found) == 1:
        return next(iter(found.values()))
    rounds = " and ".join(f"{name} ({config.savi.num_iterations})" for name, config in found.items())
    raise UserError(
        f"These weights fit {rounds}, which differ in their rounds of slot attention; weights do not show them. The "
        "authors give two rounds to the model trained with batch 32, one to batch 64. Choose with --recipe."
    )


def like(config: Any, shapes: Shapes) -> StatmConfig:
    """`config` with the conditioning, the fusion and the place of the norms that the arrays show.

    Of `space_then_time`, norms in front and behind have the same names: there `pre_norm` stays the recipe's.
    """
    config = replace(config, savi=savi.like(config.savi, shapes))
    tops = {path.split("/")[0].removesuffix("_0") for path in shapes}
    module = next((module for module in _MODULES.values() if module in tops), None)
    if module is None:
        return config
    after, before = len(_norms(module, False)), len(_norms(module, True))
    found = sum(f"{module}_0/LayerNorm_{i}/scale" in shapes for i in range(max(after, before)))
    pre_norm = config.pre_norm if after == before else found == before
    return replace(config, fusion=fusion_of(module, pre_norm), pre_norm=pre_norm)


def configures(model: Any) -> bool:
    """Whether `model` in an original's configuration is STATM's: by its predictor."""
    predictor = json.dumps(model.get("predictor")) if isinstance(model, dict) else ""
    return "TimeSpaceTransformerBlock" in predictor or "statm." in predictor


def from_reference(reference: dict[str, Any], shapes: Shapes) -> StatmConfig:
    """Configuration from the original's configuration (its `model` part) and its arrays' shapes.

    Raises:
        UserError: a predictor that no release has.
    """
    predictor = reference["model"]["predictor"]
    pre_norm = bool(predictor.get("pre_norm", False))
    return StatmConfig(
        savi=savi.from_reference(reference, shapes),
        fusion=fusion_of(predictor["module"].split(".")[-1], pre_norm),
        pre_norm=pre_norm,
    )

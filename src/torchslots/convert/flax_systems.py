"""THE place to add a system whose originals are flax checkpoints: how its arrays are known, named and sized."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torchslots.convert.layouts import Arrays, WeightMap
from torchslots.convert.originals import isa as isa_flax
from torchslots.convert.originals import savi as savi_flax
from torchslots.convert.originals import statm as statm_flax
from torchslots.convert.readers.flax import FlaxCheckpoint
from torchslots.io.errors import UserError
from torchslots.recipes import catalog
from torchslots.recipes.config import ModelConfig
from torchslots.recipes.isa import IsaConfig
from torchslots.recipes.savi import SaviConfig
from torchslots.recipes.statm import StatmConfig


@dataclass(frozen=True)
class FlaxSystem:
    """One system's way from arrays to a model.

    Args:
        title: its name in messages.
        mark: beginning of a top-level name that only its checkpoints have.
        config: the type of its numbers.
        recognize: numbers from arrays alone, with the file's name for messages.
        like: a recipe's numbers with what the arrays show.
        from_reference: numbers from the original's configuration and the arrays.
        leaves: which array goes where.
    """

    title: str
    mark: str
    config: type[ModelConfig]
    recognize: Callable[[Arrays, str], ModelConfig]
    like: Callable[[Any, Arrays], ModelConfig]
    from_reference: Callable[[dict[str, Any], Arrays], ModelConfig]
    leaves: Callable[[Any], list[WeightMap]]

    def recipes(self) -> list[str]:
        """Names of its recipes."""
        return [name for name, make in catalog.RECIPES.items() if isinstance(make().model, self.config)]


SYSTEMS = (
    FlaxSystem(
        "SAVi",
        "TransformerBlock_0",
        SaviConfig,
        savi_flax.recognize,
        savi_flax.like,
        savi_flax.config_from_reference,
        savi_flax.leaves,
    ),
    FlaxSystem(
        "STATM",
        "TimeSpaceTransformerBlock",
        StatmConfig,
        statm_flax.recognize,
        statm_flax.like,
        statm_flax.config_from_reference,
        statm_flax.leaves,
    ),
    FlaxSystem(
        "Invariant Slot Attention",
        "SiameseSpatialBroadcastDecoder_0",
        IsaConfig,
        isa_flax.recognize,
        isa_flax.like,
        isa_flax.config_from_reference,
        isa_flax.leaves,
    ),
)


def system_of(read: FlaxCheckpoint) -> FlaxSystem:
    """The system whose top-level names the checkpoint has.

    Raises:
        UserError: none of ours.
    """
    tops = sorted({path.split("/")[0] for path in read.params})
    for system in SYSTEMS:
        if any(top.startswith(system.mark) for top in tops):
            return system
    raise UserError(
        f"{read.path} holds {', '.join(tops)[:200]}: not a checkpoint of {', '.join(s.title for s in SYSTEMS)}. Give a "
        "checkpoint that the authors' trainer wrote."
    )


def numbers(read: FlaxCheckpoint, recipe: str | None, reference: dict[str, Any] | None) -> ModelConfig:
    """The numbers of the model that a checkpoint is of.

    Args:
        recipe: name of the recipe that has them; None with None for `reference`: recognised by names and shapes.
        reference: the original's own configuration.

    Raises:
        UserError: another system's recipe or configuration, with the right one's name; sizes that fit nothing.
    """
    system = system_of(read)
    if reference is not None:
        return _from_reference(system, read, reference)
    if recipe is None:
        return system.recognize(read.params, str(read.path))
    config = catalog.recipe(recipe).model
    if not isinstance(config, system.config):
        ours = system.recipes()
        raise UserError(
            f"{read.path} is a checkpoint of {system.title}, and recipe {recipe} is of another system. Leave --recipe "
            f"out, or choose one of {', '.join(ours[:5])}{', ...' if len(ours) > 5 else ''}."
        )
    return system.like(config, read.params)


def _from_reference(system: FlaxSystem, read: FlaxCheckpoint, reference: dict[str, Any]) -> ModelConfig:
    try:
        return system.from_reference(reference, read.params)
    except (KeyError, IndexError, TypeError, AttributeError, StopIteration, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise UserError(
            f"{read.path} is a checkpoint of {system.title} that the configuration given does not fit: {what}. Give "
            "the one that it was trained with, or leave --config out."
        ) from error

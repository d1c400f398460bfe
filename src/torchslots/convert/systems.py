"""THE place to add a system whose originals are checkpoints of torch: how its arrays are known, named and sized."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torchslots.convert.layouts import Arrays, WeightMap, to_ours
from torchslots.convert.originals import dvae as dvae_torch
from torchslots.convert.originals import savi_slotdiffusion as savi_pytorch_torch
from torchslots.convert.originals import slotdiffusion as slotdiffusion_torch
from torchslots.convert.originals import steve as steve_torch
from torchslots.convert.originals import steve_joint as steve_joint_torch
from torchslots.convert.originals import vqvae as vqvae_torch
from torchslots.convert.readers.torch import TorchCheckpoint
from torchslots.io.errors import UserError
from torchslots.recipes import catalog
from torchslots.recipes.config import ModelConfig
from torchslots.recipes.savi_slotdiffusion import SaviPytorchConfig
from torchslots.recipes.slotdiffusion import SlotDiffusionConfig
from torchslots.recipes.steve import SteveConfig
from torchslots.recipes.steve_joint import SteveJointConfig
from torchslots.recipes.tokenizers import DvaeConfig, VqvaeConfig

_BUFFER = re.compile(r".*\.(grid|running_mean|running_var|num_batches_tracked)|dm_decoder\.[^.]+")
"""Names in a state dict that are no parameters: position grids, statistics, the tables of the noise's schedule."""


@dataclass(frozen=True)
class TorchSystem:
    """One system's way from a state dict to a model.

    Args:
        title: its name in messages.
        mark: a name, or the beginning of one, that none of the systems after it has.
        config: the type of its numbers.
        from_shapes: numbers from names and shapes alone.
        from_reference: numbers from the original's configuration.
        leaves: which array goes where.
        kept: the arrays that have a place here, given the numbers and the file's name.
        decoder: begins the names of the parameters that the original's optimiser keeps in its second group; None: there
            is one group.
        frozen: begins names of parameters that its trainer does not train and keeps in no group.
    """

    title: str
    mark: str
    config: type[ModelConfig]
    from_shapes: Callable[[Mapping[str, tuple[int, ...]]], ModelConfig]
    from_reference: Callable[[Mapping[str, Any]], ModelConfig]
    leaves: Callable[[Any], list[WeightMap]]
    kept: Callable[[Arrays, Any, str], Arrays]
    decoder: str | None = None
    frozen: str | None = None

    def recipes(self) -> list[str]:
        """Names of its recipes."""
        return [name for name, make in catalog.RECIPES.items() if isinstance(make().model, self.config)]

    def trained(self, names: list[str]) -> list[list[str]]:
        """Of a state dict's names those of the original optimiser's parameters, by group and in its order.

        What belongs to the decoder is in the second group whether it is trained or not, boolean masks included.
        """
        found = [name for name in names if not _BUFFER.fullmatch(name)]
        second = [name for name in found if self.decoder is not None and name.startswith(self.decoder)]
        frozen = [name for name in found if self.frozen is not None and name.startswith(self.frozen)]
        first = [name for name in found if name not in {*second, *frozen}]
        return [first] if self.decoder is None else [first, second]


def _all(params: Arrays, config: ModelConfig, where: str) -> Arrays:
    return params


SYSTEMS = (
    TorchSystem(
        "SlotDiffusion",
        "dm_decoder.",
        SlotDiffusionConfig,
        slotdiffusion_torch.from_shapes,
        slotdiffusion_torch.from_reference,
        slotdiffusion_torch.leaves,
        lambda params, config, where: slotdiffusion_torch.without_schedule(params, config.diffusion, where),
        decoder="dm_decoder.",
    ),
    TorchSystem(
        "STEVE",
        "trans_decoder.",
        SteveConfig,
        steve_torch.from_shapes,
        steve_torch.from_reference,
        steve_torch.leaves,
        steve_torch.without_masks,
        decoder="trans_decoder.",
        frozen="dvae.",
    ),
    TorchSystem(
        "SAVi of SlotDiffusion's code",
        "slot_attention.",
        SaviPytorchConfig,
        savi_pytorch_torch.from_shapes,
        savi_pytorch_torch.from_reference,
        savi_pytorch_torch.leaves,
        _all,
    ),
    TorchSystem(
        "VQ-VAE",
        "quantize.embedding.",
        VqvaeConfig,
        vqvae_torch.from_shapes,
        vqvae_torch.from_reference,
        vqvae_torch.leaves,
        lambda params, config, where: vqvae_torch.without_loss(params),
        frozen="loss.",
    ),
    TorchSystem(
        "STEVE's discrete VAE",
        "encoder.0.m.",
        DvaeConfig,
        dvae_torch.from_shapes,
        dvae_torch.from_reference,
        dvae_torch.leaves,
        _all,
    ),
    TorchSystem(
        "STEVE of its authors",
        "steve_encoder.",
        SteveJointConfig,
        steve_joint_torch.from_shapes,
        steve_joint_torch.from_reference,
        steve_joint_torch.leaves,
        steve_joint_torch.joined,
    ),
)


def system_of(read: TorchCheckpoint) -> TorchSystem:
    """The system whose names the state dict has.

    Raises:
        UserError: none of ours.
    """
    for system in SYSTEMS:
        if any(name.startswith(system.mark) for name in read.params):
            return system
    raise UserError(
        f"{read.path} holds {', '.join(read.params)[:150]}...: not a checkpoint of "
        f"{', '.join(system.title for system in SYSTEMS)}. Give one that SlotDiffusion's trainer wrote."
    )


def numbers(read: TorchCheckpoint, recipe: str | None, reference: Mapping[str, Any] | None) -> ModelConfig:
    """The numbers of the model that a checkpoint is of.

    Args:
        recipe: name of the recipe that has them; None with None for `reference`: recognised by names and shapes.
        reference: the original's own configuration.

    Raises:
        UserError: another system's recipe or configuration, with the right ones' names; sizes that fit nothing.
    """
    system = system_of(read)
    if reference is not None:
        return system.from_reference(reference)
    if recipe is None:
        return system.from_shapes(read.shapes)
    config = catalog.recipe(recipe).model
    if not isinstance(config, system.config):
        ours = system.recipes()
        raise UserError(
            f"{read.path} is a checkpoint of {system.title}, and recipe {recipe} is of another system. Leave --recipe "
            f"out, or choose one of {', '.join(ours[:5])}{', ...' if len(ours) > 5 else ''}."
        )
    return config


def weights(read: TorchCheckpoint, config: ModelConfig) -> dict[str, Any]:
    """Our state dict; every array of theirs that has a place here must be used, and none may lack.

    Raises:
        UserError: missing or left-over arrays.
    """
    system, where = system_of(read), str(read.path)
    return to_ours(system.leaves(config), system.kept(read.params, config, where), where)


def moments(read: TorchCheckpoint, config: ModelConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Adam's first and second moments by our names; empty where the file has none.

    Raises:
        UserError: an optimiser of another model.
    """
    system = system_of(read)
    both = read.moments(system.trained(list(read.params)))
    leaves = [leaf for leaf in system.leaves(config) if leaf.path in both[0]]
    first, second = (to_ours(leaves, part, str(read.path)) if part else {} for part in both)
    return first, second

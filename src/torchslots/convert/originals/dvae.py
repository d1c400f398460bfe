"""STEVE's discrete VAE in SlotDiffusion's PyTorch program: `.pth` files of its trainer; also a part of its STEVE."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from torchslots.convert.layouts import OTHER_FILE, RECONFIGURE, Shapes, WeightMap, bare, explained
from torchslots.recipes.tokenizers import DvaeConfig, build_dvae

_PARTS = {"0.weight": "m.weight", "0.bias": "m.bias", "1.weight": "weight", "1.bias": "bias"}
"""Parts of a block, ours to theirs: the norm's weights are the block's own there."""


def leaves(config: DvaeConfig, path: str = "", name: str = "") -> list[WeightMap]:
    """Every tensor of the original's state dict.

    Args:
        path, name: prefixes of their and our names where the VAE is a part of a model, each with its last dot.
    """
    with torch.device("meta"):
        ours = list(build_dvae(config).state_dict())
    return [bare(f"{path}{_their_name(own)}", f"{name}{own}") for own in ours]


def _their_name(ours: str) -> str:
    side, index, rest = ours.split(".", 2)
    return f"{side}.{index}.{_PARTS.get(rest, rest)}"


@explained("This is no configuration of a discrete VAE", RECONFIGURE)
def from_reference(reference: Mapping[str, Any]) -> DvaeConfig:
    """Configuration from the original's own configuration: `resolution`, `vocab_size`, and `tau` where it is fixed.

    Raises:
        UserError: a field is missing or ill-typed.
    """
    height, width = reference["resolution"]
    config = DvaeConfig(resolution=(height, width), vocabulary=reference["vocab_size"])
    return replace(config, temperature_end=reference.get("tau", config.temperature_end))


@explained("These are not the weights of a discrete VAE of STEVE", OTHER_FILE)
def from_shapes(shapes: Shapes) -> DvaeConfig:
    """Configuration from the names and shapes of a state dict, for frames of 128x128, which no weight depends on.

    Raises:
        UserError: the names are not those of a discrete VAE.
    """
    vocabulary, channels = shapes["encoder.7.weight"][:2]
    return DvaeConfig(vocabulary=vocabulary, channels=channels, norm="encoder.0.weight" in shapes)

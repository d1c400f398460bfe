"""STEVE's discrete VAE: the original's names and numbers, and ours; also inside its STEVE."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from torchslots.convert.layouts import WeightMap, bare
from torchslots.io.errors import UserError
from torchslots.recipes.tokenizers import DvaeConfig, build_dvae

_PARTS = {"0.weight": "m.weight", "0.bias": "m.bias", "1.weight": "weight", "1.bias": "bias"}
"""Our block's convolution and norm, and what the original calls them: the norm's weights are the block's own."""


def leaves(config: DvaeConfig, path: str = "", name: str = "") -> list[WeightMap]:
    """Every tensor of the original's state dict.

    Args:
        path, name: what stands before their and our names where the discrete VAE is a part, each with its last dot.
    """
    with torch.device("meta"):
        ours = list(build_dvae(config).state_dict())
    return [bare(f"{path}{_their_name(own)}", f"{name}{own}") for own in ours]


def _their_name(ours: str) -> str:
    side, index, rest = ours.split(".", 2)
    return f"{side}.{index}.{_PARTS.get(rest, rest)}"


def from_reference(reference: Mapping[str, Any]) -> DvaeConfig:
    """Numbers from the original's own configuration: `resolution`, `vocab_size`, and `tau` where it is fixed.

    Raises:
        UserError: a field is missing or ill-typed.
    """
    try:
        height, width = reference["resolution"]
        config = DvaeConfig(resolution=(height, width), vocabulary=reference["vocab_size"])
        return replace(config, temperature_end=reference.get("tau", config.temperature_end))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"This is no configuration of a discrete VAE: {error!r} of `resolution` and `vocab_size` is missing or "
            "ill-typed. Give the original's params as JSON."
        ) from error


def from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> DvaeConfig:
    """Numbers from the names and shapes of a state dict, for frames of 128x128, which no weight depends on.

    Raises:
        UserError: the names are not those of a discrete VAE.
    """
    try:
        vocabulary, channels = shapes["encoder.7.weight"][:2]
        return DvaeConfig(vocabulary=vocabulary, channels=channels, norm="encoder.0.weight" in shapes)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"These are not the weights of a discrete VAE of STEVE: {error!r} is missing or has another shape."
        ) from error

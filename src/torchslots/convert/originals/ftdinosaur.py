"""FT-DINOSAUR: the `.pth` files that its authors publish, a state dict each."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torchslots.convert.layouts import OTHER_FILE, Shapes, WeightMap, explained
from torchslots.convert.originals import dinosaur, vit
from torchslots.convert.originals.dinosaur import Names
from torchslots.recipes.ftdinosaur import FtDinosaurConfig, TopKConfig

NAMES = Names(
    "encoder.",
    "slot_init.",
    "slot_attention.feature_transform.",
    "slot_attention.slot_attention.",
    "decoder.",
)
MARK = NAMES.initializer
"""Begins a name in every checkpoint."""


def leaves(config: FtDinosaurConfig) -> list[WeightMap]:
    """Every tensor of the original's state dict."""
    num_hidden = len(config.decoder.hidden)
    return [*dinosaur.slot_encoder(config, NAMES), *dinosaur.perceptron(num_hidden, NAMES.decoder)]


@explained("These are not the weights of an FT-DINOSAUR", OTHER_FILE)
def from_shapes(shapes: Shapes) -> FtDinosaurConfig:
    """Configuration from the names and shapes of a state dict; what no weight depends on is as published: 7 slots, 3
    rounds, 3 slots decoded at each patch.

    Raises:
        UserError: the names are not those of this program, or the grid is no square.
    """
    return _sized(shapes, vit.from_shapes(shapes, NAMES.backbone).num_heads)


def _sized(shapes: Shapes, num_heads: int) -> FtDinosaurConfig:
    found = dinosaur.sizes(shapes, NAMES, shapes[f"{NAMES.decoder}pos_embed"][1], num_heads)
    backbone = replace(found.pop("backbone"), trainable_from=0)
    hidden = dinosaur.hidden_sizes(shapes, NAMES.decoder)
    return FtDinosaurConfig(**{**found, "num_slots": 7}, backbone=backbone, decoder=TopKConfig(hidden))


def like(config: FtDinosaurConfig, shapes: Shapes) -> FtDinosaurConfig:
    """A recipe's configuration with what names and shapes show."""
    found = from_shapes(shapes)
    return replace(
        found,
        num_slots=config.num_slots,
        num_iterations=config.num_iterations,
        decoder=replace(found.decoder, top_k=config.decoder.top_k),
    )


@explained(
    "This is no description of an FT-DINOSAUR",
    "Give what the weights do not tell as JSON: vit.num_heads, model.n_slots, model.iters, model.decoder.top_k.",
)
def from_reference(reference: Mapping[str, Any], shapes: Shapes) -> FtDinosaurConfig:
    """Configuration from names and shapes, and from what they do not tell: `vit.num_heads`, `model.n_slots`,
    `model.iters`, `model.decoder.top_k` (0: all); of these, too, what is left out is as published.

    Raises:
        UserError: a setting of another type, or one that is not built here.
    """
    model = reference["model"]
    found = _sized(shapes, dinosaur.heads_of(reference, shapes, NAMES))
    top_k = model.get("decoder", {}).get("top_k")
    decoder = found.decoder if top_k is None else replace(found.decoder, top_k=max(int(top_k), 0))
    return replace(found, **dinosaur.counts(model), decoder=decoder)

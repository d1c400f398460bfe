"""DINOSAUR of its authors: the `.ckpt` files of their object-centric learning framework.

The state dict of an autoregressive decoder also holds its causal mask.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from torchslots.convert.layouts import (
    OTHER_FILE,
    Arrays,
    Shapes,
    WeightMap,
    bare,
    count,
    explained,
    gaussian,
    refuse_unusual,
    within,
)
from torchslots.convert.originals import vit
from torchslots.convert.originals.slotdiffusion_encoder import pair
from torchslots.io.errors import UserError
from torchslots.recipes.dinosaur import AutoregressiveConfig, DinosaurConfig, ImageSlotsConfig
from torchslots.recipes.feature_slots import PerceptronConfig


class Names(NamedTuple):
    """What the names of a program's parts begin with."""

    backbone: str
    initializer: str
    transform: str
    corrector: str
    decoder: str


NAMES = Names(
    "models.feature_extractor.model.",
    "models.conditioning.",
    "models.perceptual_grouping.positional_embedding.layers.1.",
    "models.perceptual_grouping.slot_attention.",
    "models.object_decoder.",
)
MARK = "models.perceptual_grouping."
"""Begins a name in every checkpoint."""
MASK = f"{NAMES.decoder}mask"
_RENDERER = "decoder.renderer"
_GIVE = "Give what the weights do not tell as JSON: vit.num_heads, model.n_slots, model.iters, model.decoder."


# ---------------------------------------------------------------------------------------------------- weights


def leaves(config: DinosaurConfig) -> list[WeightMap]:
    """Every tensor that is a weight."""
    found = slot_encoder(config, NAMES)
    if isinstance(config.decoder, PerceptronConfig):
        return [*found, *perceptron(len(config.decoder.hidden), NAMES.decoder)]
    return [*found, *_autoregressive(config.decoder.num_layers)]


def slot_encoder(config: ImageSlotsConfig, names: Names) -> list[WeightMap]:
    """Backbone, tokens, initial slots and slot attention."""
    ours, attention = "slot_encoder", names.corrector
    return [
        *vit.leaves(config.backbone, names.backbone, f"{ours}.encoder.backbone."),
        *gaussian(
            f"{names.initializer}slots_mu", f"{names.initializer}slots_logsigma", f"{ours}.initializer"
        ),
        *_layers(names.transform, f"{ours}.encoder.transform"),
        *pair(f"{attention}norm_input", f"{ours}.corrector.norm_inputs"),
        *pair(f"{attention}norm_slots", f"{ours}.corrector.norm_slots"),
        *(
            bare(f"{attention}to_{part[0]}.weight", f"{ours}.corrector.{part}.weight")
            for part in ("query", "key", "value")
        ),
        *(
            bare(f"{attention}gru.{part}", f"{ours}.corrector.gru.{part}")
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ),
        *_layers(f"{attention}ff_mlp.module.", f"{ours}.corrector.mlp"),
    ]


def _layers(theirs: str, ours: str) -> Iterator[WeightMap]:
    """A norm, and a perceptron of one hidden layer."""
    for index in (0, 1, 3):
        yield from pair(f"{theirs}{index}", f"{ours}.{index}")


def perceptron(num_hidden: int, prefix: str) -> Iterator[WeightMap]:
    """The decoder that is a perceptron."""
    yield WeightMap(f"{prefix}pos_embed", f"{_RENDERER}.positions.table", lambda a: a[0], lambda a: a[None])
    inner = (f"middle.{2 * index - 1}" for index in range(1, num_hidden))
    for index, name in enumerate(("first", *inner, "last")):
        yield from pair(f"{prefix}decoder.{2 * index}", f"{_RENDERER}.{name}")


def _autoregressive(num_layers: int) -> Iterator[WeightMap]:
    """The decoder that is torch's transformer."""
    prefix = NAMES.decoder
    yield WeightMap(f"{prefix}bos_token", f"{_RENDERER}.first", lambda a: a[0, 0], lambda a: a[None, None])
    for theirs, ours in (("cond_transform", "read_slots"), ("inp_transform", "read_features")):
        yield bare(f"{prefix}{theirs}.0.weight", f"{_RENDERER}.{ours}.0.weight")
        yield from pair(f"{prefix}{theirs}.1", f"{_RENDERER}.{ours}.1")
    for index in range(num_layers):
        ours = "last" if index == num_layers - 1 else f"blocks.{index}"
        yield from _block(f"{prefix}decoder.layers.{index}", f"{_RENDERER}.{ours}")


def _block(theirs: str, ours: str) -> Iterator[WeightMap]:
    for name, part in (("self_attn", "self_attention"), ("multihead_attn", "cross_attention")):
        for index, letter in enumerate(("query", "key", "value")):
            third = partial(_third, index=index)
            for what in ("weight", "bias"):
                yield WeightMap(f"{theirs}.{name}.in_proj_{what}", f"{ours}.{part}.{letter}.{what}", third)
        yield from pair(f"{theirs}.{name}.out_proj", f"{ours}.{part}.out")
    yield from pair(f"{theirs}.linear1", f"{ours}.mlp.0")
    yield from pair(f"{theirs}.linear2", f"{ours}.mlp.2")
    for number, name in enumerate(("norm_self", "norm_cross", "norm_mlp"), 1):
        yield from pair(f"{theirs}.norm{number}", f"{ours}.{name}")


def _third(array: np.ndarray, index: int) -> np.ndarray:
    return np.split(array, 3)[index]


def without_mask(params: Arrays, config: DinosaurConfig, where: str) -> Arrays:
    """The arrays without the causal mask.

    Raises:
        UserError: a mask that is another's.
    """
    mask = params.get(MASK)
    if mask is not None and not np.array_equal(mask, causal_mask(len(mask))):
        raise UserError(f"{where}: `{MASK}` is not the mask of a causal decoder. {OTHER_FILE}")
    return {name: array for name, array in params.items() if name != MASK}


def causal_mask(length: int) -> np.ndarray:
    """Zero up to the diagonal, minus infinity behind it."""
    return np.triu(np.full((length, length), -np.inf, np.float32), 1)


# ---------------------------------------------------------------------------------------------- configuration


@explained("These are not the weights of a DINOSAUR as its authors train it", OTHER_FILE)
def from_shapes(shapes: Shapes) -> DinosaurConfig:
    """Configuration from the names and shapes of a state dict.

    What no weight depends on is as published: 7 slots of 256 for photos, else 11; 3 rounds; 8 heads in the decoder for
    photos, else 4.

    Raises:
        UserError: the names are not those of this program, or the grid is no square.
    """
    return _sized(shapes, vit.from_shapes(shapes, NAMES.backbone).num_heads)


def _sized(shapes: Shapes, num_heads: int) -> DinosaurConfig:
    decoder = _decoder(shapes)
    patches = shapes[MASK][0] if isinstance(decoder, AutoregressiveConfig) else _patches(shapes, NAMES)
    return DinosaurConfig(**sizes(shapes, NAMES, patches, num_heads), decoder=decoder)


def _patches(shapes: Shapes, names: Names) -> int:
    return shapes[f"{names.decoder}pos_embed"][1]


def sizes(shapes: Shapes, names: Names, num_patches: int, num_heads: int) -> dict[str, Any]:
    """What the systems for images have in common.

    Raises:
        UserError: patches that are no square grid.
    """
    backbone = vit.published(vit.from_shapes(shapes, names.backbone, num_heads))
    side, slot_size = math.isqrt(num_patches), shapes[f"{names.initializer}slots_mu"][-1]
    if side**2 != num_patches:
        raise UserError(f"The decoder is of {num_patches} patches, which are no square grid. {OTHER_FILE}")
    return {
        "resolution": (side * backbone.patch_size,) * 2,
        "backbone": backbone,
        "token_hidden": shapes[f"{names.transform}1.weight"][0],
        "num_slots": 11 if slot_size == _GENERATED else 7,
        "slot_size": slot_size,
        "corrector_mlp": shapes[f"{names.corrector}ff_mlp.module.1.weight"][0],
    }


_GENERATED = 128
"""Width of the slots in models of generated images; 256 in those of photos."""


def hidden_sizes(shapes: Shapes, prefix: str) -> tuple[int, ...]:
    """Widths of the hidden layers of a decoder that is a perceptron."""
    layers = within(shapes, f"{prefix}decoder.")
    return tuple(layers[f"{2 * i}.weight"][0] for i in range(count(layers, r"\d+\.weight") - 1))


def _decoder(shapes: Shapes) -> PerceptronConfig | AutoregressiveConfig:
    prefix = NAMES.decoder
    if f"{prefix}bos_token" not in shapes:
        return PerceptronConfig(hidden_sizes(shapes, prefix))
    size, slot_size = shapes[f"{prefix}cond_transform.0.weight"]
    hidden = shapes[f"{prefix}decoder.layers.0.linear1.weight"][0]
    generated = slot_size == _GENERATED
    return AutoregressiveConfig(
        num_layers=count(within(shapes, prefix), r"decoder\.layers\.\d+\.norm1\.weight"),
        num_heads=4 if generated else 8,
        mlp_size=None if hidden == 4 * size else hidden,
        masks="slot_attention" if generated else "cross_attention",
    )


def like(config: DinosaurConfig, shapes: Shapes) -> DinosaurConfig:
    """A recipe's configuration with what names and shapes show."""
    found = from_shapes(shapes)
    decoder, wanted = found.decoder, config.decoder
    if isinstance(decoder, AutoregressiveConfig) and isinstance(wanted, AutoregressiveConfig):
        decoder = replace(decoder, num_heads=wanted.num_heads, masks=wanted.masks)
    return replace(found, num_slots=config.num_slots, num_iterations=config.num_iterations, decoder=decoder)


@explained("This is no description of a DINOSAUR", _GIVE)
def from_reference(reference: Mapping[str, Any], shapes: Shapes) -> DinosaurConfig:
    """Configuration from names and shapes, and from what they do not tell: `vit.num_heads`, `model.n_slots`,
    `model.iters`, and of an autoregressive decoder `model.decoder.n_heads` and `model.decoder.use_decoder_masks`; of
    these, too, what is left out is as published.

    Raises:
        UserError: a setting of another type, or one that is not built here.
    """
    model = reference["model"]
    found = _sized(shapes, heads_of(reference, shapes, NAMES))
    return replace(found, **counts(model), decoder=_with_settings(found.decoder, model.get("decoder", {})))


def heads_of(reference: Mapping[str, Any], shapes: Shapes, names: Names) -> int:
    """Heads of the transformer."""
    given = reference.get("vit", {}).get("num_heads")
    return vit.from_shapes(shapes, names.backbone).num_heads if given is None else int(given)


def counts(model: Mapping[str, Any]) -> dict[str, int]:
    """Slots and rounds, where they are given."""
    refuse_unusual("Slot attention", model, {"eps": 1e-8})
    given = {"num_slots": model.get("n_slots"), "num_iterations": model.get("iters")}
    return {name: int(value) for name, value in given.items() if value is not None}


def _with_settings(
    decoder: PerceptronConfig | AutoregressiveConfig, given: Mapping[str, Any]
) -> PerceptronConfig | AutoregressiveConfig:
    if isinstance(decoder, PerceptronConfig):
        return decoder
    usual = {
        "use_input_transform": True,
        "bos": True,
        "positional_embedding": False,
        "output_transform": False,
    }
    refuse_unusual("The decoder", given, usual)
    own = given.get("use_decoder_masks", decoder.masks == "cross_attention")
    return replace(
        decoder,
        num_heads=int(given.get("n_heads", decoder.num_heads)),
        masks="cross_attention" if own else "slot_attention",
    )

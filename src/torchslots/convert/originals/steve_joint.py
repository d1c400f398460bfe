"""STEVE of its authors' PyTorch program: the `.pt` and `.pt.tar` files of its trainer.

Its state dict also holds the causal mask of each block, the coordinates of the encoder's cells and an unused position
behind the last code. The start token's embedding is apart from those of the codes; here they are one table.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from torchslots.convert import layouts
from torchslots.convert.layouts import Arrays, Shapes, WeightMap, bare, count, gaussian, within
from torchslots.convert.originals import dvae
from torchslots.convert.originals.slotdiffusion_encoder import pair
from torchslots.convert.originals.steve import block, causal_masks
from torchslots.io.errors import UserError
from torchslots.models.layers.position import cell_grid
from torchslots.recipes.steve import CodeTransformerConfig
from torchslots.recipes.steve_joint import SteveJointConfig
from torchslots.recipes.tokenizers import DvaeConfig

ENCODER, DECODER, TOKENIZER = "steve_encoder.", "steve_decoder.", "dvae."
"""Prefixes of the parts in the original's names."""
_SAVI, _CNN = f"{ENCODER}savi", f"{ENCODER}cnn"
_CODES, _FIRST, _TABLE = f"{DECODER}dict.dictionary.weight", f"{DECODER}bos", f"{DECODER}dict_and_bos"
_COORDINATES, _POSITIONS = f"{ENCODER}pos.pe", f"{DECODER}pos.pe"
_GRID = [1, 0, 3, 2]
"""Indices of their coordinates of a cell, (x, y, 1 - x, 1 - y), in ours."""


def leaves(config: SteveJointConfig) -> list[WeightMap]:
    """Every array that `joined` returns."""
    return [
        *_frames(len(config.channels), "slot_encoder.encoder"),
        *_slots(config, "slot_encoder"),
        *_transformer(config, "decoder.writer"),
        *dvae.leaves(config.tokenizer, TOKENIZER, "decoder.tokenizer."),
    ]


def _frames(num_layers: int, name: str) -> Iterator[WeightMap]:
    for i in range(num_layers):
        yield from pair(f"{_CNN}.{i}.m", f"{name}.backbone.{i}.0")
    yield from pair(f"{_CNN}.{num_layers}", f"{name}.backbone.{num_layers}")
    projection = f"{ENCODER}pos.projection"
    yield WeightMap(
        f"{projection}.weight",
        f"{name}.position.project.weight",
        lambda a: a[:, _GRID, 0, 0],
        lambda a: a[:, _GRID, None, None],
    )
    yield bare(f"{projection}.bias", f"{name}.position.project.bias")
    yield from pair(f"{ENCODER}layer_norm", f"{name}.transform.0")
    for theirs, ours in ((0, 1), (2, 3)):
        yield from pair(f"{ENCODER}mlp.{theirs}", f"{name}.transform.{ours}")


def _slots(config: SteveJointConfig, name: str) -> Iterator[WeightMap]:
    yield from gaussian(f"{_SAVI}.slot_mu", f"{_SAVI}.slot_log_sigma", f"{name}.initializer")
    corrector = f"{name}.corrector"
    for norm in ("norm_inputs", "norm_slots"):
        yield from pair(f"{_SAVI}.{norm}", f"{corrector}.{norm}")
    for letter, ours in {"q": "query", "k": "key", "v": "value"}.items():
        yield bare(f"{_SAVI}.project_{letter}.weight", f"{corrector}.{ours}.weight")
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        yield bare(f"{_SAVI}.gru.{part}", f"{corrector}.gru.{part}")
    if config.num_iterations > 1:
        for theirs, ours in {"norm_mlp": 0, "mlp.0": 1, "mlp.2": 3}.items():
            yield from pair(f"{_SAVI}.{theirs}", f"{corrector}.mlp.{ours}")
    yield from _predictor(config.predictor_layers, f"{name}.predictor.block")


def _predictor(num_layers: int, name: str) -> Iterator[WeightMap]:
    path = f"{_SAVI}.predictor"
    for i in range(num_layers):
        theirs, ours = f"{path}.blocks.{i}", f"{name}.{i}"
        yield from pair(f"{theirs}.attn_layer_norm", f"{ours}.norm_attention")
        for letter, part in {"q": "query", "k": "key", "v": "value", "o": "out"}.items():
            yield bare(f"{theirs}.attn.proj_{letter}.weight", f"{ours}.attention.{part}.weight")
        yield from pair(f"{theirs}.ffn_layer_norm", f"{ours}.norm_mlp")
        for layer in (0, 2):
            yield from pair(f"{theirs}.ffn.{layer}", f"{ours}.mlp.{layer}")
    yield from pair(f"{path}.layer_norm", f"{name}.{num_layers}")


def _transformer(config: SteveJointConfig, name: str) -> Iterator[WeightMap]:
    yield bare(f"{ENCODER}slot_proj.weight", f"{name}.project.weight")
    yield bare(_TABLE, f"{name}.embedding.weight")
    yield WeightMap(_POSITIONS, f"{name}.position", lambda a: a[0], lambda a: a[None])
    for i in range(config.transformer.num_layers):
        yield from block(f"{DECODER}tf.blocks.{i}", f"{name}.decoder.blocks.{i}")
    yield from pair(f"{DECODER}tf.layer_norm", f"{name}.decoder.norm")
    yield bare(f"{DECODER}head.weight", f"{name}.head.weight")


def joined(params: Arrays, config: SteveJointConfig, where: str) -> Arrays:
    """The arrays without those that are no weights here; embeddings of codes and start token in one table.

    Raises:
        UserError: missing arrays, or a mask or coordinates of another size.
    """
    what = f"that of this model for frames of {config.resolution}"
    weights = layouts.without_constants(params, _constants(config), where, what)
    missing = [name for name in (_CODES, _FIRST, _POSITIONS) if name not in params]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}. Give a whole checkpoint of STEVE.")
    left_out = {_CODES, _FIRST, *_unused(config)}
    found = {name: array for name, array in weights.items() if name not in left_out}
    table = np.concatenate([params[_CODES], params[_FIRST][0]])
    return {**found, _TABLE: table, _POSITIONS: params[_POSITIONS][:, :-1]}


def _constants(config: SteveJointConfig) -> Arrays:
    """What the original stores among its parameters and never trains."""
    masks = causal_masks(f"{DECODER}tf", config.transformer.num_layers, config.tokenizer.grid)
    coordinates = cell_grid(*config.token_grid()).permute(2, 0, 1)[None, _GRID]
    return {_COORDINATES: coordinates.numpy(), **masks}


def _unused(config: SteveJointConfig) -> list[str]:
    """Slot attention's perceptron, which a single round does not use."""
    if config.num_iterations > 1:
        return []
    return [
        f"{_SAVI}.{part}.{what}" for part in ("norm_mlp", "mlp.0", "mlp.2") for what in ("weight", "bias")
    ]


@layouts.explained(
    "These are no arguments of STEVE's training", "Give all as JSON, by the names of the options."
)
def from_reference(reference: Mapping[str, Any]) -> SteveJointConfig:
    """Configuration from the arguments of the original's training command by their names, such as `image_size`.

    Raises:
        UserError: an argument is missing or ill-typed.
    """
    return SteveJointConfig(
        tokenizer=DvaeConfig(
            resolution=(reference["image_size"], reference["image_size"]),
            vocabulary=reference["vocab_size"],
            temperature_start=reference.get("tau_start", 1.0),
            temperature_end=reference.get("tau_final", 0.1),
            temperature_steps=float(reference.get("tau_steps", 30_000)),
            hard=reference.get("hard", False),
            norm=False,
        ),
        transformer=CodeTransformerConfig(
            size=reference["d_model"],
            num_layers=reference["num_decoder_blocks"],
            num_heads=reference["num_decoder_heads"],
            mlp_size=4 * reference["d_model"],
            dropout=reference.get("dropout", 0.1),
        ),
        channels=(reference["cnn_hidden_size"],) * 3,
        token_size=reference["d_model"],
        num_slots=reference["num_slots"],
        slot_size=reference["slot_size"],
        num_iterations=reference["num_iterations"],
        mlp_size=reference["mlp_hidden_size"],
        predictor_layers=reference["num_predictor_blocks"],
        predictor_heads=reference["num_predictor_heads"],
        predictor_mlp=4 * reference["slot_size"],
    )


@layouts.explained("These are not the weights of STEVE as its authors train it", layouts.OTHER_FILE)
def from_shapes(shapes: Shapes) -> SteveJointConfig:
    """Configuration from the names and shapes of a state dict.

    What no weight depends on is as published: 15 slots, 2 rounds, 4 heads.

    Raises:
        UserError: the names are not those of this model.
    """
    vocabulary, size = shapes[_CODES]
    side = 4 * math.isqrt(shapes[_POSITIONS][1] - 1)
    tokenizer = replace(dvae.from_shapes(within(shapes, TOKENIZER)), vocabulary=vocabulary)
    return SteveJointConfig(
        tokenizer=replace(tokenizer, resolution=(side, side), temperature_steps=30_000.0),
        transformer=CodeTransformerConfig(
            size=size,
            num_layers=count(shapes, r"steve_decoder\.tf\.blocks\.\d+\.ffn\.0\.weight"),
            mlp_size=4 * size,
        ),
        channels=tuple(
            shapes[f"{_CNN}.{i}.m.weight"][0]
            for i in range(count(shapes, r"steve_encoder\.cnn\.\d+\.m\.weight"))
        ),
        token_size=size,
        slot_size=shapes[f"{_SAVI}.slot_mu"][-1],
        mlp_size=shapes[f"{_SAVI}.mlp.0.weight"][0],
        predictor_layers=count(shapes, r"steve_encoder\.savi\.predictor\.blocks\.\d+\.ffn\.0\.weight"),
        predictor_mlp=4 * shapes[f"{_SAVI}.slot_mu"][-1],
    )

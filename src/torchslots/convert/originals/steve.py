"""STEVE in SlotDiffusion's PyTorch program: `.pth` files of its trainer.

The original's state dict holds each block's causal mask, True where a position must not attend. Masks are checked and
left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from torchslots.convert import layouts
from torchslots.convert.layouts import Arrays, Shapes, WeightMap, bare, count, within
from torchslots.convert.originals import dvae
from torchslots.convert.originals import slotdiffusion_encoder as slot_encoder
from torchslots.convert.originals.slotdiffusion_encoder import pair
from torchslots.io.errors import UserError
from torchslots.recipes.steve import CodeTransformerConfig, SteveConfig

TOKENIZER, TRANSFORMER = "dvae.", "trans_decoder."
"""Prefixes of the decoder's parts in the original's names."""
IMAGE_TEMPERATURE = 0.1
"""Temperature of the original's loss on images, which its released configurations do not use."""
_ATTENTIONS = {"self_attn": "self_attention", "encoder_decoder_attn": "cross_attention"}
_PROJECTIONS = {"proj_q": "query", "proj_k": "key", "proj_v": "value", "proj_o": "out"}
_NORMS = {
    "self_attn_layer_norm": "norm_self",
    "encoder_decoder_attn_layer_norm": "norm_cross",
    "ffn_layer_norm": "norm_mlp",
}


def leaves(config: SteveConfig) -> list[WeightMap]:
    """Every tensor of the original's state dict but the masks, which `masks` computes."""
    return [
        *slot_encoder.leaves(config.slots),
        *_transformer(config.transformer, "decoder.writer"),
        *dvae.leaves(config.tokenizer, TOKENIZER, "decoder.tokenizer."),
    ]


def _transformer(config: CodeTransformerConfig, name: str) -> Iterator[WeightMap]:
    yield from pair(f"{TRANSFORMER}in_proj", f"{name}.project")
    yield bare(f"{TRANSFORMER}tok_emb.weight", f"{name}.embedding.weight")
    yield WeightMap(f"{TRANSFORMER}pos_emb.pe", f"{name}.position", lambda a: a[0], lambda a: a[None])
    for i in range(config.num_layers):
        yield from block(f"{TRANSFORMER}tf_dec.blocks.{i}", f"{name}.decoder.blocks.{i}")
    yield from pair(f"{TRANSFORMER}tf_dec.layer_norm", f"{name}.decoder.norm")
    yield bare(f"{TRANSFORMER}head.weight", f"{name}.head.weight")


def block(path: str, name: str) -> Iterator[WeightMap]:
    """One layer of the transformer but its mask; the same as in STEVE's own program."""
    for theirs, ours in _NORMS.items():
        yield from pair(f"{path}.{theirs}", f"{name}.{ours}")
    for theirs, ours in _ATTENTIONS.items():
        for part, projection in _PROJECTIONS.items():
            yield bare(f"{path}.{theirs}.{part}.weight", f"{name}.{ours}.{projection}.weight")
    for layer in (0, 2):
        yield from pair(f"{path}.ffn.{layer}", f"{name}.mlp.{layer}")


def masks(config: SteveConfig) -> Arrays:
    """The causal masks in the original's state dict."""
    return causal_masks(f"{TRANSFORMER}tf_dec", config.transformer.num_layers, config.tokenizer.grid)


def causal_masks(path: str, num_layers: int, grid: tuple[int, int]) -> Arrays:
    """The mask of each block below `path`: True above the diagonal."""
    hidden = np.triu(np.ones((grid[0] * grid[1],) * 2, bool), 1)
    return {f"{path}.blocks.{i}.self_attn_mask": hidden for i in range(num_layers)}


def without_masks(params: Arrays, config: SteveConfig, where: str) -> Arrays:
    """The arrays without the masks, which may be missing and must be causal.

    Raises:
        UserError: a mask of another length, or one that is not causal.
    """
    rows, columns = config.tokenizer.grid
    what = f"the causal mask of {rows * columns} codes, for which this model is built"
    return layouts.without_constants(params, masks(config), where, what)


@layouts.explained("This is no configuration of STEVE", layouts.RECONFIGURE)
def from_reference(reference: Mapping[str, Any]) -> SteveConfig:
    """Configuration from the original's own configuration.

    Raises:
        UserError: a field is missing, or asks for what is not built here.
    """
    slots = slot_encoder.from_reference(reference)
    decoder = reference["dec_dict"]
    transformer = CodeTransformerConfig(
        size=decoder["dec_d_model"],
        num_layers=decoder["dec_num_layers"],
        num_heads=decoder["dec_num_heads"],
        mlp_size=4 * decoder["dec_d_model"],
    )
    tokenizer = dvae.from_reference({**reference["dvae_dict"], "resolution": slots.resolution})
    image = (reference.get("loss_dict") or {}).get("use_img_recon_loss")
    return SteveConfig(slots, tokenizer, transformer, IMAGE_TEMPERATURE if image else None)


def from_shapes(shapes: Shapes) -> SteveConfig:
    """Configuration from the names and shapes of a state dict.

    What no weight depends on is as published: 4 heads, no loss on images; and see `slot_encoder.from_shapes`.

    Raises:
        UserError: the names are not those of this model, or its tokenizer is not among them.
    """
    inside = within(shapes, TOKENIZER)
    if not inside:
        raise UserError(
            "These weights of STEVE come without its discrete VAE (`dvae.*`): it can neither encode nor decode images. "
            "Give a checkpoint of the whole model, as the original's trainer writes it."
        )
    slots = slot_encoder.from_shapes(shapes)
    tokenizer = replace(dvae.from_shapes(inside), resolution=slots.resolution)
    return SteveConfig(slots, tokenizer, _transformer_of(shapes))


@layouts.explained("These are not the weights of STEVE in SlotDiffusion's program", layouts.OTHER_FILE)
def _transformer_of(shapes: Shapes) -> CodeTransformerConfig:
    hidden, size = shapes[f"{TRANSFORMER}tf_dec.blocks.0.ffn.0.weight"]
    blocks = count(shapes, r"trans_decoder\.tf_dec\.blocks\.\d+\.ffn\.0\.weight")
    return CodeTransformerConfig(size=size, num_layers=blocks, mlp_size=hidden)

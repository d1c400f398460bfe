"""STEVE in SlotDiffusion's PyTorch program: `.pth` files of its trainer.

The original's state dict holds each block's causal mask, True where a position must not look. Masks are checked when
read, and left out.
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
"""Of the original's loss of images, which its released configurations leave out."""
_ATTENTIONS = {"self_attn": "self_attention", "encoder_decoder_attn": "cross_attention"}
_PROJECTIONS = {"proj_q": "query", "proj_k": "key", "proj_v": "value", "proj_o": "out"}
_NORMS = {
    "self_attn_layer_norm": "norm_self",
    "encoder_decoder_attn_layer_norm": "norm_cross",
    "ffn_layer_norm": "norm_mlp",
}


def leaves(config: SteveConfig) -> list[WeightMap]:
    """Every tensor of the original's state dict but the masks, which `masks` makes."""
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
    """One layer of the transformer but its mask, the same in the authors' own program."""
    for theirs, ours in _NORMS.items():
        yield from pair(f"{path}.{theirs}", f"{name}.{ours}")
    for theirs, ours in _ATTENTIONS.items():
        for part, projection in _PROJECTIONS.items():
            yield bare(f"{path}.{theirs}.{part}.weight", f"{name}.{ours}.{projection}.weight")
    for layer in (0, 2):
        yield from pair(f"{path}.ffn.{layer}", f"{name}.mlp.{layer}")


def masks(config: SteveConfig) -> Arrays:
    """What the original stores for each block: True above the diagonal."""
    rows, columns = config.tokenizer.grid
    hidden = np.triu(np.ones((rows * columns, rows * columns), bool), 1)
    blocks = range(config.transformer.num_layers)
    return {f"{TRANSFORMER}tf_dec.blocks.{block}.self_attn_mask": hidden for block in blocks}


def without_masks(params: Arrays, config: SteveConfig, where: str) -> Arrays:
    """The arrays without the masks, which may be missing and must be causal.

    Raises:
        UserError: a mask of another length, or that lets a position look ahead.
    """
    causal = masks(config)
    for name, mask in causal.items():
        found = params.get(name)
        if found is not None and not np.array_equal(found.astype(bool), mask):
            raise UserError(
                f"{where}: `{name}` {list(found.shape)} is not the causal mask of {len(mask)} codes, which this model "
                "is built for. Give the original's params as JSON with --config."
            )
    return {name: value for name, value in params.items() if name not in causal}


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

    What no weight depends on is as published: 4 heads, no loss of images; and see `slot_encoder.from_shapes`.

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

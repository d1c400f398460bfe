"""SlotDiffusion's VQ-VAE: `.pth` files of its PyTorch trainer; also a part of its latent diffusion models."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from torchslots.convert import layouts
from torchslots.convert.layouts import Arrays, Shapes, WeightMap, bare, count
from torchslots.recipes.tokenizers import VqvaeConfig, build_vqvae

_RENAMED = (
    (r"^to_code\.", "quant_conv."),
    (r"^from_code\.", "post_quant_conv."),
    (r"^codebook\.", "quantize.embedding."),
    (r"\.norm\.", ".norm_out."),
    (r"(attentions\.\d+)\.to_out\.0\.", r"\1.proj_out."),
    (r"(attentions\.\d+)\.to_([qkv])\.", r"\1.\2."),
    (r"(attentions\.\d+)\.group_norm\.", r"\1.norm."),
    (r"conv_shortcut\.", "nin_shortcut."),
    (r"middle\.attentions\.0\.", "mid.attn_1."),
    (r"middle\.resnets\.0\.", "mid.block_1."),
    (r"middle\.resnets\.1\.", "mid.block_2."),
    (r"(down|up)_(\d+)\.(down|up)samplers\.0\.", r"\1.\2.\3sample."),
    (r"(down|up)_(\d+)\.attentions\.", r"\1.\2.attn."),
    (r"(down|up)_(\d+)\.resnets\.", r"\1.\2.block."),
)
"""Changes from our names to theirs, in this order."""
_PIXELWISE = re.compile(r"attentions\.\d+\.to_(q|k|v|out\.0)\.weight$")
"""1x1 convolutions there, linear layers here."""
_USUAL = {
    "in_channels": 3,
    "out_ch": 3,
    "double_z": False,
    "resamp_with_conv": True,
    "attn_type": "vanilla",
    "tanh_out": False,
    "use_linear_attn": False,
    "give_pre_end": False,
}


def leaves(config: VqvaeConfig, path: str = "", name: str = "") -> list[WeightMap]:
    """Every tensor of the original's state dict.

    Args:
        path, name: prefixes of their and our names where the VQ-VAE is a part of a model, each with its last dot.
    """
    with torch.device("meta"):
        ours = list(build_vqvae(config).state_dict())
    return [_leaf(path, name, own) for own in ours]


def _leaf(path: str, name: str, ours: str) -> WeightMap:
    theirs = ours
    for pattern, replacement in _RENAMED:
        theirs = re.sub(pattern, replacement, theirs)
    theirs = f"{path}{theirs}"
    if _PIXELWISE.search(ours):
        return WeightMap(theirs, f"{name}{ours}", lambda a: a[:, :, 0, 0], lambda a: a[:, :, None, None])
    return bare(theirs, f"{name}{ours}")


def without_loss(params: Arrays) -> Arrays:
    """The arrays without those of LPIPS, whose public weights the trainer saves, too."""
    return {name: array for name, array in params.items() if not name.startswith("loss.")}


@layouts.explained("This is no configuration of a VQ-VAE", layouts.RECONFIGURE)
def from_reference(reference: Mapping[str, Any]) -> VqvaeConfig:
    """Configuration from the original's own configuration: `resolution`, `enc_dec_dict`, `vq_dict`.

    Raises:
        UserError: a field is missing or ill-typed, or asks for what is not built here.
    """
    network, codes = reference["enc_dec_dict"], reference["vq_dict"]
    height, width = reference["resolution"]
    layouts.refuse_unusual("A VQ-VAE", network, _USUAL)
    sides = [network["resolution"] >> level for level in range(len(network["ch_mult"]))]
    return VqvaeConfig(
        resolution=(height, width),
        channels=network["ch"],
        multipliers=tuple(network["ch_mult"]),
        num_blocks=network["num_res_blocks"],
        attention_levels=tuple(
            level for level, side in enumerate(sides) if side in network["attn_resolutions"]
        ),
        dropout=network.get("dropout", 0.0),
        latent_channels=network["z_channels"],
        num_codes=codes["n_embed"],
        code_size=codes["embed_dim"],
        codebook_weight=codes.get("beta", 0.25),
        perceptual=codes.get("percept_loss_w", 1.0) > 0,
    )


@layouts.explained("These are not the weights of a VQ-VAE of SlotDiffusion's program", layouts.OTHER_FILE)
def from_shapes(shapes: Shapes) -> VqvaeConfig:
    """Configuration from the names and shapes of a state dict, for frames of 128x128, which no weight depends on.

    Raises:
        UserError: the names are not those of a VQ-VAE, or sizes that fit none.
    """
    channels = shapes["encoder.conv_in.weight"][0]
    levels = range(count(shapes, r"decoder\.up\.\d+\.block\.0\.conv1\.weight"))
    widths = [shapes[f"decoder.up.{level}.block.0.conv1.weight"][0] for level in levels]
    num_codes, code_size = shapes["quantize.embedding.weight"]
    return VqvaeConfig(
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        num_blocks=count(shapes, r"encoder\.down\.0\.block\.\d+\.conv1\.weight"),
        attention_levels=tuple(level for level in levels if f"decoder.up.{level}.attn.0.q.weight" in shapes),
        latent_channels=shapes["encoder.conv_out.weight"][0],
        num_codes=num_codes,
        code_size=code_size,
        perceptual=any(name.startswith("loss.") for name in shapes),
    )

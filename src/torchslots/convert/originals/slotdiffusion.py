"""SlotDiffusion's PyTorch program: `.pth` files of its trainer, with the tokenizer in them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from torchslots.convert import layouts
from torchslots.convert.layouts import Arrays, Shapes, WeightMap, bare, count, within
from torchslots.convert.originals import slotdiffusion_encoder as slot_encoder
from torchslots.convert.originals import vqvae
from torchslots.io.errors import UserError
from torchslots.models.diffusion.schedule import beta_schedule
from torchslots.recipes.slotdiffusion import (
    DiffusionConfig,
    SamplingConfig,
    SlotDiffusionConfig,
    UNetConfig,
    build_unet,
)

UNET, TOKENIZER = "dm_decoder.model.diffusion_model.", "dm_decoder.vae.vqvae."
"""Prefixes of the decoder's parts in the original's names."""
_PREDICTIONS: dict[str, Literal["noise", "latent", "velocity"]] = {
    "eps": "noise",
    "x0": "latent",
    "v": "velocity",
}
_LEAST_VARIANCE = 1e-20
"""Under the logarithm where the variance is zero."""
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
"""Parts of a residual block, ours to theirs; parts of transformers have the same names."""


def leaves(config: SlotDiffusionConfig) -> list[WeightMap]:
    """Every tensor of the original's state dict but the tables of the schedule, which `schedule` computes."""
    with torch.device("meta"):
        names = list(build_unet(config).network.state_dict())
    modules = dict(_modules(config.unet))
    return [
        *slot_encoder.leaves(config.slots),
        *(bare(UNET + _rename(name, modules), f"decoder.unet.network.{name}") for name in names),
        *vqvae.leaves(config.tokenizer, TOKENIZER, "decoder.tokenizer."),
    ]


def _rename(name: str, modules: Mapping[str, str]) -> str:
    """The original's name of a tensor of the U-Net."""
    module = next(module for module in modules if name.startswith(f"{module}."))
    inside = name.removeprefix(f"{module}.")
    if ".resnets." in module:
        part, _, tensor = inside.partition(".")
        inside = f"{_RESIDUAL[part]}.{tensor}"
    return f"{modules[module]}.{inside}"


def _modules(unet: UNetConfig) -> Iterator[tuple[str, str]]:
    """Our names of modules, and theirs, which number the blocks of all levels in one sequence."""
    yield from (("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"))
    yield from (("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"))
    yield from (("mid_block.resnets.0", "middle_block.0"), ("mid_block.resnets.1", "middle_block.2"))
    yield ("mid_block.attentions.0", "middle_block.1")
    for level in range(len(unet.channels)):
        yield from _down(level, unet.blocks_per_level)
        yield from _up(level, unet.blocks_per_level + 1, unet.attention[-1 - level])


def _down(level: int, num_blocks: int) -> Iterator[tuple[str, str]]:
    """A level on the way down: its blocks, and the one that halves the resolution."""
    first = 1 + level * (num_blocks + 1)
    for i in range(num_blocks):
        yield f"down_blocks.{level}.resnets.{i}", f"input_blocks.{first + i}.0"
        yield f"down_blocks.{level}.attentions.{i}", f"input_blocks.{first + i}.1"
    yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{first + num_blocks}.0.op"


def _up(level: int, num_blocks: int, attends: bool) -> Iterator[tuple[str, str]]:
    """A level on the way up, counted from the deepest; its last block doubles the resolution."""
    first = level * num_blocks
    for i in range(num_blocks):
        yield f"up_blocks.{level}.resnets.{i}", f"output_blocks.{first + i}.0"
        yield f"up_blocks.{level}.attentions.{i}", f"output_blocks.{first + i}.1"
    last = first + num_blocks - 1
    yield f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{last}.{1 + attends}.conv"


def schedule(config: DiffusionConfig) -> Arrays:
    """The tables of the schedule that the original's state dict holds."""
    betas = beta_schedule(config.schedule, config.num_steps, config.start, config.end, config.cosine_shift)
    alphas = np.cumprod(1 - betas)
    before = np.append(1.0, alphas[:-1])
    variance = betas * (1 - before) / (1 - alphas)
    tables = {
        "betas": betas,
        "alphas_bar": alphas,
        "alphas_bar_prev": before,
        "sqrt_alphas_bar": np.sqrt(alphas),
        "sqrt_one_minus_alphas_bar": np.sqrt(1 - alphas),
        "log_one_minus_alphas_bar": np.log(1 - alphas),
        "sqrt_recip_alphas_bar": np.sqrt(1 / alphas),
        "sqrt_recipm1_alphas_bar": np.sqrt(1 / alphas - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, _LEAST_VARIANCE)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - alphas),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - alphas),
    }
    return {f"dm_decoder.{name}": table.astype(np.float32) for name, table in tables.items()}


def without_schedule(params: Arrays, config: DiffusionConfig, where: str) -> Arrays:
    """The arrays without those of the schedule, which must be the one of `config`.

    Raises:
        UserError: a table is missing, or that of another schedule.
    """
    tables = schedule(config)
    missing = [name for name in tables if name not in params]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}. Give a whole checkpoint of SlotDiffusion.")
    what = f"the noise schedule `{config.schedule}` of {config.num_steps} steps from {config.start} to {config.end}"
    return layouts.without_constants(params, tables, where, what)


@layouts.explained("This is no configuration of SlotDiffusion", layouts.RECONFIGURE)
def from_reference(reference: Mapping[str, Any]) -> SlotDiffusionConfig:
    """Configuration from the original's own configuration.

    Raises:
        UserError: a field is missing, or asks for what is not built here.
    """
    slots = slot_encoder.from_reference(reference)
    decoder = reference["dec_dict"]
    usual = {"use_ema": False, "conditioning_key": "crossattn", "cond_stage_key": "slots"}
    layouts.refuse_unusual("SlotDiffusion", decoder, usual)
    if not decoder.get("vae_dict"):
        raise UserError("SlotDiffusion on pixels, without `vae_dict`, is not built here, only on latents.")
    tokenizer = vqvae.from_reference({"resolution": slots.resolution, **decoder["vae_dict"]})
    diffusion = _diffusion_of(decoder["diffusion_dict"])
    unet = _unet_of(decoder["unet_dict"])
    return SlotDiffusionConfig(slots, tokenizer, unet, diffusion, sampling(diffusion.num_steps))


def sampling(num_steps: int) -> SamplingConfig:
    """The original's sampler: one evaluation for 50 steps of the schedule, and at least 20."""
    return SamplingConfig(num_steps=max(20, num_steps // 50))


def _unet_of(reference: Mapping[str, Any]) -> UNetConfig:
    usual = {"resblock_updown": False, "n_embed": None, "conv_resample": True, "dims": 2}
    layouts.refuse_unusual("A U-Net", reference, usual)
    multipliers = reference["channel_mult"]
    return UNetConfig(
        channels=tuple(reference["model_channels"] * multiplier for multiplier in multipliers),
        attention=tuple(2**level in reference["attention_resolutions"] for level in range(len(multipliers))),
        blocks_per_level=reference["num_res_blocks"],
        head_size=reference["num_head_channels"],
        transformer_layers=reference["transformer_depth"],
        dropout=reference["dropout"],
    )


def _diffusion_of(reference: Mapping[str, Any]) -> DiffusionConfig:
    return DiffusionConfig(
        num_steps=reference["timesteps"],
        schedule=reference["beta_schedule"],
        start=reference["linear_start"],
        end=reference["linear_end"],
        cosine_shift=reference["cosine_s"],
        prediction_type=_PREDICTIONS[reference["pred_target"]],
        latent_scale=reference["z_scale_factor"],
    )


def from_shapes(shapes: Shapes) -> SlotDiffusionConfig:
    """Configuration from the names and shapes of a state dict.

    What no weight depends on is as published: heads of width 32, the schedule, prediction of the noise; and see
    `slot_encoder.from_shapes`.

    Raises:
        UserError: the names are not those of this model.
    """
    slots = slot_encoder.from_shapes(shapes)
    tokenizer = replace(
        vqvae.from_shapes(within(shapes, TOKENIZER)), resolution=slots.resolution, perceptual=True
    )
    return SlotDiffusionConfig(slots, tokenizer, _unet_from_shapes(within(shapes, UNET)))


@layouts.explained("These are not the weights of SlotDiffusion", layouts.OTHER_FILE)
def _unet_from_shapes(shapes: Shapes) -> UNetConfig:
    """Levels are separated by blocks that halve the resolution."""
    layers = count(shapes, r"middle_block\.1\.transformer_blocks\.\d+\.norm1\.weight")
    num_blocks = count(shapes, r"input_blocks\.\d+\.0\.in_layers\.0\.weight")
    halvings = count(shapes, r"input_blocks\.\d+\.0\.op\.weight")
    per_level = num_blocks // (halvings + 1)
    firsts = [1 + level * (per_level + 1) for level in range(halvings + 1)]
    widths = [shapes[f"input_blocks.{first}.0.out_layers.3.weight"][0] for first in firsts]
    attention = [f"input_blocks.{first}.1.norm.weight" in shapes for first in firsts]
    return UNetConfig(tuple(widths), tuple(attention), per_level, transformer_layers=layers)

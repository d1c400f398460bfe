"""Convolutional encoder and decoder of image latents: residual blocks at each level, attention in the middle.

The autoencoder of latent diffusion (Rombach et al. 2022), as SlotDiffusion uses it, from the blocks of `diffusers`. The
`Encoder` and `Decoder` of `diffusers` do not fit: their stem is as wide as the first level, the original's has
`channels`.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import nn

NORM_EPS = 1e-6
"""Epsilon of every group norm here (torch's default is 1e-5)."""


def encoder(
    *,
    latent_channels: int,
    channels: int,
    multipliers: Sequence[int],
    num_blocks: int,
    attention_levels: Sequence[int] = (),
    num_groups: int = 32,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Images [n, 3, H, W] to [n, latent_channels, h, w], halved between levels.

    Args:
        channels: width of the stem; level i has `channels * multipliers[i]`.
        num_blocks: residual blocks of each level; with 0 a level has the width of the one before.
        attention_levels: levels with attention after each block; the middle always has it.
        num_groups: groups of the group norms; divides every width.
        dropout: inside residual blocks.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv_in=nn.Conv2d(3, channels, 3, padding=1))
    options = _block_options(num_groups, dropout)
    sizes = [channels * m for m in (1, *multipliers)]
    width = channels
    for level, (narrow, wide) in enumerate(zip(sizes, sizes[1:])):
        width = wide if num_blocks else narrow
        attends, halves = level in attention_levels, level < len(multipliers) - 1
        parts[f"down_{level}"] = _down(narrow, width, num_blocks, options, attends=attends, halves=halves)
    parts["middle"] = _middle(width, options)
    return nn.Sequential(parts | _head(width, latent_channels, num_groups))


def decoder(
    *,
    latent_channels: int,
    channels: int,
    multipliers: Sequence[int],
    num_blocks: int,
    attention_levels: Sequence[int] = (),
    num_groups: int = 32,
    dropout: float = 0.0,
) -> nn.Sequential:
    """[n, latent_channels, h, w] to images [n, 3, H, W]: the encoder's mirror with one more block at each level.

    Args as for `encoder`; levels are counted from full size there and here.
    """
    options = _block_options(num_groups, dropout)
    sizes = [channels * m for m in multipliers]
    width = sizes[-1]
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv_in=nn.Conv2d(latent_channels, width, 3, padding=1))
    parts["middle"] = _middle(width, options)
    for level in reversed(range(len(sizes))):
        attends, doubles = level in attention_levels, level > 0
        up = _up(width, sizes[level], num_blocks + 1, options, attends=attends, doubles=doubles)
        parts[f"up_{level}"], width = up, sizes[level]
    return nn.Sequential(parts | _head(width, 3, num_groups))


def _head(width: int, channels: int, num_groups: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        norm=nn.GroupNorm(num_groups, width, eps=NORM_EPS),
        activation=nn.SiLU(),
        conv_out=nn.Conv2d(width, channels, 3, padding=1),
    )


def _block_options(num_groups: int, dropout: float) -> dict[str, Any]:
    return {"resnet_eps": NORM_EPS, "resnet_groups": num_groups, "dropout": dropout}


def _down(
    narrow: int, wide: int, num_blocks: int, options: dict[str, Any], *, attends: bool, halves: bool
) -> nn.Module:
    """A level of the encoder; halving pads right and bottom only."""
    from diffusers.models.unets.unet_2d_blocks import AttnDownEncoderBlock2D, DownEncoderBlock2D

    options = {**options, "num_layers": num_blocks, "downsample_padding": 0, "add_downsample": halves}
    if attends:
        return AttnDownEncoderBlock2D(narrow, wide, attention_head_dim=wide, **options)
    return DownEncoderBlock2D(narrow, wide, **options)


def _up(
    wide: int, narrow: int, num_blocks: int, options: dict[str, Any], *, attends: bool, doubles: bool
) -> nn.Module:
    """A level of the decoder; doubling repeats pixels."""
    from diffusers.models.unets.unet_2d_blocks import AttnUpDecoderBlock2D, UpDecoderBlock2D

    options = {**options, "num_layers": num_blocks, "add_upsample": doubles}
    if attends:
        return AttnUpDecoderBlock2D(wide, narrow, attention_head_dim=narrow, **options)
    return UpDecoderBlock2D(wide, narrow, **options)


def _middle(width: int, options: dict[str, Any]) -> nn.Module:
    """Residual block, attention of one head over all places, residual block."""
    from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D

    return UNetMidBlock2D(
        in_channels=width,
        temb_channels=None,  # pyright: ignore[reportArgumentType]
        attention_head_dim=width,
        **options,
    )

"""The convolutional pyramids around an image's latent: residual blocks by level, attention in the middle.

The autoencoder of latent diffusion (Rombach et al. 2022; SlotDiffusion keeps it), from the blocks of
`diffusers`. Its own `Encoder` and `Decoder` are not used: they tie the first convolution's width to the first level's,
where the original has `channels` at the stem whatever the first multiplier is.
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
        num_blocks: residual blocks of each level; with none a level keeps the width of the one before.
        attention_levels: levels with attention behind each block, besides the middle, which always has it.
        num_groups: groups of the group norms; divides every width.
        dropout: inside residual blocks.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv_in=nn.Conv2d(3, channels, 3, padding=1))
    sizes = [channels * m for m in (1, *multipliers)]
    width = channels
    for level, (narrow, wide) in enumerate(zip(sizes, sizes[1:])):
        width = wide if num_blocks else narrow
        parts[f"down_{level}"] = _down(
            narrow,
            width,
            num_blocks,
            level in attention_levels,
            num_groups,
            dropout,
            halve=level < len(multipliers) - 1,
        )
    parts["middle"] = _middle(width, num_groups, dropout)
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
    """[n, latent_channels, h, w] to images [n, 3, H, W]: the encoder's mirror with one more block in each level.

    Levels are counted as the encoder's, 0 at full size, and run from the last to the first.
    """
    sizes = [channels * m for m in multipliers]
    width = sizes[-1]
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv_in=nn.Conv2d(latent_channels, width, 3, padding=1))
    parts["middle"] = _middle(width, num_groups, dropout)
    for level in reversed(range(len(sizes))):
        parts[f"up_{level}"] = _up(
            width,
            sizes[level],
            num_blocks + 1,
            level in attention_levels,
            num_groups,
            dropout,
            double=level > 0,
        )
        width = sizes[level]
    return nn.Sequential(parts | _head(width, 3, num_groups))


def _head(width: int, channels: int, num_groups: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        norm=nn.GroupNorm(num_groups, width, eps=NORM_EPS),
        activation=nn.SiLU(),
        conv_out=nn.Conv2d(width, channels, 3, padding=1),
    )


def _shared(num_groups: int, dropout: float) -> dict[str, Any]:
    return {"resnet_eps": NORM_EPS, "resnet_groups": num_groups, "dropout": dropout}


def _down(
    narrow: int, wide: int, num_blocks: int, attends: bool, num_groups: int, dropout: float, *, halve: bool
) -> nn.Module:
    """A level of the encoder; halving pads right and bottom alone."""
    from diffusers.models.unets.unet_2d_blocks import AttnDownEncoderBlock2D, DownEncoderBlock2D

    numbers = {**_shared(num_groups, dropout), "num_layers": num_blocks, "downsample_padding": 0}
    if attends:
        return AttnDownEncoderBlock2D(narrow, wide, attention_head_dim=wide, add_downsample=halve, **numbers)
    return DownEncoderBlock2D(narrow, wide, add_downsample=halve, **numbers)


def _up(
    wide: int, narrow: int, num_blocks: int, attends: bool, num_groups: int, dropout: float, *, double: bool
) -> nn.Module:
    """A level of the decoder; doubling repeats pixels."""
    from diffusers.models.unets.unet_2d_blocks import AttnUpDecoderBlock2D, UpDecoderBlock2D

    numbers = {**_shared(num_groups, dropout), "num_layers": num_blocks}
    if attends:
        return AttnUpDecoderBlock2D(wide, narrow, attention_head_dim=narrow, add_upsample=double, **numbers)
    return UpDecoderBlock2D(wide, narrow, add_upsample=double, **numbers)


def _middle(width: int, num_groups: int, dropout: float) -> nn.Module:
    """Residual block, attention of one head over all places, residual block."""
    from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D

    return UNetMidBlock2D(
        in_channels=width,
        temb_channels=None,  # pyright: ignore[reportArgumentType]
        attention_head_dim=width,
        **_shared(num_groups, dropout),
    )

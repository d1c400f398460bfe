"""The U-Net of latent diffusion models, conditioned by cross-attention to a set of vectors; built with diffusers.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (CVPR 2022), section 3.3.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchslots.io.errors import UserError

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

NORM_GROUPS = 32
"""Groups of every group norm, as published."""


class ConditionedUNet(nn.Module):
    """Predict from noised latents, their timesteps and a context, an unordered set of vectors.

    Args:
        channels: width of each level, multiples of `norm_groups`; every level but the last halves the resolution.
        attention: for each level whether its pixels attend to each other and to the context; the middle's always do.
        blocks_per_level: residual blocks on the way down; one more on the way up.
        head_size: width of an attention head, a divisor of every width.
        context_size: width of the context's vectors.
        dropout: in residual blocks only.
        norm_groups: groups of every group norm. A group of one or two channels loses an image's brightness and colour.

    Raises:
        UserError: widths that do not divide.
    """

    def __init__(
        self,
        latent_channels: int,
        channels: Sequence[int],
        attention: Sequence[bool],
        *,
        blocks_per_level: int,
        head_size: int,
        context_size: int,
        transformer_layers: int = 1,
        dropout: float = 0.0,
        norm_groups: int = NORM_GROUPS,
    ):
        super().__init__()
        _check(channels, attention, head_size, norm_groups)
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        down = tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in attention)
        up = tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attention))
        self.network = UNet2DConditionModel(
            in_channels=latent_channels,
            out_channels=latent_channels,
            down_block_types=down,
            up_block_types=up,
            block_out_channels=tuple(channels),
            layers_per_block=blocks_per_level,
            cross_attention_dim=context_size,
            transformer_layers_per_block=transformer_layers,
            # The number of heads, despite the name.
            attention_head_dim=cast(Any, tuple(width // head_size for width in channels)),
            dropout=dropout,
            norm_num_groups=norm_groups,
        )
        _start_as_identity(self.network)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self,
        noised: Float[Tensor, "n C h w"],
        timesteps: Float[Tensor, "n"],
        context: Float[Tensor, "n K D"],
    ) -> Float[Tensor, "n C h w"]:
        """Timesteps count from 0 and may be fractions."""
        latents = noised.contiguous(memory_format=torch.channels_last)
        return self.network(latents, timesteps, context, return_dict=False)[0]


def _start_as_identity(network: "UNet2DConditionModel") -> None:
    """Zero the last layer of every residual branch, and of the network (Dhariwal and Nichol 2021)."""
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    last: list[nn.Module] = [network.conv_out]
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            last.append(module.conv2)
        if isinstance(module, Transformer2DModel):
            last.append(module.proj_out)
    for layer in last:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def _check(channels: Sequence[int], attention: Sequence[bool], head_size: int, norm_groups: int) -> None:
    if len(channels) != len(attention) or not channels:
        raise UserError(
            f"A U-Net needs `channels` and `attention` for each level, got {len(channels)} widths and "
            f"{len(attention)} values."
        )
    for width in channels:
        if width % norm_groups or width % head_size:
            raise UserError(
                f"Widths of the U-Net should be multiples of {norm_groups} and of the head's {head_size}, got {width}."
            )

"""Convolutions over a picture that is constant but for what all pictures share: slots tiled over a grid.

A convolution is linear. Its response to what is shared is computed once for all; its response to a constant differs
from cell to cell only where the kernel reaches over the border, so it is computed on the smallest grid that has every
border, and the middle is repeated. The same sums of products, without those that repeat.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchslots.nn.cnn import Conv, ConvTranspose


def over_constant(
    layers: nn.Module, constant: Float[Tensor, "n C"], shared: Float[Tensor, "1 C H W"]
) -> Float[Tensor, "n c h w"]:
    """`layers(constant + shared)`, the first convolution without its repetitions where it can be taken apart."""
    if isinstance(layers, nn.Sequential) and len(layers):
        first = layers[0]
        if isinstance(first, Conv | ConvTranspose) and _fits(first, shared):
            pixels = _first(first, constant, shared)
            active = len(layers) > 1 and isinstance(layers[1], nn.ReLU)
            return layers[1 + active :]((pixels.relu_() if active else pixels).permute(0, 3, 1, 2))
    whole = constant[:, :, None, None] + shared
    return layers(whole.contiguous(memory_format=torch.channels_last))


def _fits(layer: Conv | ConvTranspose, shared: Float[Tensor, "1 C H W"]) -> bool:
    """Whether the grid has a middle, and the layer's cells are the grid's or parts of them."""
    reach = layer.reach
    return reach is not None and min(shared.shape[-2:]) > sum(reach)


def _first(
    layer: Conv | ConvTranspose, constant: Float[Tensor, "n C"], shared: Float[Tensor, "1 C H W"]
) -> Float[Tensor, "n h w c"]:
    """Channels last in shape as in memory: torch adds these, and sums their gradients, ten times as fast."""
    assert layer.reach is not None
    side = sum(layer.reach) + 1
    small = constant[:, :, None, None].expand(-1, -1, side, side)
    answer = layer(small.contiguous(memory_format=torch.channels_last))
    response = layer(shared.contiguous(memory_format=torch.channels_last)).to(answer.dtype)
    if layer.bias is not None:
        response = response - layer.bias[:, None, None].to(answer.dtype)
    parts = answer.shape[-1] // side
    pixels, common = (each.permute(0, 2, 3, 1).contiguous() for each in (answer, response))
    if side > 1 or parts > 1:
        rows, columns = (
            _repeating(layer.reach, length, parts, answer.device) for length in shared.shape[-2:]
        )
        pixels = pixels.index_select(1, rows).index_select(2, columns)
    return pixels + common


def _repeating(reach: Sequence[int], length: int, parts: int, device: torch.device) -> Tensor:
    """Which row of the small answer each row of the large one is; each cell has `parts` rows."""
    front, back = reach
    cells = torch.arange(length, device=device)
    small = cells.clamp(max=front) + (cells - (length - 1 - back)).clamp(min=0)
    return (small[:, None] * parts + torch.arange(parts, device=device)).flatten()

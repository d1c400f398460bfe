"""Where slots looked, as masks: for decoders that draw none of their own."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def attention_masks(
    attn: Float[Tensor, "B T K N"], grid: tuple[int, int], resolution: tuple[int, int]
) -> tuple[Float[Tensor, "B T K H W"], Float[Tensor, "B T K H W"]]:
    """Attention over tokens enlarged to the frame, and its logarithm.

    It is enlarged bilinearly with pixels as cells, before anybody asks which slot is the greatest, as SlotDiffusion's
    and STEVE's evaluation does. Where slots were taken out the others share their pixels; frames that no slot looked
    at, such as predicted ones, belong to all slots alike.

    Args:
        attn: softmax over slots; no tokens at all where no frame was seen.
        grid: height and width of the token map, N cells in all.
        resolution: height and width of the frames.
    """
    if attn.shape[-1] == 0:
        attn = attn.new_zeros(*attn.shape[:-1], math.prod(grid))
    maps = attn.flatten(0, 1).unflatten(-1, grid)
    shares = F.interpolate(maps, resolution, mode="bilinear").unflatten(0, attn.shape[:2])
    shares = shares + torch.finfo(shares.dtype).tiny
    masks = shares / shares.sum(2, keepdim=True)
    return masks, masks.log()

"""Where slots looked, as masks: for decoders that draw none of their own."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def attention_masks(
    attn: Float[Tensor, "B T K N"], grid: tuple[int, int], resolution: tuple[int, int]
) -> tuple[Float[Tensor, "B T K H W"], Float[Tensor, "B T K H W"]]:
    """Attention over tokens enlarged to the frame, and its logarithm.

    It is enlarged bilinearly with pixels as cells, before anybody asks which slot is the greatest, as SlotDiffusion's
    and STEVE's evaluation does.

    Args:
        attn: softmax over slots.
        grid: height and width of the token map, N cells in all.
        resolution: height and width of the frames.
    """
    maps = attn.flatten(0, 1).unflatten(-1, grid)
    masks = F.interpolate(maps, resolution, mode="bilinear").unflatten(0, attn.shape[:2])
    return masks, masks.clamp(min=torch.finfo(masks.dtype).tiny).log()

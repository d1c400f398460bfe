"""What every decoder offers the model."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.models.types import Batch, Clip, Decoded


class Decoder(nn.Module, ABC):
    """What the slots of a clip must explain."""

    draws_attn = True
    """Whether `decode` reads `Clip.attn`; `loss` never does."""

    @abstractmethod
    def loss(self, clip: Clip, batch: Batch) -> dict[str, Tensor]:
        """Named, unweighted scalars: means over the clips of the batch."""

    @abstractmethod
    def decode(self, clip: Clip, slot_recon: bool = False, recon: bool = True) -> Decoded:
        """What the slots draw: masks, pictures unless `recon` is False, each slot's own too with `slot_recon`."""


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

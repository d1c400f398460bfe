"""What every decoder offers the model."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.models.decoders.sampling import SamplingOptions
from torchslots.models.tokenizers.base import Tokenizer
from torchslots.models.types import Batch, Clip, Decoded

RoundTrip = Callable[[Float[Tensor, "n 3 H W"]], Float[Tensor, "n 3 H W"]]
"""Frames in [0, 1] to what a tokenizer alone makes of them."""


class Decoder(nn.Module, ABC):
    """What the slots of a clip must explain, and what the rest of the library may know of it."""

    monitor: ClassVar[str] = "fg_ari"
    """The figure whose highest value marks the best model of a run."""
    needs_attn: bool = True
    """Whether `decode` reads `Clip.attn`."""
    loss_needs_attn: bool = False
    """Whether `loss` reads `Clip.attn`."""
    targets: tuple[str, ...] = ()
    """Names of the images in `Decoded.recon`: `video`, `flow`, `depth`."""
    method: ClassVar[str] = "decodes each slot at once"
    """What it does, in an error."""
    sampling_options: ClassVar[frozenset[str]] = frozenset()
    """The fields of `SamplingOptions` that it takes."""

    @abstractmethod
    def loss(self, clip: Clip, batch: Batch) -> dict[str, Tensor]:
        """Named, unweighted scalars: means over the clips of the batch."""

    @abstractmethod
    def decode(self, clip: Clip, slot_recon: bool = False, recon: bool = True) -> Decoded:
        """Decode slots to masks, to images unless `recon` is False, and to each slot's own with `slot_recon`."""

    def frozen_tokenizer(self) -> Tokenizer | None:
        """The tokenizer that was trained before the slots; None: it has none, or trains it along with them."""
        return None

    def round_trip(self) -> RoundTrip | None:
        """Frames encoded and decoded by the tokenizer alone, about the best it can decode of slots; None: none."""
        return None

    def set_sampling(self, options: SamplingOptions) -> None:
        """Sample from now on as `options` say; what they leave out stays.

        Raises:
            UserError: an option that means nothing to this decoder.
        """
        options.require(self.sampling_options, self.method)
        self._set_sampling(options)

    def _set_sampling(self, options: SamplingOptions) -> None:
        """Apply options that this decoder takes; nothing for one that takes none."""


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

"""The interface of decoders, and masks from attention."""

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
"""Frames in [0, 1] to the same frames encoded and decoded by a tokenizer alone."""


class Decoder(nn.Module, ABC):
    """Decodes the slots of a clip, and computes the loss that trains them."""

    monitor: ClassVar[str] = "fg_ari"
    """The figure whose highest value marks the best model of a run."""
    needs_attn: bool = True
    """Whether `decode` reads `Clip.attn`."""
    loss_needs_attn: bool = False
    """Whether `loss` reads `Clip.attn`."""
    targets: tuple[str, ...] = ()
    """Names of the images in `Decoded.recon`: `video`, `flow`, `depth`."""
    training_only: tuple[str, ...] = ()
    """Beginnings of the names of tensors that only `loss` needs: saved models are without."""
    compares_clips: bool = False
    """Whether `loss` compares clips with each other, so that it is another where a batch is split."""
    labels: ClassVar[tuple[str, ...]] = ()
    """Keys of a training batch that the loss needs besides frames and `targets`."""
    method: ClassVar[str] = "decodes each slot at once"
    """What the decoder does, for errors."""
    sampling_options: ClassVar[frozenset[str]] = frozenset()
    """The fields of `SamplingOptions` that it takes."""

    @abstractmethod
    def loss(self, clip: Clip, batch: Batch) -> dict[str, Tensor]:
        """Named, unweighted scalars: means over the clips of the batch."""

    @abstractmethod
    def decode(self, clip: Clip, slot_recon: bool = False, recon: bool = True) -> Decoded:
        """Decode slots to masks, to images unless `recon` is False, and to each slot's own with `slot_recon`."""

    def frozen_tokenizer(self) -> Tokenizer | None:
        """The tokenizer that was trained before the slots; None: there is none, or it is trained with them."""
        return None

    def round_trip(self) -> RoundTrip | None:
        """Encode and decode by the tokenizer alone, the best that decoding slots can reach; None: no tokenizer."""
        return None

    def set_sampling(self, options: SamplingOptions) -> None:
        """Change the sampling options; those that are None stay as they are.

        Raises:
            UserError: an option that this decoder does not have.
        """
        options.require(self.sampling_options, self.method)
        self._set_sampling(options)

    def _set_sampling(self, options: SamplingOptions) -> None:
        """Apply options that this decoder has."""


def attention_masks(
    attn: Float[Tensor, "B T K N"], grid: tuple[int, int], resolution: tuple[int, int]
) -> tuple[Float[Tensor, "B T K H W"], Float[Tensor, "B T K H W"]]:
    """Attention over tokens enlarged to the frame, and its logarithm.

    It is enlarged bilinearly, with pixels as cells, before the greatest is taken, as in SlotDiffusion's and STEVE's
    evaluation. The pixels of removed slots are shared by the others; frames without attention, such as predicted ones,
    belong to all slots equally.

    Args:
        attn: softmax over slots; N = 0 where no frame was observed.
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

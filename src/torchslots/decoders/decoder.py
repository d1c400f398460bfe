"""What every decoder offers the model."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from torchslots.shapes import Batch, Clip, Decoded


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

"""What every tokenizer offers: a loss to train it by itself, encoding and decoding."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from torchslots.models.types import Batch
from torchslots.models.weights import save_pretrained

ImageLoss = Callable[[Tensor, Tensor], Tensor]
"""Decoded and true images [n, 3, H, W] to a loss."""


class Tokenizer(nn.Module, ABC):
    """An image to a smaller code and back, trained before the slots and frozen under a decoder of slots.

    Images are in [-1, 1]. `config` is the configuration it was built from, for saving.
    """

    config: Any = None
    load_function: ClassVar[str] = "load_tokenizer"
    monitor: ClassVar[str] = "psnr"
    """The figure whose highest value marks the best model of a run."""

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Named, unweighted scalars over the frames of `batch["video"]` [B, T, 3, H, W] in [0, 1].

        `batch["step"]`, where it is given, is the number of finished updates, for what changes over a training.
        """

    @abstractmethod
    def reconstruct(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
        """Encode and decode, as in evaluation: nothing sampled, nothing soft."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, under the name that wrappers for many processes call."""
        return self.loss(batch)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into a folder that `torchslots.load_tokenizer` reads."""
        save_pretrained(self, self.config, folder)

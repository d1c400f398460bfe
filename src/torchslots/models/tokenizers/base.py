"""The interface of tokenizers: a loss to train one by itself, and encoding followed by decoding."""

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
    """Maps an image to a smaller code and back; trained before the slots and frozen inside a decoder of slots.

    Images are in [-1, 1]. `config` is the configuration it was built from, for saving.
    """

    config: Any = None
    load_function: ClassVar[str] = "load_tokenizer"
    monitor: ClassVar[str] = "psnr"
    """The figure whose highest value marks the best model of a run."""

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Named, unweighted scalars over the frames of `batch["video"]` [B, T, 3, H, W] in [0, 1].

        `batch["step"]` is the number of finished updates, for schedules; missing: training is over.
        """

    @abstractmethod
    def reconstruct(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
        """Encode and decode as in evaluation, without sampling."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, for wrappers such as DistributedDataParallel."""
        return self.loss(batch)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into a folder that `torchslots.load_tokenizer` reads."""
        save_pretrained(self, self.config, folder)

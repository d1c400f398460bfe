"""SlotDiffusion's VQ-VAE: an image as a small map of vectors, moved to a codebook's nearest before decoding.

Wu et al., SlotDiffusion (NeurIPS 2023); the autoencoder is that of latent diffusion (Rombach et al. 2022).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.models.layers.ranges import to_signed
from torchslots.models.tokenizers.base import ImageLoss, Tokenizer
from torchslots.models.types import Batch


class Quantized(NamedTuple):
    """A latent moved to its nearest codes; gradients pass straight through to the latent before."""

    latent: Float[Tensor, "n C h w"]
    codes: Int[Tensor, "n h w"]
    loss: Float[Tensor, ""]


class Codebook(nn.Module):
    """Codes trained by gradients, without moving averages or restarts.

    Args:
        num_codes, code_size: number of codes, and their width.
        codebook_weight: weight of the term that moves codes towards latents; the term that moves latents towards codes
            has weight 1. The paper's equation 3 has them exchanged; this is the original's form.
        spread: codes start uniform between -spread and spread; None: 1 / num_codes, as in the original.
    """

    def __init__(
        self, num_codes: int, code_size: int, codebook_weight: float = 0.25, spread: float | None = None
    ):
        super().__init__()
        self.codebook_weight = codebook_weight
        reach = 1 / num_codes if spread is None else spread
        self.weight = nn.Parameter(torch.empty(num_codes, code_size).uniform_(-reach, reach))

    def forward(self, latent: Float[Tensor, "n C h w"]) -> Quantized:
        codes = self.nearest(latent)
        chosen = self.look_up(codes)
        commitment = F.mse_loss(latent, chosen.detach())
        loss = commitment + self.codebook_weight * F.mse_loss(chosen, latent.detach())
        return Quantized(latent + (chosen - latent).detach(), codes, loss)

    def look_up(self, codes: Int[Tensor, "n h w"]) -> Float[Tensor, "n C h w"]:
        """Vectors of codes."""
        return F.embedding(codes, self.weight).movedim(-1, 1)

    @torch.no_grad()
    def nearest(self, latent: Float[Tensor, "n C h w"]) -> Int[Tensor, "n h w"]:
        """The nearest codes, the lowest among equals; always in float32."""
        vectors = latent.movedim(1, -1).float()
        with torch.autocast(latent.device.type, enabled=False):
            rows = vectors.flatten(0, -2).split(ROWS if vectors.device.type == "cpu" else ROWS_ON_GPU)
            codes = torch.cat([self._distances(part).argmin(1) for part in rows])
        return codes.view(vectors.shape[:-1])

    def _distances(self, rows: Float[Tensor, "m C"]) -> Float[Tensor, "m V"]:
        """Squared distances, as |z|^2 + |e|^2 - 2 z.e in the original's order, which decides near ties."""
        weight = self.weight.float()
        squares = rows.square().sum(1, keepdim=True) + weight.square().sum(1)
        return squares.addmm_(rows, weight.T, alpha=-2)


Perceptual = Callable[[Tensor, Tensor], Tensor]
"""True and decoded images [n, 3, H, W] in [-1, 1] to a distance for each pair."""


class VQVAE(Tokenizer):
    """Encoder, codebook, decoder.

    Args:
        encoder, decoder: images to maps and back (`models/tokenizers/autoencoder.py`).
        to_code, from_code: 1x1 convolutions between the encoder's channels and the codes' width.
        codebook: vectors that latents are moved to.
        perceptual: a distance of images for training, not a submodule, so that its weights are neither trained nor
            saved; None: `error` of pixels alone.
        error: loss of decoded images against true ones, where there is no perceptual distance.
        config: the configuration it was built from, for saving.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        to_code: nn.Module,
        from_code: nn.Module,
        codebook: Codebook,
        perceptual: Perceptual | None = None,
        error: ImageLoss = F.mse_loss,
        config: Any = None,
    ):
        super().__init__()
        self.encoder, self.to_code, self.codebook = encoder, to_code, codebook
        self.from_code, self.decoder = from_code, decoder
        self.perceptual, self.error, self.config = perceptual, error, config

    def encode(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n C h w"]:
        """Latents before they are moved to the nearest codes: the data of a diffusion model."""
        return self.to_code(self.encoder(images))

    def quantize(self, latent: Float[Tensor, "n C h w"]) -> Quantized:
        """The nearest codes, their vectors, and the loss of the distance to them."""
        return self.codebook(latent)

    def decode(self, latent: Float[Tensor, "n C h w"], quantize: bool = True) -> Float[Tensor, "n 3 H W"]:
        """Decode latents, by default moved to the nearest codes first."""
        return self.decoder(self.from_code(self.quantize(latent).latent if quantize else latent))

    def reconstruct(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
        return self.decode(self.encode(images))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`recon` and `quant`; with a perceptual distance also `percept`, and `recon` is the mean absolute error."""
        images = to_signed(batch["video"].flatten(0, 1))
        quantized = self.quantize(self.encode(images))
        decoded = self.decode(quantized.latent, quantize=False)
        if self.perceptual is None:
            return {"recon": self.error(decoded, images), "quant": quantized.loss}
        percept = self.perceptual(images, decoded).mean()
        return {"recon": F.l1_loss(decoded, images), "quant": quantized.loss, "percept": percept}


ROWS, ROWS_ON_GPU = 1024, 16_384
"""Vectors whose distances to all codes are in memory at once: 16 MB with 4,096 codes, about a processor's cache (3.5
times as fast as all at once); 256 MB on a GPU, which is faster with larger pieces."""

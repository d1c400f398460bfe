"""SlotDiffusion's VQ-VAE: a picture as a small map of vectors, snapped to a codebook before it is drawn again.

Wu et al., SlotDiffusion (NeurIPS 2023); the autoencoder is that of latent diffusion (Rombach et al. 2022).
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.latents.codebook import Codebook, Quantized
from torchslots.latents.tokenizer import PictureError, Tokenizer
from torchslots.nn.ranges import to_signed
from torchslots.shapes import Batch

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""True and drawn pictures [n, 3, H, W] in [-1, 1] to a distance for each pair."""


class VQVAE(Tokenizer):
    """Encoder, codebook, decoder.

    Args:
        encoder, decoder: pictures to maps and back (`latents/pyramid.py`).
        to_code, from_code: 1x1 convolutions between the encoder's channels and the codes' width.
        codebook: what latents are snapped to.
        perceptual: a distance of pictures for training; None: squared error of pixels alone. Its weights are nobody's
            to train or to save, so it is no module here.
        error: of drawn pictures, given the true ones, where there is no perceptual distance.
        config: the numbers it was built from, for saving.
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
        error: PictureError = F.mse_loss,
        config: Any = None,
    ):
        super().__init__()
        self.encoder, self.to_code, self.codebook = encoder, to_code, codebook
        self.from_code, self.decoder = from_code, decoder
        self.perceptual, self.error, self.config = perceptual, error, config

    def encode(self, pictures: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n C h w"]:
        """Latents before they are snapped: what diffusion starts from."""
        return self.to_code(self.encoder(pictures))

    def quantize(self, latent: Float[Tensor, "n C h w"]) -> Quantized:
        """The nearest codes, their vectors and the loss of being far from them."""
        return self.codebook(latent)

    def decode(self, latent: Float[Tensor, "n C h w"], quantize: bool = True) -> Float[Tensor, "n 3 H W"]:
        """Pictures of latents, by default snapped first."""
        snapped = self.quantize(latent).latent if quantize else latent
        return self.decoder(self.from_code(snapped))

    def reconstruct(self, pictures: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
        return self.decode(self.encode(pictures))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`recon`: mean absolute error beside a perceptual term, `error` without; `quant`; `percept`."""
        pictures = to_signed(batch["video"].flatten(0, 1))
        snapped = self.quantize(self.encode(pictures))
        drawn = self.decode(snapped.latent, quantize=False)
        if self.perceptual is None:
            return {"recon": self.error(drawn, pictures), "quant": snapped.loss}
        percept = self.perceptual(pictures, drawn).mean()
        return {"recon": F.l1_loss(drawn, pictures), "quant": snapped.loss, "percept": percept}

"""Vector quantisation with a codebook that is learned by gradient (van den Oord et al. 2017)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

ROWS, ROWS_ON_GPU = 1024, 16_384
"""Vectors whose distances to all codes are held at once: 16 MB with 4,096 codes, which a processor's cache nearly holds
(3.5 times as fast as all at once), 256 MB on a GPU, which wants larger pieces."""


class Quantized(NamedTuple):
    """A latent snapped to its nearest codes; gradients pass straight through to what was snapped."""

    latent: Float[Tensor, "n C h w"]
    codes: Int[Tensor, "n h w"]
    loss: Float[Tensor, ""]


class Codebook(nn.Module):
    """Nearest code of each place, no moving averages and no restarts.

    Args:
        num_codes, code_size: how many codes, and their width.
        codebook_weight: weight of the term that moves codes towards latents; the term that moves latents towards codes
            has weight 1. The paper's equation 3 has it the other way round; the original kept this form.
        spread: codes start at random within this distance of 0, on each axis; None: 1 / num_codes, as the original's.
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
        """The codes' vectors."""
        return F.embedding(codes, self.weight).movedim(-1, 1)

    @torch.no_grad()
    def nearest(self, latent: Float[Tensor, "n C h w"]) -> Int[Tensor, "n h w"]:
        """The lowest of the nearest codes, in float32 whatever the precision around."""
        vectors = latent.movedim(1, -1).float()
        with torch.autocast(latent.device.type, enabled=False):
            rows = vectors.flatten(0, -2).split(ROWS if vectors.device.type == "cpu" else ROWS_ON_GPU)
            codes = torch.cat([self._distances(part).argmin(1) for part in rows])
        return codes.view(vectors.shape[:-1])

    def _distances(self, rows: Float[Tensor, "m C"]) -> Float[Tensor, "m V"]:
        """Squared, as |z|^2 + |e|^2 - 2 z.e in this order: what rounds alike chooses alike."""
        weight = self.weight.float()
        squares = rows.square().sum(1, keepdim=True) + weight.square().sum(1)
        return squares - 2 * rows @ weight.T

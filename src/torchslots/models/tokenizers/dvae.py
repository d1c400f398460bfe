"""STEVE's discrete VAE: an image as a map of tokens, each of which sees its own 4x4 pixels alone.

Singh, Wu, Ahn, Simple Unsupervised Object-Centric Learning for Complex and Naturalistic Videos (NeurIPS 2022), after
DALL-E's (Ramesh et al. 2021); in the form that SlotDiffusion's authors train first and freeze for their STEVE.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.models.layers.ranges import to_signed
from torchslots.models.tokenizers.base import ImageLoss, Tokenizer
from torchslots.models.types import Batch

PATCH = 4
"""Pixels of a token's side."""


class DVAE(Tokenizer):
    """Encoder to scores over a vocabulary, decoder from one-hot or soft choices.

    Args:
        encoder: images [n, 3, H, W] to scores [n, V, h, w].
        decoder: choices [n, V, h, w] to images.
        vocabulary: V, how many tokens there are.
        temperature: of the soft choice, from the number of finished updates (None: training is over).
        hard: choose one token in training, too; gradients as if the choice were soft.
        error: of painted images, given the true ones.
        config: the numbers it was built from, for saving.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        vocabulary: int,
        temperature: Callable[[int | None], float],
        hard: bool = False,
        error: ImageLoss = F.mse_loss,
        config: Any = None,
    ):
        super().__init__()
        self.error = error
        self.encoder, self.decoder, self.vocabulary = encoder, decoder, vocabulary
        self.temperature, self.hard, self.config = temperature, hard, config

    def logits(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n V h w"]:
        """Scores of the tokens, not normalised."""
        return self.encoder(images)

    def codes(self, images: Float[Tensor, "n 3 H W"]) -> Int[Tensor, "n N"]:
        """The likeliest token of each place, row by row."""
        return self.logits(images).argmax(1).flatten(1)

    def decode(self, choices: Float[Tensor, "n V h w"]) -> Float[Tensor, "n 3 H W"]:
        """Images of choices that sum to one over the vocabulary; not clamped."""
        return self.decoder(choices)

    def decode_codes(
        self, codes: Int[Tensor, "n N"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "n 3 H W"]:
        """Images of tokens, row by row.

        Args:
            grid: rows and columns of tokens; None: as many of each.
        """
        rows, columns = grid or (math.isqrt(codes.shape[1]),) * 2
        chosen = one_hot(codes.unflatten(1, (rows, columns)), self.vocabulary)
        return self.decode(chosen.to(next(self.decoder.parameters()).dtype))

    def reconstruct(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
        logits = self.logits(images)
        return self.decode(one_hot(logits.argmax(1), self.vocabulary).to(logits.dtype))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`recon`: the error, by default the mean square, behind a soft choice, in [-1, 1].

        `batch["exponential"]`, E draws like the scores, replaces what is drawn from torch's generator.
        """
        images = to_signed(batch["video"].flatten(0, 1))
        tau = self.temperature(batch.get("step"))
        chosen = gumbel_softmax(self.logits(images), tau, batch.get("exponential"), self.hard)
        return {"recon": self.error(self.decode(chosen), images)}


def cosine_temperature(step: int | None, *, start: float, end: float, num_steps: float) -> float:
    """`start` falling along half a cosine to `end` in `num_steps` updates, `end` from there on and for None."""
    if step is None or step >= num_steps:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / num_steps)) / 2


def gumbel_softmax(
    logits: Float[Tensor, "n V *s"],
    temperature: float,
    exponential: Float[Tensor, "n V *s"] | None = None,
    hard: bool = False,
) -> Float[Tensor, "n V *s"]:
    """A soft draw from a categorical distribution (Jang et al. 2017), along axis 1, in float32.

    Args:
        exponential: unit exponential draws; None: drawn from torch's generator.
        hard: one-hot with the soft draw's gradient.
    """
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
    drawn = torch.empty_like(scores).exponential_() if exponential is None else exponential
    noise = -torch.log(drawn + torch.finfo(scores.dtype).tiny)
    soft = ((scores + noise) / temperature).softmax(1)
    if not hard:
        return soft
    return one_hot(soft.argmax(1), soft.shape[1]) - soft.detach() + soft


def one_hot(codes: Int[Tensor, "n *s"], vocabulary: int) -> Float[Tensor, "n V *s"]:
    """1.0 at each place's token, 0.0 elsewhere."""
    zeros = torch.zeros(codes.shape[0], vocabulary, *codes.shape[1:], device=codes.device)
    return zeros.scatter_(1, codes.unsqueeze(1), 1.0)


class ConvBlock(nn.Sequential):
    """Convolution without bias, group norm of one group, ReLU.

    Args:
        norm: whether there is a norm; without it the convolution has a bias, as in STEVE's original.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int = 0, norm: bool = True
    ):
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=not norm)
        nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        super().__init__(conv, *([nn.GroupNorm(1, outputs)] if norm else []), nn.ReLU())


def patch_encoder(vocabulary: int, channels: int = 64, norm: bool = True) -> nn.Sequential:
    """Images to scores, one 4x4 patch at a time: nothing mixes places.

    Args:
        norm: group norm behind each convolution but the last.
    """
    blocks = [ConvBlock(channels, channels, norm=norm) for _ in range(6)]
    first = ConvBlock(3, channels, PATCH, PATCH, norm=norm)
    return nn.Sequential(first, *blocks, _plain_conv(channels, vocabulary))


def patch_decoder(vocabulary: int, channels: int = 64, norm: bool = True) -> nn.Sequential:
    """Choices to images: twice a 3x3 convolution and a doubling of the sides; no squashing behind.

    Args:
        norm: group norm behind each convolution but the last.
    """
    first = ConvBlock(vocabulary, channels, norm=norm)
    doublings = [part for _ in range(2) for part in _doubling(channels, norm)]
    return nn.Sequential(first, *doublings, _plain_conv(channels, 3))


def _doubling(channels: int, norm: bool) -> list[nn.Module]:
    mixing = ConvBlock(channels, channels, 3, padding=1, norm=norm)
    blocks = [ConvBlock(channels, channels, norm=norm) for _ in range(2)]
    return [mixing, *blocks, ConvBlock(channels, 4 * channels, norm=norm), nn.PixelShuffle(2)]


@torch.no_grad()
def part_scores(encoder: nn.Sequential, factor: float) -> nn.Sequential:
    """Start with scores that differ from place to place by `factor` times as much; returns the encoder.

    Each token's weights are centred, so that what all places have in common says nothing, then multiplied. As they
    start otherwise, the noise of the soft choice hides nearly all differences, the quickest way to less noise is the
    same token everywhere, and only after many steps are others used again.
    """
    last = encoder[-1]
    assert isinstance(last, nn.Conv2d)
    last.weight.sub_(last.weight.mean(1, keepdim=True)).mul_(factor)
    return encoder


def _plain_conv(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.xavier_uniform_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv

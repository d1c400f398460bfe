"""STEVE's discrete VAE: an image as a map of codes, one for each 4x4 pixels.

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
"""Height and width of a code's pixels."""


class DVAE(Tokenizer):
    """Encoder to scores over a vocabulary of codes, decoder from one-hot or soft codes.

    Args:
        encoder: images [n, 3, H, W] to scores [n, V, h, w].
        decoder: codes [n, V, h, w], one-hot or soft, to images.
        vocabulary: V, the number of codes.
        temperature: of soft codes, from the number of finished updates (None: training is over).
        hard: also use one-hot codes in training, with the gradient of soft ones.
        error: loss of decoded images against true ones.
        config: the configuration it was built from, for saving.
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
        """Scores of the codes, not normalised."""
        return self.encoder(images)

    def codes(self, images: Float[Tensor, "n 3 H W"]) -> Int[Tensor, "n N"]:
        """The most likely code of each place, row by row."""
        return self.logits(images).argmax(1).flatten(1)

    def decode(self, choices: Float[Tensor, "n V h w"]) -> Float[Tensor, "n 3 H W"]:
        """Decode one-hot or soft codes, which sum to one over the vocabulary; images are not clamped."""
        return self.decoder(choices)

    def decode_codes(
        self, codes: Int[Tensor, "n N"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "n 3 H W"]:
        """Decode codes given row by row.

        Args:
            grid: rows and columns of codes; None: a square.
        """
        rows, columns = grid or (math.isqrt(codes.shape[1]),) * 2
        chosen = one_hot(codes.unflatten(1, (rows, columns)), self.vocabulary)
        return self.decode(chosen.to(next(self.decoder.parameters()).dtype))

    def reconstruct(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
        logits = self.logits(images)
        return self.decode(one_hot(logits.argmax(1), self.vocabulary).to(logits.dtype))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`recon`: error of images in [-1, 1] decoded from sampled codes, by default the mean square.

        `batch["exponential"]`, unit exponential noise in the shape of the scores, replaces that of torch's generator.
        """
        images = to_signed(batch["video"].flatten(0, 1))
        temperature = self.temperature(batch.get("step"))
        sampled = gumbel_softmax(self.logits(images), temperature, batch.get("exponential"), self.hard)
        return {"recon": self.error(self.decode(sampled), images)}


def cosine_temperature(step: int | None, *, start: float, end: float, num_steps: float) -> float:
    """Half a cosine from `start` to `end` over `num_steps` updates; `end` after them and for None."""
    if step is None or step >= num_steps:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / num_steps)) / 2


def gumbel_softmax(
    logits: Float[Tensor, "n V *s"],
    temperature: float,
    exponential: Float[Tensor, "n V *s"] | None = None,
    hard: bool = False,
) -> Float[Tensor, "n V *s"]:
    """A soft sample of a categorical distribution (Jang et al. 2017), along axis 1, at least in float32.

    Args:
        exponential: unit exponential noise; None: from torch's generator.
        hard: one-hot, with the gradient of the soft sample.
    """
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
    if exponential is None:
        exponential = torch.empty_like(scores).exponential_()
    noise = -torch.log(exponential + torch.finfo(scores.dtype).tiny)
    soft = ((scores + noise) / temperature).softmax(1)
    if not hard:
        return soft
    return one_hot(soft.argmax(1), soft.shape[1]) - soft.detach() + soft


def one_hot(codes: Int[Tensor, "n *s"], vocabulary: int) -> Float[Tensor, "n V *s"]:
    """1.0 at each place's code, 0.0 elsewhere."""
    zeros = torch.zeros(codes.shape[0], vocabulary, *codes.shape[1:], device=codes.device)
    return zeros.scatter_(1, codes.unsqueeze(1), 1.0)


class ConvBlock(nn.Sequential):
    """Convolution without bias, group norm of one group, ReLU.

    Args:
        norm: False: no norm, but a bias of the convolution, as in STEVE's original.
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
    """Images to scores; each 4x4 patch is encoded by itself.

    Args:
        norm: group norm after each convolution but the last.
    """
    blocks = [ConvBlock(channels, channels, norm=norm) for _ in range(6)]
    first = ConvBlock(3, channels, PATCH, PATCH, norm=norm)
    return nn.Sequential(first, *blocks, _plain_conv(channels, vocabulary))


def patch_decoder(vocabulary: int, channels: int = 64, norm: bool = True) -> nn.Sequential:
    """Codes to images: a 3x3 convolution and a doubling of height and width, twice; no final activation.

    Args:
        norm: group norm after each convolution but the last.
    """
    layers: list[nn.Module] = [ConvBlock(vocabulary, channels, norm=norm)]
    for _ in range(2):
        layers.append(ConvBlock(channels, channels, 3, padding=1, norm=norm))
        layers += [ConvBlock(channels, size, norm=norm) for size in (channels, channels, 4 * channels)]
        layers.append(nn.PixelShuffle(2))
    return nn.Sequential(*layers, _plain_conv(channels, 3))


@torch.no_grad()
def part_scores(encoder: nn.Sequential, factor: float) -> nn.Sequential:
    """Make initial scores differ `factor` times as much from place to place; returns the encoder.

    Each code's weights are centred, so that features common to all places cancel, then multiplied. With the usual
    initialisation the noise of the soft sample hides nearly all differences, training first takes the same code
    everywhere, and other codes return only after many steps.
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

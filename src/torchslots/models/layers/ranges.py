"""Ranges of images: [0, 1] in batches, [-1, 1] in some systems, bytes in files."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


def to_signed(image: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """[0, 1] to [-1, 1]."""
    return image * 2 - 1


def from_signed(image: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """[-1, 1] to [0, 1]."""
    return image / 2 + 0.5


def to_bytes(images: Float[Tensor, "*b"]) -> UInt8[Tensor, "*b"]:
    """[0, 1] to bytes, clamped."""
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8)


class Signed(nn.Module):
    """`to_signed` as the first layer of an encoder."""

    def forward(self, image: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return to_signed(image)

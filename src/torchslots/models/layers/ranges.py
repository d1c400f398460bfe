"""Ranges of pictures: batches hold [0, 1], some systems compute in [-1, 1], files hold bytes."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


def to_signed(picture: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """[0, 1] to [-1, 1]."""
    return picture * 2 - 1


def from_signed(picture: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """[-1, 1] to [0, 1]."""
    return picture / 2 + 0.5


def to_bytes(pictures: Float[Tensor, "*b"]) -> UInt8[Tensor, "*b"]:
    """Values in [0, 1] as image files hold them; what lies outside is cut off."""
    return (pictures.float().clamp(0, 1) * 255).round().to(torch.uint8)


class Signed(nn.Module):
    """`to_signed` as the first layer of an encoder."""

    def forward(self, picture: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return to_signed(picture)

"""Ranges of pictures: batches hold [0, 1], some systems compute in [-1, 1]."""

from jaxtyping import Float
from torch import Tensor, nn


def to_signed(picture: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """[0, 1] to [-1, 1]."""
    return picture * 2 - 1


def from_signed(picture: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """[-1, 1] to [0, 1]."""
    return picture / 2 + 0.5


class Signed(nn.Module):
    """`to_signed` as the first layer of an encoder."""

    def forward(self, picture: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return to_signed(picture)

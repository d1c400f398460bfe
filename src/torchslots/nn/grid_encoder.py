"""Places as each slot sees them, mixed into tokens: a perceptron over all pairs of slots and tokens, made cheap."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.nn.blocks import layer_norm
from torchslots.nn.init import dense


def at_least_single(values: Tensor) -> Tensor:
    """Half precision widened: places and spreads need more digits than it has."""
    return values if values.dtype == torch.float64 else values.float()


class Laid(NamedTuple):
    """What a token contributes to the grid encoder's hidden layer, whoever looks at it."""

    hidden: Float[Tensor, "*b N h"]
    """The first layer's response to the centred token."""
    square: Float[Tensor, "*b N"]
    """Mean square of the centred token."""
    cross: Float[Tensor, "*b N 2"]
    """Mean product of the centred token with the projections of y and x."""


class GridEncoder(nn.Module):
    """A perceptron with layer norm over token plus projected place, for every pair of slot and token.

    Computed as it stands it costs two wide matrix products for each pair. Three identities leave none: the norm's
    centring and the first layer are linear, so tokens and places go through them apart; the norm's variance is a
    quadratic form in the two coordinates; and the last layer moves behind the sum over tokens (`gather`) or onto the
    queries (`score`).
    """

    def __init__(self, size: int, hidden_size: int):
        super().__init__()
        self.project = dense(2, size)
        self.norm, self.first, self.last = (
            layer_norm(size),
            dense(size, hidden_size),
            dense(hidden_size, size),
        )

    def forward(
        self, tokens: Float[Tensor, "*b N d"], seen: Float[Tensor, "*b N 2"]
    ) -> Float[Tensor, "*b N d"]:
        """As it stands, for tokens that one slot sees."""
        return self.last(F.relu(self.first(self.norm(tokens + self.project(seen)))))

    def _centred(self) -> tuple[Float[Tensor, "h d"], Float[Tensor, "d 2"]]:
        """The first layer with the norm's gain, and the projection of places with the norm's centring."""
        weight = self.project.weight
        return self.first.weight * self.norm.weight, weight - weight.mean(0)

    def lay(self, tokens: Float[Tensor, "*b N d"]) -> Laid:
        """Once for all slots and rounds."""
        first, places = self._centred()
        moved = tokens + self.project.bias
        moved = moved - moved.mean(-1, keepdim=True)
        with torch.autocast(tokens.device.type, enabled=False):
            exact = at_least_single(moved)
            cross = exact @ at_least_single(places) / places.shape[0]
        return Laid(F.linear(moved, first), exact.square().mean(-1), cross)

    def hidden(self, laid: Laid, seen: Float[Tensor, "*b K N 2"]) -> Float[Tensor, "*b K N h"]:
        """The hidden layer of every pair."""
        first, places = self._centred()
        along_y, along_x = places.unbind(-1)
        yy, xx, yx = along_y.square().mean(), along_x.square().mean(), (along_y * along_x).mean()
        y, x = seen.unbind(-1)
        cross_y, cross_x = laid.cross[..., None, :, :].unbind(-1)
        linear, quadratic = cross_y * y + cross_x * x, yy * y * y + xx * x * x + 2 * yx * y * x
        variance = laid.square[..., None, :] + 2 * linear + quadratic
        gain = (variance.clamp(min=0) + self.norm.eps).rsqrt()[..., None]
        shift = F.linear(self.norm.bias, self.first.weight, self.first.bias)
        places_part = F.linear(seen * gain, first @ places, shift)
        return torch.addcmul(places_part, laid.hidden[..., None, :, :], gain.to(laid.hidden.dtype)).relu_()

    def score(
        self, hidden: Float[Tensor, "*b K N h"], queries: Float[Tensor, "*b K d"]
    ) -> Float[Tensor, "*b K N"]:
        """Products of queries with encoded tokens."""
        folded = queries @ self.last.weight
        return (hidden @ folded[..., None]).squeeze(-1) + (queries @ self.last.bias)[..., None]

    def gather(
        self, hidden: Float[Tensor, "*b K N h"], weights: Float[Tensor, "*b K N"]
    ) -> Float[Tensor, "*b K d"]:
        """Sums of encoded tokens."""
        mixed = (weights[..., None, :] @ hidden).squeeze(-2)
        return F.linear(mixed, self.last.weight) + weights.sum(-1, keepdim=True) * self.last.bias

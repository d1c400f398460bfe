"""Coordinate grids relative to the poses of slots.

Coordinates are (y, x) in [-1, 1] over the image. A rotation's columns are a pose's axes as (x, y) vectors, y pointing
down, as in the originals.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.models.layers.blocks import layer_norm
from torchslots.models.layers.init import dense
from torchslots.models.layers.position import coordinate_grid, require_size
from torchslots.models.types import Pose


def turn(offsets: Float[Tensor, "*b N 2"], rotation: Float[Tensor, "*#b 2 2"]) -> Float[Tensor, "*b N 2"]:
    """Offsets (y, x) from a slot's position in coordinates along its axes, second axis first."""
    ((xx, xy), (yx, yy)) = (row.unbind(-1) for row in rotation[..., None, :, :].unbind(-2))
    y, x = offsets.unbind(-1)
    return torch.stack([x * xy + y * yy, x * xx + y * yx], -1)


def seen_from(
    grid: Float[Tensor, "*b N 2"], pose: Pose, scale_factor: float = 1.0
) -> Float[Tensor, "*b K N 2"]:
    """The grid relative to each slot's pose: shifted, rotated and divided by the scale, by the parts that a pose has.

    Args:
        scale_factor: multiplies the scale.
    """
    offsets = grid[..., None, :, :] - pose.position[..., None, :]
    if pose.rotation is not None:
        offsets = turn(offsets, pose.rotation)
    if pose.scale is not None:
        offsets = offsets / (scale_factor * pose.scale[..., None, :])
    return offsets


class AppendGrid(nn.Module):
    """Append each cell's (y, x) as two channels, for a corrector that fits poses.

    Raises:
        UserError: called with a feature map of another size.
    """

    grid: Tensor

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.register_buffer("grid", coordinate_grid(*size))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C+2 H W"]:
        require_size(x, self.grid)
        return torch.cat([x, self.grid.permute(2, 0, 1).expand(len(x), -1, -1, -1)], 1)


class RelativePosition(nn.Module):
    """Add a linear map of the grid relative to each slot (Biza et al. 2023), in the decoder.

    Args:
        scale_factor: as in `seen_from`.
    """

    grid: Tensor

    def __init__(self, size: tuple[int, int], channels: int, *, scale_factor: float = 1.0):
        super().__init__()
        self.register_buffer("grid", coordinate_grid(*size))
        self.project, self.scale_factor = dense(2, channels), scale_factor

    def forward(self, x: Float[Tensor, "n C H W"], pose: Pose) -> Float[Tensor, "n C H W"]:
        """The first axis of `x` and of every part of `pose` is that of slots."""
        seen = seen_from(self.grid.flatten(0, 1), pose, self.scale_factor)
        return x + self.project(seen).unflatten(-2, tuple(self.grid.shape[:2])).permute(0, 3, 1, 2)

    def taken_apart(
        self, slots: Float[Tensor, "n C"], position: Float[Tensor, "n 2"]
    ) -> tuple[Float[Tensor, "n C"], Float[Tensor, "1 C H W"]]:
        """`forward` of tiled slots as a sum, for poses that are positions: each slot's constant, and a shared map."""
        shared = self.project(self.grid).permute(2, 0, 1)[None]
        return slots - F.linear(position, self.project.weight), shared


def at_least_single(values: Tensor) -> Tensor:
    """Half precision as float32, for positions and scales."""
    return values if values.dtype == torch.float64 else values.float()


class Laid(NamedTuple):
    """A token's part of the grid encoder's hidden layer, the same for all slots."""

    hidden: Float[Tensor, "*b N h"]
    """The first layer's response to the centred token."""
    square: Float[Tensor, "*b N"]
    """Mean square of the centred token."""
    cross: Float[Tensor, "*b N 2"]
    """Mean product of the centred token with the projections of y and x."""


class GridEncoder(nn.Module):
    """A perceptron with layer norm on token plus projected position, for every pair of slot and token.

    Computed directly it needs two wide matrix products for each pair. Three identities avoid them: the norm's centring
    and the first layer are linear, so they apply to tokens and positions separately; the norm's variance is quadratic
    in the two coordinates; and the last layer can follow the sum over tokens (`gather`) or apply to the queries
    (`score`).
    """

    def __init__(self, size: int, hidden_size: int):
        super().__init__()
        self.project = dense(2, size)
        self.norm, self.first = layer_norm(size), dense(size, hidden_size)
        self.last = dense(hidden_size, size)

    def forward(
        self, tokens: Float[Tensor, "*b N d"], seen: Float[Tensor, "*b N 2"]
    ) -> Float[Tensor, "*b N d"]:
        """Direct computation for tokens relative to one slot."""
        return self.last(F.relu(self.first(self.norm(tokens + self.project(seen)))))

    def _centred(self) -> tuple[Float[Tensor, "h d"], Float[Tensor, "d 2"]]:
        """The first layer with the norm's gain, and the projection of positions with the norm's centring."""
        weight = self.project.weight
        return self.first.weight * self.norm.weight, weight - weight.mean(0)

    def lay(self, tokens: Float[Tensor, "*b N d"]) -> Laid:
        """Tokens prepared once for all slots and rounds."""
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

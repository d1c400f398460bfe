"""A slot's frame of reference as geometry: the coordinate grid as the slot sees it.

Coordinates are (y, x) in [-1, 1] over the picture. A rotation's columns are the frame's axes as (x, y) vectors, y
pointing down: the convention of the originals' state vectors.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.nn.init import dense
from torchslots.nn.position import coordinate_grid, require_size
from torchslots.shapes import Pose


def turn(offsets: Float[Tensor, "*b N 2"], rotation: Float[Tensor, "*#b 2 2"]) -> Float[Tensor, "*b N 2"]:
    """Offsets (y, x) from a slot's position as coordinates along its own axes, second axis first."""
    ((xx, xy), (yx, yy)) = (row.unbind(-1) for row in rotation[..., None, :, :].unbind(-2))
    y, x = offsets.unbind(-1)
    return torch.stack([x * xy + y * yy, x * xx + y * yx], -1)


def seen_from(
    grid: Float[Tensor, "*b N 2"], pose: Pose, scale_factor: float = 1.0
) -> Float[Tensor, "*b K N 2"]:
    """The grid relative to each slot: moved, turned and scaled into its frame, as far as the frame goes.

    Args:
        scale_factor: divides once more; scales are small, and the grid in their units is large.
    """
    offsets = grid[..., None, :, :] - pose.position[..., None, :]
    if pose.rotation is not None:
        offsets = turn(offsets, pose.rotation)
    if pose.scale is not None:
        offsets = offsets / (scale_factor * pose.scale[..., None, :])
    return offsets


class AppendGrid(nn.Module):
    """Two more channels that say where each cell is, for a corrector that gives slots frames of reference."""

    grid: Tensor

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.register_buffer("grid", coordinate_grid(*size))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C+2 H W"]:
        """Raises UserError where the feature map has another size than the grid."""
        require_size(x, self.grid)
        return torch.cat([x, self.grid.permute(2, 0, 1).expand(len(x), -1, -1, -1)], 1)


class RelativePosition(nn.Module):
    """Add a linear map of the grid as each slot sees it (Biza et al. 2023): the decoder's side.

    Args:
        size: height and width of the grid.
        scale_factor: as in `seen_from`.
    """

    grid: Tensor

    def __init__(self, size: tuple[int, int], channels: int, *, scale_factor: float = 1.0):
        super().__init__()
        self.register_buffer("grid", coordinate_grid(*size))
        self.project, self.scale_factor = dense(2, channels), scale_factor

    def forward(self, x: Float[Tensor, "n C H W"], pose: Pose) -> Float[Tensor, "n C H W"]:
        """Slots are along the first axis of `x` and of every part of `pose`."""
        seen = seen_from(self.grid.flatten(0, 1), pose, self.scale_factor)
        return x + self.project(seen).unflatten(-2, tuple(self.grid.shape[:2])).permute(0, 3, 1, 2)

    def taken_apart(
        self, slots: Float[Tensor, "n C"], position: Float[Tensor, "n 2"]
    ) -> tuple[Float[Tensor, "n C"], Float[Tensor, "1 C H W"]]:
        """What a slot is everywhere and what all slots share, for frames that only move: the map is linear in grid -
        position, and the sum of both is `forward` of tiled slots."""
        shared = self.project(self.grid).permute(2, 0, 1)[None]
        return slots - F.linear(position, self.project.weight), shared

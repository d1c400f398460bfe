"""Position embeddings from coordinate grids."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.io.errors import UserError
from torchslots.models.layers.init import dense


def coordinate_grid(height: int, width: int) -> Float[Tensor, "H W 2"]:
    """(y, x) of each cell from -1 to 1, both ends included."""
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)


def waves(coordinates: Float[Tensor, "*b c"], frequencies: int) -> Float[Tensor, "*b p"]:
    """Coordinates from -1 to 1, and their sines and cosines at so many frequencies.

    The lowest frequency has one period over two images, each other twice that of the one before (Mildenhall et al.
    2020, equation 4, with halved frequencies).
    """
    angles = [coordinates * math.pi * 2.0**i / 2 for i in range(frequencies)]
    return torch.cat(
        [coordinates, *(wave(angle) for angle in angles for wave in (torch.sin, torch.cos))], dim=-1
    )


def wave_grid(height: int, width: int, frequencies: int = 4) -> Float[Tensor, "H W p"]:
    """`waves` of each cell of `coordinate_grid`."""
    return waves(coordinate_grid(height, width), frequencies)


def soft_grid(height: int, width: int) -> Float[Tensor, "H W 4"]:
    """(y, x, 1 - y, 1 - x) of each cell, from 0 to 1 (Locatello et al. 2020, appendix E)."""
    near = (coordinate_grid(height, width) + 1) / 2
    return torch.cat([near, 1 - near], dim=-1)


def cell_grid(height: int, width: int) -> Float[Tensor, "H W 4"]:
    """(y, x, 1 - y, 1 - x) of each cell's centre, the image's edges at 0 and 1: STEVE's original."""
    rows, columns = (torch.arange(0.5, size) / size for size in (height, width))
    near = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    return torch.cat([near, 1 - near], dim=-1)


def require_size(x: Float[Tensor, "*b C H W"], grid: Tensor) -> None:
    """Check that a feature map has the size of the grid [H, W, ...].

    Raises:
        UserError: it has another size.
    """
    if x.shape[-2:] != grid.shape[:2]:
        raise UserError(
            f"The frames have another size than the model was built for, with feature maps of {tuple(grid.shape[:2])}; "
            f"these are {tuple(x.shape[-2:])}. Resize the frames to `resolution` in the model's configuration (in "
            "training, `data.resolution` and `data.crop`), or build it for this one."
        )


class PositionEmbedding(nn.Module):
    """Add a linear map of a coordinate grid to features of one fixed size (SAVi, appendix A).

    Args:
        grid: (height, width) to the positions of a map's cells.
        stored: store the grid in checkpoints, as SAVi's originals do; a stored grid replaces the computed one.

    Raises:
        UserError: called with a feature map of another size.
    """

    grid: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        *,
        grid: Callable[[int, int], Float[Tensor, "H W p"]] = coordinate_grid,
        stored: bool = True,
    ):
        super().__init__()
        self.register_buffer("grid", grid(*size), persistent=stored)
        self.project = dense(self.grid.shape[-1], channels)

    def forward(self, x: Float[Tensor, "*b C H W"]) -> Float[Tensor, "*b C H W"]:
        require_size(x, self.grid)
        return x + self.project(self.grid).permute(2, 0, 1)


def resample_positions(
    positions: Float[Tensor, "N C"], grid: tuple[int, int], new_grid: tuple[int, int]
) -> Float[Tensor, "M C"]:
    """Embeddings of a grid's cells, row by row, for another grid: bicubic with antialiasing, in float32."""
    if grid == new_grid:
        return positions
    maps = positions.float().T.unflatten(1, grid)[None]
    found = F.interpolate(maps, new_grid, mode="bicubic", antialias=True, align_corners=False)
    return found[0].flatten(1).T.to(positions.dtype)


class LearnedPositions(nn.Module):
    """One learned vector for each cell of a grid; resampled for another grid.

    Args:
        grid: rows and columns.
    """

    def __init__(self, grid: tuple[int, int], size: int):
        super().__init__()
        self.grid = grid
        self.table = nn.Parameter(torch.randn(grid[0] * grid[1], size) * size**-0.5)

    def forward(self, grid: tuple[int, int] | None = None) -> Float[Tensor, "N C"]:
        """Vectors of all cells, row by row; `grid` None: the learned one."""
        return resample_positions(self.table, self.grid, grid or self.grid)

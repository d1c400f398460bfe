"""Sizes that configurations of models compute and check."""

import math
from collections.abc import Sequence

from torchslots.io.errors import UserError


def reduced(resolution: tuple[int, int], factor: int) -> tuple[int, int]:
    """Height and width of a feature map `factor` times smaller than the frame, rounded up."""
    return -(-resolution[0] // factor), -(-resolution[1] // factor)


def decoded_size(grid: tuple[int, int], strides: Sequence[int]) -> tuple[int, int]:
    """Height and width of the images of a broadcast decoder."""
    factor = math.prod(strides)
    return grid[0] * factor, grid[1] * factor


def patch_size(grid: tuple[int, int], resolution: tuple[int, int]) -> int:
    """Pixels along each side of the square patch that each cell of a decoder's grid decodes.

    Raises:
        UserError: no whole number of pixels, or none that is the same in both directions.
    """
    patch = resolution[0] // grid[0]
    if (grid[0] * patch, grid[1] * patch) != tuple(resolution):
        raise UserError(
            f"Cells of a grid of {tuple(grid)} have no square patches in frames of {tuple(resolution)}. Change "
            "decoder.grid."
        )
    return patch


def require_decoded(
    size: tuple[int, int], resolution: tuple[int, int], fields: str = "decoder.grid or decoder.strides"
) -> None:
    """Check that slots are decoded to images of the frames' size.

    Args:
        fields: what to change otherwise.

    Raises:
        UserError: another size.
    """
    if tuple(size) != tuple(resolution):
        raise UserError(
            f"The decoder makes images of {tuple(size)}, but the frames are {tuple(resolution)}. Change {fields}."
        )


def require_same_size(slots: tuple[int, int], tokenizer: tuple[int, int]) -> None:
    """Check that slots and tokenizer see frames of the same size.

    Raises:
        UserError: other sizes.
    """
    if tuple(slots) != tuple(tokenizer):
        raise UserError(
            f"The slots are built for frames of {tuple(slots)}, the tokenizer for {tuple(tokenizer)}. Give "
            "slots.resolution and tokenizer.resolution the same value."
        )


def require_heads(name: str, size: int, num_heads: int) -> None:
    """Check that heads of attention can share a width.

    Raises:
        UserError: `size` is no multiple of `num_heads`.
    """
    if num_heads < 1 or size % num_heads:
        raise UserError(
            f"{name} {size} cannot be shared out among {num_heads} heads of attention. Choose heads that divide it; "
            "for a checkpoint give the original's configuration with --config."
        )

"""Bring labels and masks together: one-hot labels as ids, soft masks at the labels' size."""

import math
from typing import Literal, NamedTuple

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.models.decoders.broadcast import segmentation_from_logits


class Labels(NamedTuple):
    """What the metrics take: an id for each pixel, 0 where none is, and pixels that are left out."""

    ids: Int[Tensor, "*batch H W"]
    ignore: Bool[Tensor, "*batch H W"]


def one_hot_ids(
    masks: Shaped[Tensor, "*batch I H W"],
    *,
    overlaps: Literal["error", "ignore"] = "error",
    background: bool = False,
) -> Labels:
    """One mask for each object, not zero where the object is, as ids: i + 1 for mask i, 0 where there is none.

    Args:
        overlaps: "ignore": pixels of several masks are left out by the metrics; "error": there may be none.
        background: mask 0 is the background, which gets id 0 as pixels without a mask do; mask i has id i.

    Raises:
        UserError: pixels with several masks, where `overlaps` is "error".
    """
    masks = masks != 0
    several = masks.sum(-3) > 1
    if overlaps == "error" and several.any():
        raise UserError(
            f"{int(several.sum())} of {several.numel()} pixels belong to several objects, and ids hold one. Leave them "
            'out with overlaps="ignore", or decide which object is in front.'
        )
    ids = masks.int().argmax(-3) + int(not background)
    return Labels(ids.masked_fill(several | ~masks.any(-3), 0), several)


def patch_grid(num_patches: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches of an image of that height and width.

    Raises:
        UserError: no grid of that shape has so many patches.
    """
    aspect = size[1] / size[0]
    rows, columns = math.floor(math.sqrt(num_patches / aspect)), math.floor(math.sqrt(num_patches * aspect))
    if rows * columns != num_patches:
        raise UserError(
            f"{num_patches} patches make no grid for an image of {size[0]} x {size[1]}: {rows} x {columns} is nearest. "
            "Give the size of an image of the same shape as the model's input."
        )
    return rows, columns


def masks_of_patches(
    masks: Float[Tensor, "*batch K N"], size: tuple[int, int]
) -> Float[Tensor, "*batch K H W"]:
    """Soft masks of patches at the size of an image or its labels."""
    return resize_masks(masks.unflatten(-1, patch_grid(masks.shape[-1], size)), size)


def resize_masks(
    masks: Float[Tensor, "*batch K h w"], size: tuple[int, int]
) -> Float[Tensor, "*batch K H W"]:
    """Soft masks at another size, bilinear with pixels as cells, without antialiasing, in one step."""
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks
    flat = masks.reshape(-1, *masks.shape[-3:])
    return F.interpolate(flat, size, mode="bilinear", align_corners=False).reshape(*masks.shape[:-2], *size)


def segmentation_at(masks: Float[Tensor, "*batch K h w"], size: tuple[int, int]) -> Int[Tensor, "*batch H W"]:
    """Slot of each pixel at another size: masks are resized before the largest is taken; the first among equals."""
    return segmentation_from_logits(resize_masks(masks, size))

"""Frozen or tuned vision transformers whose patch features slots are found in (Caron et al. 2021, Oquab et al. 2023).

The blocks are those of `transformers`, which is imported where one is built, since that takes seconds. Its resampling
of positions has no antialiasing and is not used.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchslots.io.collection import without_collection
from torchslots.io.errors import UserError
from torchslots.models.layers.position import resample_positions
from torchslots.models.types import Features

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """Colours in [0, 1] to those of mean 0 and deviation 1 over ImageNet."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, frames: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        return (frames - self.mean) / self.std


class ViT(nn.Module):
    """Features of image patches: the residual stream behind the last block, before any final norm.

    Args:
        patch: convolution from frames to patch embeddings [B, C, rows, columns].
        blocks: transformer blocks on [B, 1 + R + N, C].
        keys_of: a block and its input to the keys of its attention.
        grid_size: rows, and columns, of the grid that positions are stored for; they are resampled for others.
        num_registers: R, tokens between the class token and the patches.
        trainable_from: the first block that is trained; 0: everything, embeddings too; None: nothing (frozen).
        keys: also return the keys of the last block's attention.
    """

    def __init__(
        self,
        patch: nn.Conv2d,
        blocks: Iterable[nn.Module],
        *,
        keys_of: Callable[[nn.Module, Tensor], Tensor],
        grid_size: int,
        num_registers: int = 0,
        trainable_from: int | None = None,
        keys: bool = False,
    ):
        super().__init__()
        self.patch, self.blocks = patch, nn.ModuleList(blocks)
        size = patch.out_channels
        self.cls_token = nn.Parameter(torch.randn(size) * 0.02)
        self.registers = nn.Parameter(torch.randn(num_registers, size) * 0.02) if num_registers else None
        self.cls_position = nn.Parameter(torch.randn(size) * 0.02)
        self.positions = nn.Parameter(torch.randn(grid_size**2, size) * 0.02)
        self.keys_of, self.grid_size, self.keys = keys_of, grid_size, keys
        self.trainable_from = trainable_from
        self._resampled: tuple[tuple[int, int, int, int], Tensor] | None = None
        self._freeze()

    def _freeze(self) -> None:
        self.requires_grad_(self.trainable_from == 0)
        for index, block in enumerate(self.blocks):
            block.requires_grad_(self._trains(index))

    @property
    def size(self) -> int:
        """Width of the features."""
        return self.patch.out_channels

    @property
    def patch_size(self) -> int:
        """Side of a patch, in pixels."""
        return int(self.patch.kernel_size[0])

    def grid(self, frames: Float[Tensor, "B 3 H W"]) -> tuple[int, int]:
        """Rows and columns of patches.

        Raises:
            UserError: a side is not a multiple of the patch size.
        """
        patch = self.patch_size
        height, width = frames.shape[-2:]
        if height % patch or width % patch or not (height and width):
            near = tuple(max(round(side / patch), 1) * patch for side in (height, width))
            raise UserError(
                f"Frames of {height} x {width} do not divide into patches of {patch} x {patch}. "
                f"Resize them to multiples of {patch}, such as {near[0]} x {near[1]}."
            )
        return height // patch, width // patch

    def positions_for(self, grid: tuple[int, int]) -> Float[Tensor, "N C"]:
        """Position embeddings of a grid; those of a frozen backbone are resampled once for each size."""
        stored = (self.grid_size, self.grid_size)
        if self.positions.requires_grad or grid == stored:
            return resample_positions(self.positions, stored, grid)
        changes = 0 if self.positions.is_inference() else self.positions._version
        version = (*grid, self.positions.data_ptr(), changes)
        if self._resampled is None or self._resampled[0] != version:
            self._resampled = version, resample_positions(self.positions.detach(), stored, grid)
        return self._resampled[1]

    def embed(self, frames: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B M C"]:
        """Class token, registers, and patches with their positions."""
        positions = self.positions_for(self.grid(frames))
        patches = self.patch(frames).flatten(2).transpose(1, 2) + positions
        first = (self.cls_token + self.cls_position)[None]
        if self.registers is not None:
            first = torch.cat([first, self.registers])
        return torch.cat([first.expand(len(frames), -1, -1).to(patches.dtype), patches], 1)

    def forward(self, frames: Float[Tensor, "B 3 H W"], keys: bool = True) -> Features:
        """Features [B, N, C] of normalised frames, and keys where this model has them.

        Args:
            keys: False: without keys in any case.

        Raises:
            UserError: a side is not a multiple of the patch size.
        """
        found = None
        with self._gradient(self.trainable_from == 0):
            x = self.embed(frames)
        for index, block in enumerate(self.blocks):
            with self._gradient(self._trains(index)):
                if keys and self.keys and index == len(self.blocks) - 1:
                    found = self.keys_of(block, x)
                x = block(x)
        return Features(x, found).map(self._patches)

    def _trains(self, index: int) -> bool:
        return self.trainable_from is not None and index >= self.trainable_from

    def _gradient(self, wanted: bool) -> AbstractContextManager[object]:
        return nullcontext() if wanted else torch.no_grad()

    def _patches(self, values: Float[Tensor, "B M C"]) -> Float[Tensor, "B N C"]:
        return values[:, 1 + (0 if self.registers is None else len(self.registers)) :]


def dinov2(
    size: int,
    *,
    depth: int,
    num_heads: int,
    patch_size: int = 14,
    grid_size: int = 37,
    num_registers: int = 0,
    trainable_from: int | None = None,
    keys: bool = False,
) -> ViT:
    """A DINOv2 transformer, with or without registers (Oquab et al. 2023; Darcet et al. 2023); weights are random."""
    with without_collection():
        from transformers import (
            Dinov2Config,
            Dinov2Model,
            Dinov2WithRegistersConfig,
            Dinov2WithRegistersModel,
        )

    numbers = _numbers(size, depth, num_heads, patch_size, grid_size)
    if num_registers:
        model = Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(**numbers, num_register_tokens=num_registers)
        )
    else:
        model = Dinov2Model(Dinov2Config(**numbers))
    return ViT(
        model.embeddings.patch_embeddings.projection,
        model.encoder.layer,
        keys_of=partial(_keys, norm=attrgetter("norm1")),
        grid_size=grid_size,
        num_registers=num_registers,
        trainable_from=trainable_from,
        keys=keys,
    )


def dino(
    size: int,
    *,
    depth: int,
    num_heads: int,
    patch_size: int = 16,
    grid_size: int = 14,
    trainable_from: int | None = None,
    keys: bool = False,
) -> ViT:
    """A DINO transformer (Caron et al. 2021); weights are random."""
    with without_collection():
        from transformers import ViTConfig, ViTModel

    numbers = _numbers(size, depth, num_heads, patch_size, grid_size)
    model = ViTModel(ViTConfig(**numbers, intermediate_size=4 * size), add_pooling_layer=False)
    return ViT(
        model.embeddings.patch_embeddings.projection,
        model.layers,
        keys_of=partial(_keys, norm=attrgetter("layernorm_before")),
        grid_size=grid_size,
        trainable_from=trainable_from,
        keys=keys,
    )


def _keys(block: nn.Module, x: Tensor, norm: Callable[[nn.Module], nn.Module]) -> Tensor:
    project: nn.Linear = attrgetter("attention.k_proj")(block)
    return project(norm(block)(x))


def _numbers(size: int, depth: int, num_heads: int, patch_size: int, grid_size: int) -> dict[str, Any]:
    """Raise UserError where the heads do not divide the width."""
    if num_heads < 1 or size % num_heads:
        raise UserError(
            f"A vision transformer of width {size} does not divide into {num_heads} heads. Give the number of heads "
            "that it was trained with: published ones have heads of width 64."
        )
    return {
        "hidden_size": size,
        "num_hidden_layers": depth,
        "num_attention_heads": num_heads,
        "patch_size": patch_size,
        "image_size": grid_size * patch_size,
        "layer_norm_eps": 1e-6,
    }

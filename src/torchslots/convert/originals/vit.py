"""Vision transformers inside the checkpoints of original programs, by timm's names."""

import math
from dataclasses import replace

from torchslots.convert.layouts import OTHER_FILE, Shapes, WeightMap, count, within
from torchslots.io.errors import UserError
from torchslots.models.backbones.names import entries, kind_of
from torchslots.recipes import backbones
from torchslots.recipes.backbones import BackboneConfig

HEAD_SIZE = 64
"""Width of a head in every published transformer; shapes do not tell it."""


_PUBLISHED = (
    backbones.DINO_S16,
    backbones.DINO_S8,
    backbones.DINO_B16,
    backbones.DINO_B8,
    backbones.DINOV2_S14,
    backbones.DINOV2_B14,
    backbones.DINOV2_L14,
)


def leaves(config: BackboneConfig, theirs: str, ours: str) -> list[WeightMap]:
    """Every array.

    Args:
        theirs, ours: what the names of both sides begin with, such as `encoder.` and `slot_encoder.encoder.backbone.`.
    """
    return [
        WeightMap(theirs + entry.theirs, ours + entry.ours, entry.read, entry.write, axis=entry.axis)
        for entry in entries(config.kind, config.depth, num_registers=config.num_registers)
    ]


def from_shapes(shapes: Shapes, prefix: str, num_heads: int | None = None) -> BackboneConfig:
    """Configuration from the names and shapes that begin with `prefix`.

    Args:
        num_heads: None: as published, heads of width 64.

    Raises:
        UserError: a grid of positions that is no square, a width that 64 does not divide.
        KeyError: an array is missing.
    """
    found = within(shapes, prefix)
    size, _, patch_size, _ = found["patch_embed.proj.weight"]
    registers = found.get("reg_token", (1, 0))[1]
    positions = found["pos_embed"][1] - (registers == 0)
    grid_size = math.isqrt(positions)
    if grid_size**2 != positions:
        raise UserError(
            f"`{prefix}pos_embed` is of {positions} patches, which are no square grid. {OTHER_FILE}"
        )
    if num_heads is None and size % HEAD_SIZE:
        raise UserError(
            f"The transformer is {size} wide, which heads of {HEAD_SIZE} do not divide. Give the number of its heads "
            "with --config."
        )
    return BackboneConfig(
        kind=kind_of(found),
        size=size,
        depth=count(found, r"blocks\.\d+\.norm1\.weight"),
        num_heads=num_heads or size // HEAD_SIZE,
        patch_size=patch_size,
        grid_size=grid_size,
        num_registers=registers,
    )


def published(backbone: BackboneConfig) -> BackboneConfig:
    """The same with the place of its pretrained weights, where a published transformer has these sizes."""
    same = (known for known in _PUBLISHED if replace(known, pretrained=backbone.pretrained) == backbone)
    return next(same, backbone)

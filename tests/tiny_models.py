"""A SAVi small enough for any test, and a batch for it."""

from dataclasses import replace

import torch

from torchslots.models.model import ObjectCentricModel
from torchslots.recipes.savi import CnnConfig, DecoderConfig, SaviConfig, build

TINY = SaviConfig(
    resolution=(16, 24),
    encoder=CnnConfig((6, 8), (1, 2)),
    slot_size=12,
    qkv_size=10,
    predictor_heads=2,
    predictor_qkv=8,
    predictor_mlp=14,
    initializer_hidden=16,
    position_hidden=12,
    num_slots=5,
    decoder=DecoderConfig(grid=(4, 6), channels=(8, 6), strides=(2, 2)),
)


def tiny(conditioning: str = "boxes") -> ObjectCentricModel:
    torch.manual_seed(0)
    return build(replace(TINY, conditioning=conditioning)).eval()


def batch(frames: int = 6) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    corners = torch.rand(2, frames, 4, 2, generator=draw).sort(-1).values
    boxes = torch.stack([corners[..., 0], corners[..., 0], corners[..., 1], corners[..., 1]], -1)
    boxes[:, :, 2] = 0
    return {
        "video": torch.rand(2, frames, 3, 16, 24, generator=draw),
        "boxes": boxes,
        "segmentations": torch.randint(0, 4, (2, frames, 16, 24), generator=draw, dtype=torch.int32),
        "flow": torch.rand(2, frames, 3, 16, 24, generator=draw),
    }

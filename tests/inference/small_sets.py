"""A few videos of noise in different colours, models that paint them, and a network of few features."""

from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from torchslots.models.decoders.autoregressive import AutoregressiveDecoder
from torchslots.models.decoders.diffusion import DiffusionDecoder
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Batch
from torchslots.recipes import catalog
from training.two_steps import MODELS, SIDE


@dataclass
class Videos:
    """Noise, each video in a colour of its own; `lengths` maps a video to its frames before padding."""

    number: int = 5
    frames: int = 3
    lengths: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.number

    def name(self, index: int) -> str:
        return f"video {index}"

    def sample(self, index: int, rng: np.random.Generator | None) -> Batch:
        rng = np.random.default_rng(index)
        noise = rng.random((self.frames, 3, SIDE, SIDE), np.float32)
        video = 0.3 * noise + 0.7 * rng.random((1, 3, 1, 1), np.float32)
        mask = torch.ones(self.frames, SIDE, SIDE, dtype=torch.bool)
        mask[self.lengths.get(index, self.frames) :] = False
        return {"video": torch.from_numpy(video), "padding_mask": mask, "name": self.name(index)}


class Means(nn.Module):
    """Means of quarters of the pictures, as features."""

    num_features = 12

    def forward(self, pictures: Tensor) -> Tensor:
        still = pictures if pictures.ndim == 4 else pictures.mean(2)
        return nn.functional.adaptive_avg_pool2d(still, 2).flatten(1)


def painter(system: str) -> ObjectCentricModel:
    """A small model with weights that make pictures of other slots others."""
    model = catalog.build_seeded(MODELS[system], 0)
    assert isinstance(model, ObjectCentricModel)
    torch.manual_seed(0)
    parts = [model.slot_encoder.named_parameters()]
    if isinstance(model.decoder, DiffusionDecoder):
        for name, weight in model.decoder.unet.named_parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.1)
            if "attn2.to_" in name:
                weight.data.mul_(10.0)
    if isinstance(model.decoder, AutoregressiveDecoder):
        parts.append(model.decoder.writer.named_parameters())
    for _, weight in chain(*parts):
        weight.data.mul_(2.0)
    return model.eval()

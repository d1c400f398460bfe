"""Slots that drift: between frames each slot moves by a step that is learned for its place in the row."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

import torchslots
from torchslots.models.decoders.broadcast import BroadcastDecoder
from torchslots.models.layers.blocks import mlp
from torchslots.models.layers.conv import cnn
from torchslots.models.layers.position import PositionEmbedding
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.attention import SlotAttention
from torchslots.models.slots.encoder import FrameEncoder, SlotEncoder
from torchslots.models.slots.initializers import Learned
from torchslots.models.types import Grouping, State
from torchslots.recipes.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, Recipe


class DriftPredictor(nn.Module):
    """Add a learned step to every slot."""

    def __init__(self, num_slots: int, slot_size: int):
        super().__init__()
        self.step = nn.Parameter(torch.zeros(num_slots, slot_size))

    def forward(self, group: Grouping, state: State) -> State:
        """The state of the next frame."""
        return State(group.slots + self.step, group.pose, source=state.source)


@dataclass(frozen=True)
class DriftConfig(ModelConfig):
    """The configuration of the model."""

    family: ClassVar[str] = "drift"
    resolution: tuple[int, int] = (32, 32)
    """Height and width of the frames."""
    num_slots: int = 4
    slot_size: int = 32


def build(config: DriftConfig) -> ObjectCentricModel:
    """Five parts, put together."""
    size, (height, width) = config.slot_size, config.resolution
    slot_encoder = SlotEncoder(
        encoder=FrameEncoder(
            cnn(3, (size, size), (2, 1)),
            PositionEmbedding((height // 2, width // 2), size),
            mlp(size, [size], size, pre_norm=True),
        ),
        initializer=Learned(config.num_slots, size),
        corrector=SlotAttention(size, size, num_iterations=2),
        predictor=DriftPredictor(config.num_slots, size),
    )
    decoder = BroadcastDecoder(
        PositionEmbedding((height // 4, width // 4), size),
        cnn(size, (16, 16), (2, 2), transposed=(True, True)),
        grid=(height // 4, width // 4),
        features=16,
        targets={"video": 3},
    )
    return ObjectCentricModel(slot_encoder, decoder, config)


def drift_squares() -> Recipe:
    """Drifting slots on moving squares, 2k steps: minutes on a CPU."""
    data = DataConfig(dataset="squares", keys=("video", "segmentations"), resolution=32, num_frames=4)
    optim = OptimConfig(num_steps=2_000, warmup_steps=100)
    return Recipe("drift_squares", DriftConfig(), data, optim, evaluation=EvalConfig(num_frames=8))


def register() -> None:
    """The entry point."""
    torchslots.register_model(DriftConfig, build, title="Drift", recipes=[drift_squares])

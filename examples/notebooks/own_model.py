# %% [markdown]
# # A model of your own, from parts
#
# A model is five built parts: encoder, initializer, corrector, predictor, decoder. Here the predictor is new; the
# other parts are torchslots' own. Registered, the model trains, saves and loads as any other.

# %%
from dataclasses import dataclass
from pathlib import Path
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
from torchslots.recipes.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, Recipe, TrainConfig
from torchslots.sim.generate_videos import generate

WORK = Path("runs/own_model")
NUM_VIDEOS = 60
STEPS = 2000

# %% [markdown]
# The new part: each slot keeps a velocity of its own in its memory, and moves by it.

# %%


class Momentum(nn.Module):
    """Move each slot on by a learned share of how it moved last."""

    def __init__(self, slot_size: int):
        super().__init__()
        self.share = nn.Parameter(torch.zeros(slot_size))

    def forward(self, group: Grouping, state: State) -> State:
        last = group.slots if state.memory is None else state.memory
        moved = group.slots + self.share * (group.slots - last)
        return State(moved, group.pose, memory=group.slots, source=state.source)


# %% [markdown]
# Its configuration, and the composition of the five parts.

# %%


@dataclass(frozen=True)
class MomentumConfig(ModelConfig):
    """Sizes of the model."""

    family: ClassVar[str] = "momentum"
    resolution: tuple[int, int] = (32, 32)
    num_slots: int = 6
    slot_size: int = 48


def build(config: MomentumConfig) -> ObjectCentricModel:
    """Five parts, put together."""
    size, (height, width) = config.slot_size, config.resolution
    slot_encoder = SlotEncoder(
        encoder=FrameEncoder(
            cnn(3, (size, size), (2, 1)),
            PositionEmbedding((height // 2, width // 2), size),
            mlp(size, [size], size, pre_norm=True),
        ),
        initializer=Learned(config.num_slots, size),
        corrector=SlotAttention(size, size, num_iterations=2, mlp_size=2 * size),
        predictor=Momentum(size),
    )
    decoder = BroadcastDecoder(
        PositionEmbedding((height // 4, width // 4), size),
        cnn(size, (24, 24), (2, 2), transposed=(True, True)),
        grid=(height // 4, width // 4),
        features=24,
        targets={"video": 3},
    )
    return ObjectCentricModel(slot_encoder, decoder, config)


def momentum_sim() -> Recipe:
    """Slots with momentum on generated films."""
    data = DataConfig(
        dataset="sim_a", keys=("video", "segmentations"), resolution=32, num_frames=4, crop=(4, 6, 48, 48)
    )
    optim = OptimConfig(learning_rate=4e-4, warmup_steps=STEPS // 10, num_steps=STEPS)
    train = TrainConfig(batch_size=8, num_workers=0)
    return Recipe("momentum_sim", MomentumConfig(), data, optim, train, EvalConfig(num_frames=12))


torchslots.register_model(MomentumConfig, build, title="Momentum", recipes=[momentum_sim], replace=True)
print(torchslots.list_recipes("momentum"))

# %% [markdown]
# From here on it is a model as any other.

# %%
generate(WORK / "data", train=NUM_VIDEOS, validation=4, num_frames=12, workers=1)
result = torchslots.train("momentum_sim", WORK / "data", WORK / "run", num_plots=0)
model = torchslots.load_model(WORK / "run")
print(result.metrics)
print("learned share of the last step:", model.slot_encoder.predictor.share.abs().mean().item())

# %%
item = torchslots.open_dataset(
    "sim_a", WORK / "data", split="validation", frames=12, resolution=32, crop=(4, 6, 48, 48)
)[0]
found = model.predict({"video": item["video"][None]})
found.show()

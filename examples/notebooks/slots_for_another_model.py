# %% [markdown]
# # Slots for another model
#
# Slots are a short description of a scene: a few vectors for each frame. Here they are written to files, and a small
# world model learns from the files alone to predict the slots of the next frame. Its predictions are decoded to images.

# %%
from pathlib import Path

import numpy as np
import torch
from torch import nn

import torchslots
from torchslots.evaluation.videos import whole_videos
from torchslots.inference.slot_files import SlotFileOptions, write_slots
from torchslots.inference.videos import KEYS, VideosOptions, settings_of
from torchslots.models.clips import plain_clip
from torchslots.sim.generate_videos import generate

WORK = Path("runs/slots_for_another_model")
NUM_VIDEOS = 60
STEPS = 1500
WORLD_STEPS = 1500
PAST = 3

# %% [markdown]
# A model that finds slots, as in `first_look.py`.

# %%
generate(WORK / "data", train=NUM_VIDEOS, validation=4, num_frames=12, workers=1)
changes = {"optim.num_steps": STEPS, "optim.warmup_steps": STEPS // 10, "evaluation.num_frames": 12}
torchslots.train("savi_demo", WORK / "data", WORK / "run", num_plots=0, **changes)
model = torchslots.load_model(WORK / "run")

# %% [markdown]
# Slots of all films, in files. On the command line: `torchslots slots runs/... --root data --split train`. The
# same call resumes.

# %%


def slots_of(split: str) -> torch.Tensor:
    """Slots [videos, T, K, D] of a split, by way of files."""
    options = VideosOptions(split=split, num_frames=12, num_videos=0, num_workers=0)
    data, settings = settings_of(WORK / "run", model, options, KEYS)
    dataset = whole_videos(data, settings, WORK / "data")
    shards = SlotFileOptions(shard_size=16)
    files = write_slots(model, dataset, WORK / split, data=data, settings=settings, options=shards)
    each = [np.load(file) for file in files]
    slots, video = (np.concatenate([part[key] for part in each]) for key in ("slots", "video"))
    return torch.from_numpy(np.stack([slots[video == number] for number in np.unique(video)]))


train_slots, held_out = slots_of("train"), slots_of("validation")
print("slots to train on:", tuple(train_slots.shape))
mean, deviation = train_slots.mean((0, 1, 2)), train_slots.std((0, 1, 2)) + 1e-6

# %% [markdown]
# The world model: a transformer over the slots of the last frames. It predicts how each slot changes.

# %%


class WorldModel(nn.Module):
    """The slots of `PAST` frames [B, PAST, K, D] to those of the next [B, K, D]."""

    def __init__(self, slot_size: int, width: int = 64):
        super().__init__()
        self.read = nn.Linear(PAST * slot_size, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.mix = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.change = nn.Linear(width, slot_size)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(self, past: torch.Tensor) -> torch.Tensor:
        tokens = self.read(past.transpose(1, 2).flatten(2))
        return past[:, -1] + self.change(self.mix(tokens))


def windows(slots: torch.Tensor) -> torch.Tensor:
    """All windows [n, PAST + 1, K, D] of films, in units of the deviation."""
    return ((slots - mean) / deviation).unfold(1, PAST + 1, 1).movedim(-1, 2).flatten(0, 1)


torch.manual_seed(0)
world = WorldModel(train_slots.shape[-1])
optimizer = torch.optim.AdamW(world.parameters(), lr=1e-3)
data, test = windows(train_slots), windows(held_out)
for _ in range(WORLD_STEPS):
    chosen = data[torch.randint(len(data), (32,))]
    loss = nn.functional.mse_loss(world(chosen[:, :-1]), chosen[:, -1])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% [markdown]
# Does it know more than that nothing changes?

# %%
with torch.no_grad():
    error = nn.functional.mse_loss(world(test[:, :-1]), test[:, -1]).item()
    still = nn.functional.mse_loss(test[:, -2], test[:, -1]).item()
print(f"squared error of the next frame's slots: {error:.4f}; of slots that stay as they are: {still:.4f}")

# %% [markdown]
# Four frames imagined from the first ones of a held-out film, decoded by the model that found the slots.

# %%
past = ((held_out[:1, :PAST] - mean) / deviation).clone()
with torch.no_grad():
    for _ in range(4):
        past = torch.cat([past, world(past[:, -PAST:])[:, None]], 1)
    imagined = model.decode(plain_clip(past * deviation + mean))
imagined.show()

"""Image codes and the models above them, small enough to train in a second; also a program to kill."""

import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchslots.models.types import Batch
from torchslots.recipes.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, Recipe, TrainConfig
from torchslots.recipes.slotdiffusion import SamplingConfig, SlotDiffusionConfig, UNetConfig
from torchslots.recipes.slotdiffusion_encoder import CnnEncoderConfig, SlotsConfig, TransformerPredictorConfig
from torchslots.recipes.steve import CodeTransformerConfig, SteveConfig
from torchslots.recipes.tokenizers import DvaeConfig, VqvaeConfig
from torchslots.training import loop
from torchslots.training import warm_start as parts
from torchslots.training.checkpoint import latest

SIDE = 16
VQVAE = VqvaeConfig(
    (SIDE, SIDE), channels=4, multipliers=(1, 2), num_blocks=1, num_groups=2, num_codes=8, perceptual=False
)
DVAE = DvaeConfig((SIDE, SIDE), vocabulary=8, channels=4, temperature_steps=5)
SLOTS = SlotsConfig(
    resolution=(SIDE, SIDE),
    encoder=CnnEncoderConfig((4, 4)),
    token_size=8,
    num_slots=3,
    slot_size=8,
    mlp_size=8,
    predictor=TransformerPredictorConfig(num_layers=1, num_heads=2, mlp_size=8),
)
SLOTDIFFUSION = SlotDiffusionConfig(
    SLOTS,
    VQVAE,
    UNetConfig((32, 32), (False, True), blocks_per_level=1, head_size=16),
    sampling=SamplingConfig(num_steps=2),
)
STEVE = SteveConfig(SLOTS, DVAE, CodeTransformerConfig(size=8, num_layers=1, num_heads=2, mlp_size=8))
MODELS: dict[str, ModelConfig] = {
    "vqvae": VQVAE,
    "dvae": DVAE,
    "slotdiffusion": SLOTDIFFUSION,
    "steve": STEVE,
}


@dataclass
class Clips:
    """Random clips of two frames; `events` maps an item of the stream to what happens when it is read."""

    events: dict[int, Any] = field(default_factory=dict)
    pause: float = 0.0
    read: int = 0

    def __len__(self) -> int:
        return 6

    def name(self, index: int) -> str:
        return f"clip {index}"

    def sample(self, index: int, rng: np.random.Generator | None) -> Batch:
        video = np.random.default_rng(index).random((2, 3, SIDE, SIDE), np.float32)
        if rng is not None:
            time.sleep(self.pause)
            event = self.events.get(self.read, lambda same: same)
            video, self.read = event(video), self.read + 1
        ids = torch.from_numpy(np.random.default_rng(index).integers(0, 3, (2, SIDE, SIDE), np.int32))
        sample = {"video": torch.from_numpy(video), "segmentations": ids, "name": self.name(index)}
        return {**sample, "padding_mask": torch.ones(2, SIDE, SIDE, dtype=torch.bool)}


def recipe(name: str, steps: int = 6, **optim: Any) -> Recipe:
    """A run of few steps of one of `MODELS`."""
    numbers = {"learning_rate": 1e-3, "warmup_steps": 1.5, "num_steps": steps, "max_grad_norm": 1.0, **optim}
    if name in ("slotdiffusion", "steve"):
        numbers["decoder_learning_rate"] = 2e-3
    return Recipe(
        name,
        MODELS[name],
        DataConfig(keys=("video", "segmentations")),
        OptimConfig(**numbers),
        TrainConfig(batch_size=2, num_workers=0, log_every=1, eval_every=3, checkpoint_every=2),
        EvalConfig(num_frames=2, slice_size=2, batch_size=2, num_videos=2),
    )


def train(
    name: str, run: Path, tokenizer: Path | None = None, clips: Clips | None = None, **optim: Any
) -> loop.RunResult:
    """What `torchslots train NAME --run RUN --tokenizer TOKENIZER` does."""
    chosen, model = parts.assemble(recipe(name, **optim), run, tokenizer)
    return loop.train(chosen, model, clips or Clips(), Clips(), run, device="cpu", num_plots=0)


def stored(run: Path) -> dict[str, Tensor]:
    """All tensors of a run's last checkpoint."""
    found = latest(run, print)
    assert found is not None
    return {**found.model, **found.training}


def other_numbers(config: VqvaeConfig) -> VqvaeConfig:
    """A VQ-VAE of another size."""
    return replace(config, num_codes=12)


if __name__ == "__main__":
    torch.set_num_threads(1)
    said = json.loads(sys.argv[1])
    tokenizer = said.get("tokenizer")
    train(said["name"], Path(said["run"]), tokenizer and Path(tokenizer), Clips(pause=said.get("pause", 0.0)))

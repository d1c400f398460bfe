"""Two updates of small models on a fixed global batch, by one process or several; a program for `test_processes.py`."""

import json
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed
from safetensors.torch import save_file
from torch import nn

from tiny_models import TINY
from torchslots.models.types import Batch
from torchslots.recipes import catalog
from torchslots.recipes.config import ModelConfig, OptimConfig, TrainConfig
from torchslots.training.step import TrainStep
from training.two_steps import DVAE, SLOTDIFFUSION, STEVE

_STEVE = replace(STEVE, transformer=replace(STEVE.transformer, dropout=0.2, token_dropout=0.3))
CASES: dict[str, tuple[ModelConfig, int, int | None]] = {
    "savi, gaussian slots": (replace(TINY, conditioning="gaussian"), 2, None),
    "savi, clips of one frame": (replace(TINY, conditioning="learned_gaussian"), 1, None),
    "slotdiffusion": (SLOTDIFFUSION, 2, None),
    "slotdiffusion, short clips": (SLOTDIFFUSION, 2, 1),
    "steve, token dropout, short clips": (_STEVE, 2, 1),
    "steve": (STEVE, 2, None),
    "dvae, gumbel noise": (DVAE, 2, None),
}
"""Model, frames of a clip, and those that the first step cuts it to."""


def _batch(frames: int, size: tuple[int, int]) -> Batch:
    numbers = torch.Generator().manual_seed(3)
    video = torch.rand(4, frames, 3, *size, generator=numbers)
    return {
        "video": video,
        "flow": torch.rand(4, frames, 3, *size, generator=numbers),
        "padding_mask": torch.ones(4, frames, *size, dtype=torch.bool),
    }


def update(name: str, out: Path, accumulation: int = 1) -> dict[str, float]:
    """Two updates; the weights go to a file, the losses of the first are returned, means over the processes."""
    config, frames, short = CASES[name]
    train = TrainConfig(
        batch_size=4, accumulation=accumulation, short_clip=short, short_steps=1 if short else 0
    )
    optim = OptimConfig(learning_rate=1e-3, warmup_steps=0, num_steps=10)
    model: nn.Module = catalog.build_seeded(config, 0)
    model.train()
    stepper = TrainStep(model, optim, train, "cpu", min(frames, short or frames))
    accelerator = stepper.accelerator
    size = vars(config).get("resolution") or vars(config)["slots"].resolution
    whole = _batch(frames, size)
    rank, share = accelerator.process_index, 4 // accelerator.num_processes
    part = {key: value[rank * share : (rank + 1) * share] for key, value in whole.items()}
    report = stepper(0, part)
    losses = {key: float(accelerator.reduce(value, "mean")) for key, value in report.losses.items()}
    stepper(1, part)
    if accelerator.is_main_process:
        save_file(
            {
                key: value.detach().clone(memory_format=torch.contiguous_format)
                for key, value in model.state_dict().items()
            },
            out,
        )
    return losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("error", UserWarning)
    folder = Path(sys.argv[1])
    found = {name: update(name, folder / f"{i}.safetensors") for i, name in enumerate(CASES)}
    if os.environ["RANK"] == "0":
        (folder / "losses.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()

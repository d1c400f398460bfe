"""Time training steps and frames per second over the length of clips, for SAVi and STATM; prints one JSON object.

    python benchmarks/statm_frames.py --frames 6 12 24 --batch 1 --threads 1

All but STATM's attention over time is linear in frames. `predictor_milliseconds_per_frame` is of the predictor alone,
forward and backward. Times on the CPU are CPU seconds, which are steadier on a shared machine; on CUDA they are wall
seconds.
"""

import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from torchslots.models.types import Grouping, State
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe
from torchslots.training.accelerator import seed_step
from torchslots.training.step import TrainStep
from train_step import machine, predict, random_batch, repeat, scale

RECIPES = ("savi_small", "statm_savi_small")
TINY = 16
"""Resolution of the tiny models, in pixels."""


def main(
    recipes: tuple[str, ...] = RECIPES,
    frames: tuple[int, ...] = (6, 12, 24),
    batch: int = 1,
    slots: int = 11,
    tiny: bool = True,
    device: str | None = None,
    samples: int = 3,
    threads: int | None = None,
) -> None:
    """Time recipes at several lengths of clips and print one JSON object.

    Args:
        recipes: Names in `torchslots recipes`.
        frames: Frames in a clip.
        batch: Clips in a step.
        slots: Slots, background included.
        tiny: Also time the recipes at 16x16 pixels, where the predictor's share is largest.
        device: None: CUDA where there is one.
        samples: Timed steps after the first.
        threads: CPU threads; None: torch's choice.
    """
    if threads:
        torch.set_num_threads(threads)
    rows = []
    for name in recipes:
        recipe = catalog.recipe(name)
        for resolution in (TINY, recipe.data.resolution) if tiny else (recipe.data.resolution,):
            for count in frames:
                scaled = scale(recipe, batch, count, slots, resolution, False)
                rows.append({"recipe": name, **measure(scaled, samples, device)})
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    print(json.dumps({"batch": batch, "slots": slots, "rows": rows, "machine": machine(where)}, indent=2))


def measure(recipe: Recipe, samples: int, device: str | None) -> dict[str, Any]:
    """Figures of one recipe at one length of clips."""
    seed_step(0)
    step = TrainStep(catalog.build(recipe.model), recipe.optim, recipe.train, device)
    where, count = step.accelerator.device, recipe.data.num_frames
    data = random_batch(recipe, recipe.train.batch_size, count)
    done = iter(range(1, 10**9))
    train = seconds(lambda: step(next(done), data), samples, where)
    clip = {key: value.to(where) for key, value in data.items() if isinstance(value, Tensor)}
    infer = seconds(lambda: predict(step.model, clip, None), samples, where)
    model: Any = step.accelerator.unwrap_model(step.model)
    slots = torch.randn(
        recipe.train.batch_size, recipe.data.max_instances + 1, recipe_width(recipe), device=where
    )
    alone = seconds(lambda: run_predictor(model.slot_encoder.predictor, slots, count), samples, where)
    return {
        "resolution": recipe.data.resolution,
        "frames": count,
        "steps_per_second": 1 / train,
        "trained_frames_per_second": recipe.train.batch_size * count / train,
        "inferred_frames_per_second": recipe.train.batch_size * count / infer,
        "predictor_milliseconds_per_frame": 1000 * alone / count,
    }


def recipe_width(recipe: Recipe) -> int:
    """Width of the slots."""
    config: Any = recipe.model
    return getattr(config, "savi", config).slot_size


def run_predictor(predictor: nn.Module, slots: Tensor, frames: int) -> None:
    """Run the predictor over all frames of a clip, forward and backward."""
    state, attn = State(slots.requires_grad_()), slots.new_zeros(*slots.shape[:2], 0)
    total = slots.new_zeros(())
    for _ in range(frames):
        state = predictor(Grouping(state.slots, attn), state)
        total = total + state.slots.sum()
    total.backward()


def seconds(work: Callable[[], object], samples: int, device: torch.device) -> float:
    """Median of `samples` repetitions, after one warm-up."""
    repeat(work, 1, 1, device)
    times = repeat(work, samples, 1, device)
    return statistics.median(times.wall if device.type == "cuda" else times.cpu)


if __name__ == "__main__":
    tyro.cli(main)

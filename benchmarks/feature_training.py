"""Time training steps from frames, from stored features, and without the backbone; prints one JSON object.

    python benchmarks/feature_training.py --batch 1 --rounds 3 --threads 2

One step of each kind follows the other, `--rounds` times, so that a busy machine slows all alike; the least time of
each is taken, of the clock and of the CPU, which is steadier on a shared machine. `frames` is the step of `torchslots
train` on frames in memory, backbone included. `stored` reads its clips from stored float16 features, which are in the
page cache, and makes the same step. `floor` is that step on features in float32 that are in memory: the step without
the backbone. `gain` is frames / stored, `over_floor` stored / floor, `counted_gain` that by count of
multiplications. Weights and frames are random.
"""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from torchslots.cli.bench.timing import Times, machine, repeat
from torchslots.cli.memory import keep_freed_memory
from torchslots.data.catalog import open_dataset
from torchslots.data.loader import train_batches
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Batch
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe, with_changes
from torchslots.training.feature_job import FeatureJob, FeatureOptions, expected_gain
from torchslots.training.features import training_set
from torchslots.training.step import TrainStep

RECIPES = ("videosaur_movi_c", "slotcontrast_ytvis", "slotcontrast_movi_c")


def main(
    recipes: tuple[str, ...] = RECIPES,
    batch: int = 1,
    rounds: int = 3,
    threads: int = 2,
    device: str = "cpu",
    precision: str = "fp32",
) -> None:
    """Measure and print.

    Args:
        recipes: Recipes with a frozen backbone.
        batch: Clips of 4 frames in a step.
        rounds: Steps of each kind, after one of each that is not measured.
        threads: CPU threads.
        device: cpu or cuda.
        precision: fp32 or bf16, of the backbone on frames and of the step; features are stored in fp32's.
    """
    torch.set_num_threads(threads)
    if device == "cpu":
        keep_freed_memory()
    found = {name: measure(name, batch, rounds, device, precision) for name in recipes}
    settings = {"batch": batch, "rounds": rounds, "precision": precision}
    print(json.dumps({"settings": settings, **found, "machine": machine(torch.device(device))}, indent=2))


def measure(name: str, batch: int, rounds: int, device: str, precision: str) -> dict[str, Any]:
    """Seconds of each kind of step, and their ratios."""
    with tempfile.TemporaryDirectory() as place:
        recipe, root, out = _small(name, batch, precision), Path(place, "data"), Path(place, "out")
        _write_videos(root, batch, recipe.data.num_frames, recipe.data.resolution)
        began = time.perf_counter()
        job = FeatureJob(recipe, root, out, FeatureOptions(name, device=device))
        job.run()
        stored_in = time.perf_counter() - began
        model = catalog.build_seeded(recipe.model, recipe.train.seed)
        assert isinstance(model, ObjectCentricModel)
        clips = training_set(with_changes(recipe, **{"data.dataset": "prepared"}), model, out)
        batches = train_batches(clips, batch_size=batch, seed=0)
        frames = open_dataset("folder", root, "train", recipe.data, True)
        video = next(train_batches(frames, batch_size=batch, seed=0))
        step = TrainStep(model, recipe.optim, recipe.train, device)
        floor = _in_memory(next(batches))
        kinds = {"frames": lambda: video, "stored": lambda: next(batches), "floor": lambda: floor}
        seconds = _least(step, kinds, rounds, step.accelerator.device)
    return {
        "seconds": seconds,
        "steps_per_second": {kind: 1 / times["wall"] for kind, times in seconds.items()},
        "gain": _ratio(seconds, "frames", "stored"),
        "over_floor": _ratio(seconds, "stored", "floor"),
        "counted_gain": expected_gain(recipe),
        "bytes_per_step": batch * recipe.data.num_frames * job.plan.layout.frame_bytes,
        "seconds_to_store_a_frame": stored_in / sum(job.plan.num_frames),
    }


def _ratio(seconds: dict[str, dict[str, float]], one: str, other: str) -> dict[str, float]:
    return {clock: seconds[one][clock] / seconds[other][clock] for clock in seconds[one]}


def _small(name: str, batch: int, precision: str) -> Recipe:
    """The recipe with a random backbone, on frames of their final size in a folder."""
    recipe = catalog.recipe(name)
    changes = {"model.backbone.pretrained": "", "train.batch_size": batch, "train.precision": precision}
    data = replace(recipe.data, dataset="folder", keys=("video",), pre_resize=None, windows="end_to_end")
    return with_changes(replace(recipe, data=data), **changes, **{"evaluation.split": "train"})


def _write_videos(root: Path, count: int, frames: int, size: int) -> None:
    """Random films, as folders of frames."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for video in range(count):
        folder = root / "train" / f"video_{video}"
        folder.mkdir(parents=True)
        for frame in range(frames):
            image = draw.integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(image).save(folder / f"{frame:03d}.png")


def _in_memory(batch: Batch) -> Batch:
    return {
        key: value.float() if key in ("features", "feature_keys") else value for key, value in batch.items()
    }


def _least(
    step: TrainStep, kinds: dict[str, Callable[[], Batch]], rounds: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Least seconds of a step of each kind, its batch included; the first round is not counted."""
    found: dict[str, list[Times]] = {kind: [] for kind in kinds}
    for _ in range(rounds + 1):
        for kind, batch in kinds.items():
            found[kind].append(repeat(lambda batch=batch: step(1, batch()), 1, 1, device))
    return {
        kind: {"wall": min(t.wall[0] for t in times[1:]), "cpu": min(t.cpu[0] for t in times[1:])}
        for kind, times in found.items()
    }


if __name__ == "__main__":
    tyro.cli(main)

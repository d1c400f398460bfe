"""Seconds and memory of a training step and of inference, on random clips, as one JSON object.

    python benchmarks/train_step.py savi_small --batch 2 --frames 6 --slots 11 --resolution 64 --precision fp32

The step is the one that `torchslots train` takes: forward, backward, clipping, Adam. Inference draws masks for one
clip of 24 frames at once, or for one picture where the recipe is one of pictures. Times are wall-clock unless their
name says CPU, which is steadier on a shared machine.
"""

import json
import math
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import tyro
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from torchslots.errors import UserError
from torchslots.recipes import catalog
from torchslots.shapes import Batch
from torchslots.training.engine import seed_step
from torchslots.training.recipe import ModelConfig, Recipe
from torchslots.training.step import TrainStep

INFERENCE_FRAMES = 24
INFERENCE_RUNS = 5
CUDA_GROUP = 10
_CHANNELS = {"flow": 3, "depth": 1}
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Times(NamedTuple):
    """Seconds of one repetition, sample by sample."""

    wall: list[float]
    cpu: list[float]


def main(
    recipe: tyro.conf.Positional[str],
    batch: int | None = None,
    frames: int | None = None,
    slots: int | None = None,
    resolution: int | None = None,
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32",
    compile: bool = False,
    device: Literal["cpu", "cuda"] | None = None,
    steps: int = 5,
    threads: int | None = None,
    recompute: bool = False,
    flops: bool = True,
) -> None:
    """Time a recipe's training step and print one JSON object.

    Args:
        recipe: Name in `torchslots recipes`.
        batch: Clips in a step; None: the recipe's.
        frames: Frames in a clip; None: the recipe's.
        slots: Slots, background included; the boxes of all the others are distinct. None: the recipe's.
        resolution: Height and width in pixels; None: the recipe's.
        precision: Of the matrix products; tf32 is fp32 with short mantissas, on CUDA.
        compile: Use torch.compile.
        device: None: CUDA where there is one.
        steps: Timed samples after the first step; on CUDA each is ten steps without waiting in between.
        threads: CPU threads; None: torch's choice.
        recompute: Recompute activations in the backward pass instead of keeping them.
        flops: Count the floating point operations of one step (not when compiled).
    """
    if threads:
        torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    scaled = scale(catalog.recipe(recipe), batch, frames, slots, resolution, recompute)
    training = replace(scaled.train, precision="fp32" if precision == "tf32" else precision, compile=compile)
    seed_step(0)
    step = TrainStep(catalog.build(scaled.model), scaled.optim, training, device)
    data = random_batch(scaled, training.batch_size, scaled.data.num_frames)
    clip_frames = 1 if scaled.data.num_frames == 1 else INFERENCE_FRAMES
    report = measure(step, data, steps, random_batch(scaled, 1, clip_frames), _AUTOCAST.get(precision))
    if flops and not compile:
        report |= count_flops(step, data, report["seconds_per_step"])
    settings = {
        "recipe": recipe,
        "batch": training.batch_size,
        "frames": scaled.data.num_frames,
        "slots": scaled.data.max_instances + 1,
        "resolution": scaled.data.resolution,
        "precision": precision,
        "compile": compile,
        "recompute": recompute,
        "samples": steps,
    }
    print(json.dumps({"settings": settings, **report, "machine": machine(step.accelerator.device)}, indent=2))


def scale(
    recipe: Recipe,
    batch: int | None,
    frames: int | None,
    slots: int | None,
    resolution: int | None,
    recompute: bool,
) -> Recipe:
    """The recipe at another size."""
    data, model = recipe.data, recipe.model
    if resolution is not None:
        model = change(model, resolution=(resolution, resolution), decoder=resized(model, resolution))
        data = replace(data, resolution=resolution)
    if slots is not None:
        model, data = change(model, num_slots=slots), replace(data, max_instances=slots - 1)
    model = change(model, recompute=recompute)
    data = replace(data, num_frames=frames or data.num_frames)
    train = replace(recipe.train, batch_size=batch or recipe.train.batch_size, accumulation=1)
    return replace(recipe, model=model, data=data, train=train)


def change(numbers: Any, **values: Any) -> Any:
    """Replace fields, those that there are, in these numbers and in models within."""
    kept = {field.name: getattr(numbers, field.name) for field in fields(numbers)}
    known = {name: value for name, value in values.items() if name in kept}
    within = {name: change(value, **values) for name, value in kept.items() if isinstance(value, ModelConfig)}
    return replace(numbers, **known, **within)


def resized(model: ModelConfig, resolution: int) -> Any:
    """The model's decoder with the grid that fits; its strides stay."""
    decoder = decoder_of(model)
    cells = resolution // math.prod(getattr(decoder, "strides", ()))
    return change(decoder, grid=(cells, cells))


def decoder_of(model: Any) -> Any:
    """The numbers of the decoder, which may be those of a model within."""
    inner = [getattr(model, field.name) for field in fields(model)]
    return (
        next((decoder_of(value) for value in inner if isinstance(value, ModelConfig)), None) or model.decoder
    )


def random_batch(recipe: Recipe, batch: int, frames: int) -> Batch:
    """Noise in the shapes that the recipe's data would have, with all boxes different."""
    size, objects = recipe.data.resolution, recipe.data.max_instances
    corner = 0.6 * torch.rand(batch, frames, objects, 2)
    found: Batch = {
        "video": torch.rand(batch, frames, 3, size, size),
        "boxes": torch.cat([corner, corner + 0.1 + 0.3 * torch.rand_like(corner)], -1),
        "segmentations": torch.randint(0, objects + 1, (batch, frames, size, size), dtype=torch.int32),
        "padding_mask": torch.ones(batch, frames, size, size, dtype=torch.bool),
    }
    pictures = {key: torch.rand(batch, frames, channels, size, size) for key, channels in _CHANNELS.items()}
    found |= {key: pictures[key] for key in recipe.data.keys if key in pictures}
    properties = getattr(decoder_of(recipe.model), "num_properties", None)
    return (
        found
        if properties is None
        else found | {"properties": torch.rand(batch, frames, objects, properties)}
    )


def measure(
    step: TrainStep, batch: Batch, samples: int, clip: Batch, autocast: torch.dtype | None
) -> dict[str, Any]:
    """Time training, then inference."""
    device = step.accelerator.device
    done = iter(range(1, 10**9))
    group = CUDA_GROUP if device.type == "cuda" else 1
    first = repeat(lambda: step(next(done), batch), 1, 1, device)
    if group > 1:
        repeat(lambda: step(next(done), batch), 1, group, device)
    train = repeat(lambda: step(next(done), batch), samples, group, device)
    peak = peak_memory(device)
    tensors = {key: value.to(device) for key, value in clip.items()}
    infer = repeat(lambda: predict(step.model, tensors, autocast), INFERENCE_RUNS, 1, device)
    parameters = sum(parameter.numel() for parameter in step.model.parameters())
    return {
        "seconds_per_step": {"median": statistics.median(train.wall), "min": min(train.wall)},
        "cpu_seconds_per_step": {"median": statistics.median(train.cpu), "min": min(train.cpu)},
        "first_step_seconds": first.wall[0],
        "inference_seconds": {"median": statistics.median(infer.wall), "min": min(infer.wall)},
        "peak_memory_bytes": peak,
        "parameters": parameters,
    }


def predict(model: nn.Module, clip: Batch, autocast: torch.dtype | None) -> None:
    """Masks of one clip; slots are not drawn one by one."""
    kind = clip["video"].device.type
    with torch.no_grad(), torch.autocast(kind, autocast or torch.bfloat16, enabled=autocast is not None):
        model.predict(clip)  # pyright: ignore[reportCallIssue]


def repeat(work: Callable[[], object], samples: int, group: int, device: torch.device) -> Times:
    """Seconds of each sample divided by the `group` repetitions in it; the device is idle before and after."""
    times = Times([], [])
    for _ in range(samples):
        wait(device)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(group):
            work()
        wait(device)
        times.wall.append((time.perf_counter() - wall) / group)
        times.cpu.append((time.process_time() - cpu) / group)
    return times


def wait(device: torch.device) -> None:
    """Let the device finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_flops(step: TrainStep, batch: Batch, seconds: dict[str, float]) -> dict[str, Any]:
    """Floating point operations of the convolutions and matrix products of a step, and their rate."""
    with FlopCounterMode(display=False) as counter:
        step(1, batch)
    total = counter.get_total_flops()
    found: dict[str, Any] = {"flops_per_step": total, "flops_per_second": total / seconds["median"]}
    if step.accelerator.device.type == "cuda":
        found["bf16_matrix_flops_per_second"] = matrix_rate(step.accelerator.device)
    return found


def matrix_rate(device: torch.device, size: int = 8192) -> float:
    """Operations per second of a large bf16 matrix product: what the card can do."""
    factor = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    repeat(lambda: factor @ factor, 1, 5, device)
    return 2 * size**3 / min(repeat(lambda: factor @ factor, 5, 10, device).wall)


def peak_memory(device: torch.device) -> int:
    """Bytes: of tensors on CUDA; of the whole process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "system": platform.platform(),
    }


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"train_step.py: {error}")

"""Tensor memory of a large training step, computed from small ones; prints one JSON object.

The step (forward, backward, Adam) runs at two smaller batches, and torch's profiler follows every allocation. In each
part of a step live bytes are a + b * batch, so the peak is the highest of such lines, and what is computed from two
batches is a lower bound: another part may have the peak at a larger batch. Measure at batches as large as the machine
allows, best at `--batch` itself (`--measured 32 64`: a few minutes of two cores); the defaults take a minute or two of
one core. A GPU's workspaces and fragmentation are not included.
"""

import json
from dataclasses import replace
from typing import Literal

import torch
import tyro

from torchslots.cli.bench.memory import step_bytes
from torchslots.cli.bench.sizes import change, decoder_of, random_batch, scale
from torchslots.cli.bench.timing import machine
from torchslots.recipes import catalog
from torchslots.training.accelerator import seed_step
from torchslots.training.step import TrainStep


def main(
    recipe: str = "savi_small",
    batch: int = 64,
    frames: int = 6,
    slots: int = 24,
    chunk: int = 64,
    precision: Literal["fp32", "bf16"] = "bf16",
    recompute: bool = True,
    measured: tuple[int, int] = (4, 8),
    objects: int | None = None,
    threads: int = 2,
) -> None:
    """Measure small steps and print the memory of the large one.

    Args:
        recipe: Name in `torchslots recipes`.
        batch: Clips of the large step.
        frames: Frames in a clip.
        slots: Slots, background included.
        chunk: Images decoded at once.
        precision: Precision of the matrix products.
        recompute: Recompute activations in the backward pass.
        measured: Batches to run.
        objects: Objects in each clip, the other slots are copies; None: all slots are distinct.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    few, more = measured
    sizes = (frames, slots, chunk, precision, recompute, objects)
    low, high = (_peak(recipe, count, *sizes) for count in measured)
    each = (high - low) / (more - few)
    settings = {"recipe": recipe, "frames": frames, "slots": slots, "chunk": chunk, "precision": precision}
    report = {
        "settings": settings | {"recompute": recompute, "objects": objects},
        "measured_bytes": {str(few): low, str(more): high},
        "bytes_per_clip": each,
        "batch": batch,
        "method": "allocations of a step followed by torch's profiler at both batches; a line through their peaks",
        "computed_bytes": low + each * (batch - few),
        "computed_gigabytes": (low + each * (batch - few)) / 1e9,
    }
    print(json.dumps(report | {"machine": machine(torch.device("cpu"))}, indent=2))


def _peak(
    recipe: str,
    batch: int,
    frames: int,
    slots: int,
    chunk: int,
    precision: Literal["fp32", "bf16"],
    recompute: bool,
    objects: int | None,
) -> int:
    scaled = scale(catalog.recipe(recipe), batch, frames, slots, None, recompute)
    config = change(scaled.model, decoder=change(decoder_of(scaled.model), chunk=chunk))
    seed_step(0)
    model = catalog.build(config)
    step = TrainStep(model, scaled.optim, replace(scaled.train, precision=precision), "cpu")
    step(0, random_batch(scaled, 1, frames))
    return step_bytes(
        step, random_batch(scaled, batch, frames, None if objects is None else [objects] * batch)
    )


if __name__ == "__main__":
    tyro.cli(main)

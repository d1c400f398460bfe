"""Measure time and memory of STATM over long videos, slice by slice; prints one JSON object.

`state_bytes` is all that passes from one slice to the next. `--max-frames` bounds the predictor's memory.
"""

import json

import torch
import tyro

from torchslots.cli.bench.sizes import random_batch, scale
from torchslots.cli.bench.timing import machine, peak_memory, repeat
from torchslots.cli.memory import keep_freed_memory
from torchslots.models.adjust import bound_memory
from torchslots.models.types import State
from torchslots.recipes import catalog

_CPU = torch.device("cpu")


def main(
    recipe: str = "statm_savi_small",
    frames: tuple[int, ...] = (60, 120, 240),
    slice_size: int = 6,
    slots: int = 11,
    max_frames: int | None = 24,
    resolution: int | None = None,
    threads: int = 2,
) -> None:
    """Run a clip of each length once.

    Args:
        recipe: Name in `torchslots recipes`.
        frames: Lengths, ascending, since peak memory is that of the process so far.
        slice_size: Frames that pass through the model at once.
        slots: Slots, background included, all distinct.
        max_frames: Frames in the predictor's memory; None: all.
        resolution: Height and width; None: the recipe's.
        threads: CPU threads.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    scaled = scale(catalog.recipe(recipe), 1, slice_size, slots, resolution, False)
    model = catalog.build(scaled.model).eval()
    bound_memory(model, max_frames)
    batch = random_batch(scaled, 1, slice_size)
    _run(model, batch, slice_size, slice_size)
    rows = [_row(model, batch, count, slice_size) for count in frames]
    settings = {"recipe": recipe, "slice_size": slice_size, "slots": slots, "max_frames": max_frames}
    print(json.dumps({"settings": settings, "rows": rows, "machine": machine(_CPU)}, indent=2))


def _row(model: torch.nn.Module, batch: dict, frames: int, slice_size: int) -> dict[str, float]:
    states: list[State] = []
    times = repeat(lambda: states.append(_run(model, batch, frames, slice_size)), 1, 1, _CPU)
    state = (states[0].slots, *(states[0].memory or ()))
    return {
        "frames": frames,
        "seconds": times.wall[0],
        "cpu_seconds": times.cpu[0],
        "cpu_milliseconds_per_frame": 1000 * times.cpu[0] / frames,
        "state_bytes": sum(part.numel() * part.element_size() for part in state),
        "peak_memory_bytes": peak_memory(_CPU),
    }


def _run(model: torch.nn.Module, batch: dict, frames: int, slice_size: int) -> State:
    state = None
    for _ in range(0, frames, slice_size):
        state = model.predict(batch, state, recon=False, attn=False).state  # pyright: ignore
    assert state is not None
    return state


if __name__ == "__main__":
    tyro.cli(main)

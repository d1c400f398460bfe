"""`evaluate` of videos with all figures and some plots, beside the model alone on the same frames; prints JSON.

    python benchmarks/evaluate.py --videos 64 --threads 2

Videos are made before the clocks start: squares that move, with masks and boxes. Weights are random, which does not
change the work. `wall_ratio` (bar: 1.2) needs a machine that is idle otherwise; CPU seconds include threads.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from torchslots.evaluation.evaluate import evaluate
from torchslots.models.slices import carry_state, cut
from torchslots.models.types import Batch
from torchslots.recipes import catalog


def main(
    recipe: str = "savi_medium",
    videos: int = 64,
    frames: int = 24,
    resolution: int = 128,
    plots: int = 4,
    repeats: int = 3,
    threads: int = 2,
    profile: bool = False,
) -> None:
    """Measure both in turns.

    Args:
        recipe: A model that is conditioned on boxes, of that resolution.
        videos: Videos to evaluate.
        frames: Frames of each.
        resolution: Height and width.
        plots: Videos that are plotted.
        repeats: Measurements of each kind, in turns.
        threads: CPU threads of torch.
        profile: Print where ours spends its time, too.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    chosen = catalog.recipe(recipe)
    model: Any = catalog.build(chosen.model).eval()
    config = replace(chosen.evaluation, num_frames=frames, num_videos=None)
    size = config.batch_size
    batches = [
        _batch(min(size, videos - first), frames, resolution, first) for first in range(0, videos, size)
    ]

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            evaluate(model, batches, config, num_plots=plots).save(Path(folder))

    def alone() -> None:
        with torch.no_grad():
            for batch in batches:
                parts = cut(batch, config.slice_size, frames)
                for _ in carry_state(
                    lambda part, state: model.predict(part, state, slot_recon=False, recon=False, attn=False),
                    parts,
                ):
                    pass

    found: dict[str, list[tuple[float, float]]] = {"ours": [], "model": []}
    for _ in range(repeats):
        for name, work in (("ours", ours), ("model", alone)):
            found[name].append(_timed(work))
    if profile:
        with torch.profiler.profile() as seen:
            ours()
        print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
    middle = {
        name: dict(zip(("wall", "cpu"), map(statistics.median, zip(*rows)))) for name, rows in found.items()
    }
    ratios = {f"{name}_ratio": middle["ours"][name] / middle["model"][name] for name in ("wall", "cpu")}
    settings = {
        "recipe": recipe,
        "videos": videos,
        "frames": frames,
        "resolution": resolution,
        "plots": plots,
    }
    print(json.dumps({"settings": settings, "seconds": middle, **ratios}, indent=2))


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _batch(count: int, frames: int, side: int, first: int) -> Batch:
    """Videos of six squares that move over noise."""
    draw = torch.Generator().manual_seed(first)
    ids = torch.zeros(count, frames, side, side, dtype=torch.int32)
    boxes = torch.zeros(count, frames, 10, 4)
    edge = side // 6
    for video in range(count):
        for k in range(6):
            top, left = torch.randint(0, side - edge, (2,), generator=draw).tolist()
            for t in range(frames):
                y, x = (top + t) % (side - edge), (left + 2 * t) % (side - edge)
                ids[video, t, y : y + edge, x : x + edge] = k + 1
                boxes[video, t, k] = torch.tensor([y, x, y + edge, x + edge]) / side
    video = torch.rand(count, frames, 3, side, side, generator=draw) / 4 + _shades(ids)
    names = [f"video {first + index}" for index in range(count)]
    return {"video": video, "segmentations": ids, "boxes": boxes, "name": names}


def _shades(ids: Tensor) -> Tensor:
    return (ids[:, :, None].float() / 9).expand(-1, -1, 3, -1, -1)


if __name__ == "__main__":
    tyro.cli(main)

"""Compare SAVi-S's training step and inference with plain eager PyTorch in one run; prints one JSON object.

    python benchmarks/against_plain.py --precision fp32 --threads 2

Each side is a process of its own, one after the other, `--rounds` times. The plain side is `plain.py`: NCHW,
channels-last, and channels-last with the allocator set to keep freed memory as ours does. `ratio` is its least time
over ours, wall and CPU; CPU seconds are steadier on a shared machine. Both must give the same loss in fp32.
"""

import json
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any, Literal

import torch
import tyro

from plain import PlainSavi, load
from torchslots.cli.bench.sizes import random_batch, scale
from torchslots.cli.bench.step import INFERENCE_FRAMES, predict
from torchslots.cli.bench.timing import machine, peak_memory, repeat
from torchslots.cli.memory import keep_freed_memory
from torchslots.models.types import Batch
from torchslots.recipes import catalog
from torchslots.training.accelerator import seed_step
from torchslots.training.step import TrainStep

SIDES = ("plain_nchw", "plain_channels_last", "plain_channels_last_kept_memory", "ours", "ours_compiled")
REFERENCE = "plain_channels_last"
Precision = Literal["fp32", "bf16"]


def main(
    side: str | None = None,
    sides: tuple[str, ...] = SIDES[:4],
    precision: Precision = "fp32",
    batch: int = 2,
    frames: int = 6,
    slots: int = 11,
    steps: int = 3,
    rounds: int = 1,
    threads: int = 2,
) -> None:
    """Measure and print.

    Args:
        side: Measure this side alone, in this process.
        sides: Sides to measure; `ours_compiled` takes minutes to compile.
        precision: Precision of the matrix products on both sides.
        batch: Clips.
        frames: Frames in a clip.
        slots: Slots, background included, all distinct.
        steps: Timed steps in each round, after two warm-up steps; the slowest side, `plain_nchw`, takes one.
        rounds: Measurements of all sides.
        threads: CPU threads.
    """
    settings = {"precision": precision, "batch": batch, "frames": frames, "slots": slots, "steps": steps}
    if side is not None:
        torch.set_num_threads(threads)
        print(json.dumps(_measure(side, **settings)))
        return
    words = [w for key, value in {**settings, "threads": threads}.items() for w in (f"--{key}", str(value))]
    found = [{name: _in_a_process(name, words) for name in sides} for _ in range(rounds)]
    best = {name: _least([each[name] for each in found]) for name in sides}
    torch.set_num_threads(threads)
    report = {"settings": settings | {"rounds": rounds}, "sides": best, "ratio": _ratios(best)}
    print(json.dumps(report | {"machine": machine(torch.device("cpu"))}, indent=2))


def _in_a_process(side: str, words: list[str]) -> dict[str, float]:
    line = [sys.executable, __file__, "--side", side, *words]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def _least(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {key: min(each[key] for each in rounds) for key in rounds[0]}


def _ratios(best: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Seconds of the reference over those of each side."""
    if REFERENCE not in best:
        return {}
    keys = [key for key in best[REFERENCE] if key.endswith("seconds")]
    return {name: {key: best[REFERENCE][key] / each[key] for key in keys} for name, each in best.items()}


def _measure(
    side: str, precision: Precision, batch: int, frames: int, slots: int, steps: int
) -> dict[str, float]:
    if side in ("plain_channels_last_kept_memory", "ours", "ours_compiled"):
        keep_freed_memory()
    recipe = scale(catalog.recipe("savi_small"), batch, frames, slots, None, False)
    train = replace(recipe.train, precision=precision, compile=side == "ours_compiled")
    seed_step(0)
    model = catalog.build(recipe.model)
    data, clip = random_batch(recipe, batch, frames), random_batch(recipe, 1, INFERENCE_FRAMES)
    if side == "plain_nchw":
        steps = 1
    if side.startswith("ours"):
        step: Any = TrainStep(model, recipe.optim, train, "cpu")
        return _times(step, data, clip, steps, lambda: predict(model, clip, _autocast(precision)))
    layout = torch.channels_last if "channels_last" in side else torch.contiguous_format
    plain = PlainSavi(recipe.data.resolution, layout)
    load(plain, model)
    return _times(PlainStep(plain, precision), data, clip, steps, lambda: _infer(plain, clip, precision))


def _autocast(precision: Precision) -> torch.dtype | None:
    return torch.bfloat16 if precision == "bf16" else None


def _infer(plain: PlainSavi, clip: Batch, precision: Precision) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        plain(clip["video"], clip["boxes"][:, 0])


class PlainStep:
    """Training step: forward, backward, clipping, Adam."""

    def __init__(self, model: PlainSavi, precision: Precision):
        self.model, self.precision = model, precision
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-8)

    def __call__(self, step: int, batch: Batch) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.model.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.05)
        self.optimizer.step()
        return loss


def _times(step: Any, data: Batch, clip: Batch, steps: int, infer: Any) -> dict[str, float]:
    """The first loss, and the least time of each kind; our first update has a learning rate of 0."""
    began = time.perf_counter()
    first = step(0, data)
    loss = first if isinstance(first, torch.Tensor) else first.losses["recon_flow"]
    began = time.perf_counter() - began
    step(1, data)
    train = repeat(lambda: step(1, data), steps, 1, torch.device("cpu"))
    peak = peak_memory(torch.device("cpu"))
    infer()
    inference = repeat(infer, steps, 1, torch.device("cpu"))
    return {
        "train_seconds": min(train.wall),
        "train_cpu_seconds": min(train.cpu),
        "inference_seconds": min(inference.wall),
        "inference_cpu_seconds": min(inference.cpu),
        "first_step": began,
        "peak_memory_bytes": peak,
        "first_loss": loss.item(),
    }


if __name__ == "__main__":
    tyro.cli(main)

"""Measure cost and gain of torch.compile on a recipe's training step; prints one JSON object.

    python benchmarks/compilation.py savi_small --batch 1 --frames 3 --slots 6 --precision bf16 --threads 1

The same step is taken plain and compiled, each in a process of its own, compiled with an empty cache.
`compile_cpu_seconds` is what the compiled process and its compilers used beyond the plain one, less the timed steps;
`gain` is the plain step's least time over the compiled one's. `pays_after_steps` is the number of steps at which both
take as long. The constants of `torchslots.training.compilation` come from here.
"""

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import tyro

_HERE = Path(__file__).parent


class Side(NamedTuple):
    """One process: its report, and the CPU seconds of it and of all that it started."""

    report: dict[str, Any]
    total: float


def main(
    recipe: tyro.conf.Positional[str] = "savi_small",
    batch: int = 1,
    frames: int = 3,
    slots: int = 6,
    precision: str = "bf16",
    steps: int = 3,
    threads: int = 1,
) -> None:
    """Measure both and print.

    Args:
        recipe: Name in `torchslots recipes`.
        batch: Clips.
        frames: Frames in a clip.
        slots: Slots, background included, all distinct.
        precision: Precision of the matrix products.
        steps: Timed steps.
        threads: CPU threads.
    """
    sizes = {"batch": batch, "frames": frames, "slots": slots, "precision": precision}
    words = [
        w
        for key, value in {**sizes, "steps": steps, "threads": threads}.items()
        for w in (f"--{key}", str(value))
    ]
    plain, compiled = (_run(recipe, [*words, flag]) for flag in ("--no-compile", "--compile"))
    p, c = (side.report["cpu_seconds_per_step"]["min"] for side in (plain, compiled))
    cost = compiled.total - plain.total - (steps + 2) * (c - p)
    report = {
        "settings": {"recipe": recipe, **sizes},
        "plain_cpu_seconds_per_step": p,
        "compiled_cpu_seconds_per_step": c,
        "gain": p / c,
        "compile_cpu_seconds": cost,
        "first_step_seconds": compiled.report["first_step_seconds"],
        "pays_after_steps": math.ceil(cost / (p - c)) if p > c else None,
    }
    print(json.dumps(report | {"machine": plain.report["machine"]}, indent=2))


def _run(recipe: str, words: list[str]) -> Side:
    before = _spent()
    line = [sys.executable, str(_HERE / "train_step.py"), recipe, "--no-flops", "--no-inference", *words]
    with tempfile.TemporaryDirectory() as cache:
        place = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, env=place)
    return Side(json.loads(done.stdout), _spent() - before)


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    tyro.cli(main)

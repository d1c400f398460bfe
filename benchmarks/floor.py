"""`torchslots bench RECIPE --floor` for recipes of the catalog; prints a table and JSON.

    python benchmarks/floor.py --recipes savi_small slot_attention_clevr
    python benchmarks/floor.py --batch 2

Each recipe's step, at its own size unless told otherwise, beside its own products replayed alone, in turns. Bar: 1.15;
where a step is over it, the operators are named that take most of its time besides the products.
"""

import json
import subprocess
import sys

import tyro

from torchslots.recipes import catalog

BAR = 1.15


def main(
    recipes: tuple[str, ...] = (),
    batch: int | None = None,
    frames: int | None = None,
    steps: int = 3,
    threads: int = 2,
    timeout: int = 900,
) -> None:
    """Measure.

    Args:
        recipes: Names; none: the whole catalog.
        batch: Clips in a step; None: the recipe's own.
        frames: Frames in a clip of recipes of videos; None: the recipe's own.
        steps: Timed steps and replays.
        threads: CPU threads.
        timeout: Seconds for a recipe.
    """
    found = {}
    for name in recipes or tuple(catalog.RECIPES):
        words = ["bench", name, "--floor", "--no-inference", "--json", "--steps", str(steps)]
        words += ["--threads", str(threads)] + ([] if batch is None else ["--batch", str(batch)])
        if frames is not None and catalog.recipe(name).data.num_frames > 1:
            words += ["--frames", str(frames)]
        row = _floor(words, timeout)
        found[name] = row
        print(f"{name:<44}{_line(row)}", flush=True)
    over = [name for name, row in found.items() if row.get("cpu_ratio", 0) > BAR]
    print(json.dumps({"bar": BAR, "over": over, "rows": found}))


def _floor(words: list[str], timeout: int) -> dict:
    try:
        command = [sys.executable, "-m", "torchslots", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"failed": f"took over {timeout} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"}
    return json.loads(done.stdout)["floor"]


def _line(row: dict) -> str:
    if "failed" in row:
        return row["failed"]
    clocks = "  ".join(_times(row, clock) for clock in ("wall", "cpu"))
    if row["cpu_ratio"] <= BAR:
        return clocks
    return f"{clocks}  over: " + ", ".join(f"{name} {part:.0%}" for name, part in row["beside"].items())


def _times(row: dict, clock: str) -> str:
    step, floor = row[f"step_{clock}_seconds"], row[f"floor_{clock}_seconds"]
    return f"{clock} {step:.3f} / {floor:.3f} = {row[f'{clock}_ratio']:.2f}"


if __name__ == "__main__":
    tyro.cli(main)

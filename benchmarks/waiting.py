"""A training step alone and beside busy processes, with our threads' waiting and with torch's own; prints JSON.

    python benchmarks/waiting.py

Each measurement is a fresh process, and the kinds take turns. `ours` decides as every command does when it starts.
`cpu_ratio` is the CPU seconds of a step beside busy processes by those of torch's own alone (bar: 1.1); `idle_ratio`
the wall seconds of a step alone by torch's own alone (bar: 1.03). Both need a machine that is idle otherwise.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import tyro

_OWN = "300000"
"""Rounds of libgomp where nothing is set."""


def main(
    recipe: str = "savi_demo", busy: int = 4, repeats: int = 3, steps: int = 12, spins: tuple[int, ...] = ()
) -> None:
    """Measure.

    Args:
        recipe: Whose step.
        busy: Busy processes.
        repeats: Fresh processes for each kind.
        steps: Steps in a process.
        spins: Fixed rounds to measure besides ours and torch's own.
    """
    counts = (_OWN, "ours", *map(str, spins))
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(repeats):
        for count in counts:
            for beside in (0, busy):
                with _busy(beside):
                    report = _step(recipe, steps, count)
                row = found.setdefault(f"{count} beside {beside}", {"wall": [], "cpu": []})
                row["wall"].append(report["seconds_per_step"]["median"])
                row["cpu"].append(report["cpu_seconds_per_step"]["median"])
    middle = {
        key: {name: statistics.median(values) for name, values in row.items()} for key, row in found.items()
    }
    own = middle[f"{_OWN} beside 0"]
    ratios = {
        count: {
            "cpu_ratio": middle[f"{count} beside {busy}"]["cpu"] / own["cpu"],
            "idle_ratio": middle[f"{count} beside 0"]["wall"] / own["wall"],
        }
        for count in counts
    }
    print(json.dumps({"torch": _OWN, "seconds": middle, "ratios": ratios}, indent=2))


@contextmanager
def _busy(count: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def _step(recipe: str, steps: int, spins: str) -> dict[str, dict[str, float]]:
    words = ["bench", recipe, "--no-inference", "--steps", str(steps), "--json"]
    decided = {} if spins == "ours" else {"GOMP_SPINCOUNT": spins}
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | decided
    done = subprocess.run(
        [sys.executable, "-m", "torchslots", *words], env=environment, check=True, capture_output=True
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    tyro.cli(main)

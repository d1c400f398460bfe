"""Measure and plot how time and memory grow with batch, frames, slots and resolution, one process for each point.

Memory is that of tensors; torch itself takes hundreds of megabytes of the process, which would hide the growth.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torchslots.io.errors import UserError
from torchslots.io.files import write_file

LINEAR = 1.1
"""Largest exponent of growth that counts as linear; measurements scatter."""


@dataclass(frozen=True)
class GrowthOptions:
    """Values on the axes of the curves. The other axes stay at their second value."""

    grow_batch: tuple[int, ...] = (1, 2, 4)
    """Clips in a step."""
    grow_frames: tuple[int, ...] = (2, 4, 8)
    """Frames in a clip; for recipes of images always 1."""
    grow_slots: tuple[int, ...] = (4, 8, 16)
    """Slots, background included, all distinct."""
    grow_resolution: tuple[int, ...] = (32, 64, 128)
    """Height and width in pixels; growth is measured against their product."""


class Curve(NamedTuple):
    """One axis: its values, time and memory, and exponents of growth by least squares on logarithms."""

    axis: str
    values: list[int]
    seconds: list[float]
    cpu_seconds: list[float]
    bytes: list[int]
    time_exponent: float
    memory_exponent: float
    clock: str
    """Unit of the plotted time: `CPU second`, steadier on shared machines, or on a GPU `second`."""

    def rates(self) -> list[float]:
        """Steps per second of the clock."""
        return [1 / s for s in (self.cpu_seconds if self.clock.startswith("CPU") else self.seconds)]

    def verdict(self) -> str:
        """Whether time and memory grow linearly, as a sentence."""
        parts = {"time": self.time_exponent, "memory": self.memory_exponent}
        sentences = [
            f"{what} grows with the power {power:.2f}: {'linear or better' if power <= LINEAR else 'more than linear'}"
            for what, power in parts.items()
        ]
        unit = "pixels" if self.axis == "resolution" else self.axis
        return f"{unit}: " + "; ".join(sentences)


Point = Callable[[dict[str, int]], dict[str, Any]]
"""From settings to the report of `torchslots bench`."""


def exponent(values: list[float], costs: list[float]) -> float:
    """Slope of log(cost) over log(value)."""
    x, y = [math.log(value) for value in values], [math.log(cost) for cost in costs]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)


def grow(options: GrowthOptions, point: Point, one_frame: bool = False) -> list[Curve]:
    """Measure every curve.

    Args:
        one_frame: The recipe is one of images; there is no curve over frames.

    Raises:
        UserError: a curve of fewer than two points.
    """
    axes = {
        "batch": options.grow_batch,
        "frames": options.grow_frames,
        "slots": options.grow_slots,
        "resolution": options.grow_resolution,
    }
    if one_frame:
        axes["frames"] = (1,)
    curves = {axis: values for axis, values in axes.items() if not (one_frame and axis == "frames")}
    for axis, values in curves.items():
        if len(set(values)) < 2:
            raise UserError(f"A curve over {axis} needs two different values, got {values}.")
    base = {axis: sorted(values)[min(1, len(values) - 1)] for axis, values in axes.items()}
    return [_curve(axis, sorted(values), base, point) for axis, values in curves.items()]


def _curve(axis: str, values: list[int], base: dict[str, int], point: Point) -> Curve:
    reports = [point({**base, axis: value}) for value in values]
    seconds, cpu = ([r[key]["min"] for r in reports] for key in ("seconds_per_step", "cpu_seconds_per_step"))
    memory = [report["tensor_bytes"] for report in reports]
    sizes = [float(value**2 if axis == "resolution" else value) for value in values]
    on_cpu = reports[0]["machine"]["device"] == "cpu"
    powers = exponent(sizes, cpu if on_cpu else seconds), exponent(sizes, memory)
    return Curve(axis, values, seconds, cpu, memory, *powers, "CPU second" if on_cpu else "second")


def in_a_process(recipe: str, words: list[str]) -> Point:
    """A `Point` that measures in a new process.

    Raises:
        UserError: when it is called, the process failed.
    """

    def point(settings: dict[str, int]) -> dict[str, Any]:
        size = [word for axis, value in settings.items() for word in (f"--{axis}", str(value))]
        command = [sys.executable, "-m", "torchslots", "bench", recipe, *size, *words]
        command += ["--json", "--no-inference", "--tensors"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"The point {settings} could not be measured: {done.stderr.strip()[-300:]}")
        return json.loads(done.stdout)

    return point


def save(curves: list[Curve], recipe: str, out: Path) -> list[Path]:
    """Write growth.json, and growth.png with steps per second and memory over each axis."""
    rows = [curve._asdict() | {"verdict": curve.verdict()} for curve in curves]
    write_file(out / "growth.json", json.dumps({"recipe": recipe, "curves": rows}, indent=2) + "\n")
    _plot(curves, recipe, out / "growth.png")
    return [out / "growth.json", out / "growth.png"]


def _plot(curves: list[Curve], recipe: str, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(curves), 5.2), layout="constrained")
    axes = figure.subplots(2, len(curves), squeeze=False)
    for column, curve in enumerate(curves):
        rates, mebibytes = curve.rates(), [b / 2**20 for b in curve.bytes]
        for row, (what, figures) in enumerate(
            {f"steps per {curve.clock}": rates, "tensors at the peak, MiB": mebibytes}.items()
        ):
            place = axes[row][column]
            place.loglog(curve.values, figures, "o-", base=2)
            place.set_xticks(curve.values, [str(value) for value in curve.values])
            place.set(xlabel=curve.axis, ylabel=what if column == 0 else "")
            place.yaxis.set_major_formatter("{x:g}")
            place.grid(alpha=0.3)
    figure.suptitle(recipe)
    figure.savefig(file, dpi=120)

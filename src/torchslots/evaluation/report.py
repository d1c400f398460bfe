"""The report of an evaluation: metrics with their definitions, as a table, a plot, and files."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchslots.evaluation.observers import Plotted
from torchslots.evaluation.panels import PlottedVideo
from torchslots.evaluation.tokenizer import CEILING_LABELS
from torchslots.io import video
from torchslots.io.counts import count_text
from torchslots.io.draw import plot_curves
from torchslots.io.files import write_file
from torchslots.metrics import reconstruction, scores, set_prediction
from torchslots.recipes import protocols

LABELS = (
    scores.LABELS
    | scores.EXTRA_LABELS
    | scores.CLASS_LABELS
    | set_prediction.LABELS
    | reconstruction.LABELS
    | CEILING_LABELS
)
_PARTS = {*scores.LABELS, *scores.EXTRA_LABELS, *scores.CLASS_LABELS, *set_prediction.LABELS}
"""Figures that are printed in per cent."""
_PANELS = (".mp4", ".gif", ".png")
"""Endings of the files of a panel."""
_LOWER = ("mse", "lpips", "fid", "fvd", "loss")
"""Beginnings of the names of figures of which the lowest is the best."""


def lower_is_better(name: str) -> bool:
    """Whether the lowest value of a figure is the best."""
    return name.startswith(_LOWER)


@dataclass(frozen=True)
class EvalReport:
    """The result of an evaluation: `metrics` that could be computed, and the definition of each."""

    metrics: dict[str, float]
    curves: dict[str, list[float]]
    """Mean over videos of each single frame, to the last frame of the longest video."""
    num_videos: int
    definitions: dict[str, str]
    notes: list[str]
    settings: dict[str, Any]
    panels: Sequence[Plotted] = field(default_factory=list, repr=False, compare=False)

    @property
    def labelled(self) -> bool:
        """Whether there are figures of segmentations."""
        return not scores.LABELS.keys().isdisjoint(self.metrics)

    def to_json(self) -> str:
        """All but the panels, as JSON text; values of curves that are not finite become null."""
        values = {name: value for name, value in vars(self).items() if name != "panels"}
        return json.dumps(
            values | {"curves": {name: finite(curve) for name, curve in self.curves.items()}}, indent=2
        )

    def print_table(self) -> None:
        """Print the figures, those in [0, 1] in per cent, their definitions, and the protocol."""
        rows = [
            (name, format_figure(name, value), self.definitions[name]) for name, value in self.metrics.items()
        ]
        notes = [f"Note: {note}" for note in self.notes]
        if "protocol" in self.settings:
            notes.insert(0, protocols.describe(self.settings["protocol"]))
        print_table(
            count_text(self.num_videos, "video"), ("figure", "value", "definition"), rows, notes, lines=True
        )

    def save(self, folder: Path, *, fps: float = 12.0, gif: bool = False, tile: int = 128) -> list[Path]:
        """Write eval.json, FG-ARI over frames as a PNG, and each stored video as mp4 and, with `gif`, GIF (one frame:
        PNG); for set prediction also properties_N.png and properties.md, predicted beside true. Further videos of an
        earlier evaluation in this folder are removed.

        Raises:
            UserError: no space left, or a folder that cannot be written.
        """
        if (folder / "eval.json").is_file():
            remove_later(folder, "video", len(self.panels))
            remove_later(folder, "properties", len(self.panels))
            (folder / "fg_ari_per_frame.png").unlink(missing_ok=True)
        write_file(folder / "eval.json", self.to_json() + "\n")
        written = [folder / "eval.json"]
        curve = self.curves.get("fg_ari", [])
        if len(curve) > 1:
            series, file = {"FG-ARI": (list(range(len(curve))), curve)}, folder / "fg_ari_per_frame.png"
            plot_curves(series, file, title="FG-ARI of each frame", x_label="frame", y_label="FG-ARI")
            written.append(file)
        for index, panel in enumerate(self.panels):
            written += write_panel(panel.panel(tile), folder / f"video_{index}", fps, gif)
        return written + self._save_properties(folder)

    def _save_properties(self, folder: Path) -> list[Path]:
        written = []
        sets = [panel for panel in self.panels if isinstance(panel, PlottedVideo)]
        for index, one in enumerate(sets):
            if (plot := one.properties_plot()) is not None:
                written.append(folder / f"properties_{index}.png")
                video.write_png(written[-1], plot)
        tables = [table for one in sets if (table := one.properties_table()) is not None]
        if tables:
            written.append(folder / "properties.md")
            write_file(written[-1], "\n".join(tables))
        return written


def write_panel(frames: NDArray[np.uint8], path: Path, fps: float, gif: bool) -> list[Path]:
    """Write a video as mp4 and, with `gif`, as GIF; one frame as PNG. `path` has no suffix; what an earlier result left
    there in other formats is removed.

    Raises:
        UserError: no space left, or a folder that cannot be written.
    """
    if len(frames) == 1:
        video.write_png(path.with_suffix(".png"), frames[0])
        _remove(path, {*_PANELS} - {".png"})
        return [path.with_suffix(".png")]
    video.write_video(path.with_suffix(".mp4"), frames, fps)
    if gif:
        video.write_gif(path.with_suffix(".gif"), frames, fps)
    written = (".mp4", ".gif") if gif else (".mp4",)
    _remove(path, {*_PANELS} - {*written})
    return [path.with_suffix(suffix) for suffix in written]


def remove_later(folder: Path, stem: str, number: int) -> None:
    """Remove the panels `STEM_N` of an earlier result, of which there were more, from this number on."""
    while _remove(folder / f"{stem}_{number}", {*_PANELS}):
        number += 1


def _remove(path: Path, suffixes: Iterable[str]) -> bool:
    """Remove a panel's files with these endings; returns whether there were any."""
    old = [file for suffix in suffixes if (file := path.with_suffix(suffix)).is_file()]
    for file in old:
        file.unlink()
    return bool(old)


def format_figure(name: str, value: float) -> str:
    """A figure as text: indices in per cent with one decimal, ratios in dB, others with four digits."""
    if name.startswith("psnr"):
        return f"{value:.2f} dB"
    return f"{100 * value:.1f} %" if name.split("_first_")[0] in _PARTS else f"{value:.4g}"


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    notes: Iterable[str],
    lines: bool = False,
) -> None:
    """Print a table, and notes below it; all columns but the first and `definition` are aligned right."""
    from rich.console import Console
    from rich.table import Table

    table, console = Table(title=title, show_lines=lines), Console()
    for column in columns:
        table.add_column(column, justify="left" if column in (columns[0], "definition") else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False)


def finite(values: Iterable[float]) -> list[float | None]:
    """The values, with None for those that are not finite."""
    return [value if math.isfinite(value) else None for value in values]


def compare(reports: Mapping[str, EvalReport]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table with a row for each figure and a column for each report."""
    rows = []
    for name in dict.fromkeys(name for report in reports.values() for name in report.metrics):
        values = [report.metrics.get(name) for report in reports.values()]
        cells = ["" if value is None else format_figure(name, value) for value in values]
        rows.append([LABELS.get(name, name), *cells])
    return ["", *reports], rows

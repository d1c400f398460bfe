"""Compare runs: mean and standard error over seeds, and learning curves."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torchslots.evaluation.report import format_figure, print_table
from torchslots.io.draw import Series
from torchslots.io.errors import UserError
from torchslots.io.json_files import flatten, read_object
from torchslots.io.run_log import METRICS_NAME, read_log

_SEED = "train.seed"
_AGAIN = "Run `torchslots evaluate` on the run again."


@dataclass(frozen=True)
class Figure:
    """One figure over the runs of a recipe."""

    name: str
    n: int
    """Runs that have it."""
    mean: float
    standard_error: float | None
    """Sample standard deviation over the square root of n; None for one run."""
    best: float
    """Highest over the runs; lowest for a loss."""

    def cells(self) -> tuple[str, ...]:
        """The figure as a row of a table."""
        values = (self.mean, self.standard_error, self.best)
        texts = ["" if value is None else format_figure(self.name, value) for value in values]
        return self.name, str(self.n), *texts


@dataclass(frozen=True)
class Group:
    """The runs of one recipe."""

    recipe: str
    runs: list[str]
    figures: list[Figure]
    notes: list[str]
    """Differences between the runs besides their seed."""


@dataclass(frozen=True)
class _Run:
    folder: Path
    recipe: dict[str, Any]
    metrics: dict[str, float]
    settings: dict[str, Any]


@dataclass(frozen=True)
class SeedTable:
    """Mean, standard error and best over seeds, one group for each recipe."""

    groups: list[Group]

    def to_json(self) -> str:
        """The groups as JSON text."""
        return json.dumps([asdict(group) for group in self.groups], indent=2)

    def print_table(self) -> None:
        """Print a table for each recipe."""
        columns = ("figure", "n", "mean", "± standard error", "best")
        for group in self.groups:
            title = f"{group.recipe}: {len(group.runs)} run{'s' if len(group.runs) > 1 else ''}"
            rows = [figure.cells() for figure in group.figures]
            print_table(title, columns, rows, [f"Note: {note}" for note in group.notes])


def report(runs: Sequence[Path]) -> SeedTable:
    """Group run folders by recipe name, in order of first appearance, and average over each group.

    A run's figures are those of its eval/eval.json or eval.json (written by `torchslots evaluate`); without one, the
    last that were logged in training. A folder of an evaluation inside a run is replaced by the run.

    Raises:
        UserError: no folders, a folder without recipe.json or without an evaluation, or a file that cannot be read.
    """
    if not runs:
        raise UserError("No run folders were given. Name at least one that `torchslots train --run` wrote.")
    by_recipe: dict[str, list[_Run]] = {}
    for folder in dict.fromkeys(_run_folder(Path(run)) for run in runs):
        run = _read_run(folder)
        by_recipe.setdefault(str(run.recipe["name"]), []).append(run)
    return SeedTable([_group(name, members) for name, members in by_recipe.items()])


def _run_folder(folder: Path) -> Path:
    inside = (folder / "eval.json").exists() and not (folder / "recipe.json").exists()
    return folder.parent if inside and (folder.parent / "recipe.json").exists() else folder


def _read_run(folder: Path) -> _Run:
    recipe = read_object(folder / "recipe.json", "Give a folder that `torchslots train --run` wrote.")
    if "name" not in recipe:
        raise UserError(f"{folder / 'recipe.json'} has no `name`, so it is not the recipe of a run.")
    places = (folder / "eval" / "eval.json", folder / "eval.json")
    file = next((place for place in places if place.exists()), None)
    if file is None:
        return _Run(folder, recipe, _last_logged(folder), {})
    found = read_object(file, _AGAIN)
    if not isinstance(found.get("metrics"), dict):
        raise UserError(f"{file} has no `metrics`. {_AGAIN}")
    return _Run(folder, recipe, _finite(found["metrics"]), dict(found.get("settings") or {}))


def _last_logged(folder: Path) -> dict[str, float]:
    """The figures of the last record of metrics.jsonl with an evaluation."""
    for record in reversed(_log(folder)):
        figures = {key[5:]: value for key, value in record.items() if key.startswith("eval/")}
        if figures:
            return _finite(figures)
    raise UserError(
        f"{folder} has no eval.json, and no evaluation in {METRICS_NAME}. Run `torchslots evaluate {folder}`."
    )


def _log(folder: Path) -> list[dict[str, Any]]:
    try:
        return read_log(folder)
    except (OSError, TypeError, KeyError) as error:
        raise UserError(f"{folder / METRICS_NAME} cannot be read ({error}).") from error


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers, without booleans."""
    plain = {key: value for key, value in values.items() if type(value) in (int, float)}
    return {key: float(value) for key, value in plain.items() if math.isfinite(value)}


def _group(name: str, runs: list[_Run]) -> Group:
    names = dict.fromkeys(key for run in runs for key in run.metrics)
    figures = [_figure(key, [run.metrics[key] for run in runs if key in run.metrics]) for key in names]
    return Group(name, [str(run.folder) for run in runs], figures, _differences(runs))


def _figure(name: str, values: list[float]) -> Figure:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    best = min(values) if name.startswith("loss") else max(values)
    return Figure(name, len(values), statistics.fmean(values), error, best)


def _differences(runs: list[_Run]) -> list[str]:
    """Notes on differences between the runs besides the seed."""
    recipes, settings = [flatten(run.recipe) for run in runs], [flatten(run.settings) for run in runs]
    notes = []
    if len({recipe.get(_SEED) for recipe in recipes}) < len(runs):
        notes.append(
            "Some runs have the same seed: they are not independent, and the standard error is too small."
        )
    for what, tables in (("recipe", recipes), ("evaluation", [table for table in settings if table])):
        keys = dict.fromkeys(key for table in tables for key in table if key != _SEED)
        differing = [key for key in keys if len({str(table.get(key)) for table in tables}) > 1]
        if differing:
            notes.append(f"The runs differ in their {what}: {', '.join(differing)}.")
    return notes


def learning_curves(run: Path, keys: Sequence[str]) -> Series:
    """The values that a run logged under each key, as (steps, values).

    Raises:
        UserError: a log that cannot be read.
    """
    records = _log(run)
    series = {}
    for key in keys:
        points = [(record["step"], record[key]) for record in records if _finite({key: record.get(key)})]
        if points:
            series[key] = tuple(map(list, zip(*points)))
    return series

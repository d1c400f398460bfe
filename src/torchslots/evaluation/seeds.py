"""Compare runs: mean and standard error over seeds, and learning curves."""

import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torchslots.evaluation.report import format_figure, lower_is_better, print_table
from torchslots.io.draw import Series
from torchslots.io.errors import UserError, first_line
from torchslots.io.json_files import flatten, read_object
from torchslots.io.run_log import METRICS_NAME, read_log
from torchslots.recipes.config import DataConfig, EvalConfig, OptimConfig, TrainConfig

_SEED = "train.seed"
_EVALUATION = "evaluation."
_SAME_SEED = "Some runs have the same seed: they are not independent, and the standard error is too small."
_ABSENT = "not there"
_SECTIONS = {"data": DataConfig, "optim": OptimConfig, "train": TrainConfig, "evaluation": EvalConfig}
_CONDUCT = {
    _SEED,
    *(
        f"train.{name}"
        for name in ("num_workers", "log_every", "eval_every", "checkpoint_every", "keep", "compile")
    ),
    f"{_EVALUATION}batch_size",
}
"""Settings in which repetitions may differ."""


def _as_written(config: Any) -> dict[str, Any]:
    """As a JSON file gives them back, by dotted name."""
    return flatten(json.loads(json.dumps(asdict(config))))


_USUAL = {
    f"{section}.{name}": value
    for section, kind in _SECTIONS.items()
    for name, value in _as_written(kind()).items()
}
"""What recipes that were saved before a field was there do not say."""
_USUAL_EVALUATION = _as_written(EvalConfig())
DATA_SETTINGS = ("dataset", "max_objects", "void_id", "allow_odd_masks")
"""Fields of `DataConfig` that an evaluation may change, and states."""
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
    """Highest over the runs; lowest where low is good, as of losses and errors."""

    def cells(self) -> tuple[str, ...]:
        """The figure as a row of a table."""
        values = (self.mean, self.standard_error, self.best)
        texts = ["" if value is None else format_figure(self.name, value) for value in values]
        return self.name, str(self.n), *texts


@dataclass(frozen=True)
class Group:
    """The runs of one recipe with one configuration, evaluated in one way."""

    recipe: str
    runs: list[str]
    figures: list[Figure]
    notes: list[str]
    """Where the runs are no independent repetitions."""
    differs: dict[str, str] = field(default_factory=dict)
    """Settings in which this group differs from others of the recipe."""

    @property
    def title(self) -> str:
        """The recipe, what sets the group apart, and how many runs it has."""
        apart = "".join(f"\n{name} = {value}" for name, value in self.differs.items())
        return f"{self.recipe}: {len(self.runs)} run{'s' if len(self.runs) > 1 else ''}{apart}"


@dataclass(frozen=True)
class _Run:
    folder: Path
    recipe: dict[str, Any]
    metrics: dict[str, float]
    settings: dict[str, Any]


@dataclass(frozen=True)
class SeedTable:
    """Mean, standard error and best over seeds, one group for each recipe and configuration."""

    groups: list[Group]

    def to_json(self) -> str:
        """The groups as JSON text."""
        return json.dumps([asdict(group) for group in self.groups], indent=2)

    def print_table(self) -> None:
        """Print a table for each group."""
        columns = ("figure", "n", "mean", "± standard error", "best")
        for group in self.groups:
            rows = [figure.cells() for figure in group.figures]
            print_table(group.title, columns, rows, [f"Note: {note}" for note in group.notes])


def report(runs: Sequence[Path]) -> SeedTable:
    """Average over run folders that differ in nothing but their seed, by recipe in order of first appearance.

    Groups of one recipe say in what they differ, be it the recipe or how the model was evaluated. What does not change
    figures, such as the number of workers, keeps no runs apart.

    A run's figures are those of its eval/eval.json or eval.json (written by `torchslots evaluate`); without one, the
    last that were logged in training. A folder of an evaluation inside a run is replaced by the run.

    Raises:
        UserError: no folders, a folder without recipe.json or without an evaluation, or a file that cannot be read.
    """
    if not runs:
        raise UserError("No run folders were given. Name at least one that `torchslots train` wrote.")
    by_recipe: dict[str, list[_Run]] = {}
    for folder in dict.fromkeys(_run_folder(Path(run)) for run in runs):
        run = _read_run(folder)
        by_recipe.setdefault(str(run.recipe["name"]), []).append(run)
    return SeedTable([group for name, members in by_recipe.items() for group in _groups(name, members)])


def _run_folder(folder: Path) -> Path:
    inside = (folder / "eval.json").exists() and not (folder / "recipe.json").exists()
    return folder.parent if inside and (folder.parent / "recipe.json").exists() else folder


def _read_run(folder: Path) -> _Run:
    recipe = read_object(folder / "recipe.json", "Give a folder that `torchslots train` wrote.")
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
    log = _log(folder) if (folder / METRICS_NAME).exists() else []
    for record in reversed(log):
        figures = {key[5:]: value for key, value in record.items() if key.startswith("eval/")}
        if figures:
            return _finite(figures)
    raise UserError(
        f"{folder} was not evaluated: it has no eval.json, and no evaluation in {METRICS_NAME}. Run `torchslots "
        f"evaluate {shlex.quote(str(folder))} --root DATA`, with the folder of its data."
    )


def _log(folder: Path) -> list[dict[str, Any]]:
    try:
        return read_log(folder)
    except (OSError, TypeError, KeyError) as error:
        raise UserError(f"{folder / METRICS_NAME} cannot be read ({first_line(error)}).") from error


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers, without booleans."""
    plain = {key: value for key, value in values.items() if type(value) in (int, float)}
    return {key: float(value) for key, value in plain.items() if math.isfinite(value)}


def _groups(name: str, runs: list[_Run]) -> list[Group]:
    """One group for each configuration, in order of first appearance."""
    by_settings: dict[str, list[_Run]] = {}
    for run in runs:
        by_settings.setdefault(json.dumps(_configuration(run), sort_keys=True), []).append(run)
    tables = [json.loads(settings) for settings in by_settings]
    keys = dict.fromkeys(key for table in tables for key in table)
    differing = [key for key in keys if len({table.get(key, _ABSENT) for table in tables}) > 1]
    apart = [{key: table.get(key, _ABSENT) for key in differing} for table in tables]
    return [_group(name, *members) for members in zip(by_settings.values(), apart)]


def _configuration(run: _Run) -> dict[str, str]:
    """All settings that may change figures, as text by dotted name; those of the evaluation that gave the figures."""
    found = _USUAL | flatten(run.recipe)
    if run.settings:
        found = {key: value for key, value in found.items() if not key.startswith(_EVALUATION)}
        trained = {name: found[f"data.{name}"] for name in DATA_SETTINGS}
        stated = _USUAL_EVALUATION | trained | flatten(run.settings)
        found |= {_EVALUATION + key: value for key, value in stated.items()}
    else:
        found["figures"] = "of the last evaluation in training"
    return {key: str(value) for key, value in found.items() if key not in _CONDUCT}


def _group(name: str, runs: list[_Run], differs: dict[str, str]) -> Group:
    names = dict.fromkeys(key for run in runs for key in run.metrics)
    figures = [_figure(key, [run.metrics[key] for run in runs if key in run.metrics]) for key in names]
    same = len({flatten(run.recipe).get(_SEED) for run in runs}) < len(runs)
    notes = [_SAME_SEED] if same else []
    return Group(name, [str(run.folder) for run in runs], figures, notes, differs)


def _figure(name: str, values: list[float]) -> Figure:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    best = (min if lower_is_better(name) else max)(values)
    return Figure(name, len(values), statistics.fmean(values), error, best)


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

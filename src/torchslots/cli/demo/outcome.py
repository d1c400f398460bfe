"""What every demonstration leaves: metrics.json, a table in the terminal, and the page."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchslots.cli.demo.plan import Kind, Result, Shown
from torchslots.evaluation.page import Heading, Image, Row, Section, Table, Text, write_page
from torchslots.evaluation.report import LABELS, EvalReport, compare
from torchslots.evaluation.seeds import learning_curves
from torchslots.io import draw
from torchslots.io.files import write_file


def write_metrics(result: Result, shown: Shown, seconds: dict[str, float]) -> None:
    """Write metrics.json: the reports, what the kind adds, what it was trained on, and how long each part took."""
    values: dict[str, Any] = {
        "recipe": result.plan.recipe.name,
        "examples": len(result.sets.train),
        "steps": result.plan.recipe.optim.num_steps,
        "reports": {name: json.loads(report.to_json()) for name, report in result.reports.items()},
        **shown.metrics,
        "seconds": seconds,
    }
    write_file(result.plan.out / "metrics.json", json.dumps(values, indent=2) + "\n")


def print_figures(result: Result, kind: Kind) -> None:
    """All reports side by side."""
    from rich.console import Console
    from rich.table import Table as Printed

    header, rows = compare(_shown_reports(result))
    table = Printed(*header, title=f"{_count(result)} held-out {kind.unit}")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def write_result(result: Result, shown: Shown, kind: Kind, seconds: dict[str, float]) -> Path:
    """The page."""
    header, rows = compare(_shown_reports(result))
    report = next(iter(_shown_reports(result).values()))
    sections: list[Section] = [
        Text(kind.introduce(result)),
        Table(header, rows, "Each figure is defined below."),
        Heading("What it sees"),
        *shown.sections,
        Heading("Learning"),
        Row(_learning(result, kind)),
        Heading("How the figures are defined"),
        Table(
            ["figure", "definition"],
            [[LABELS.get(name, name), report.definitions[name]] for name in report.metrics],
        ),
        Heading("What took how long"),
        Table(["part", "seconds"], [[name, f"{value:.0f}"] for name, value in seconds.items()], _CLOCK),
    ]
    return write_page(result.plan.out, f"torchslots demo: {result.plan.demo.title}", sections)


_CLOCK = (
    "Of the call that made this page: steps of a training that was interrupted before are not among them."
)


def _learning(result: Result, kind: Kind) -> list[Image]:
    """Curves of the training."""
    folder, run, label = result.plan.pictures, result.plan.run, LABELS[kind.monitor]
    loss = draw.curves(
        learning_curves(run, ["train/loss"]),
        folder / "loss.png",
        title="Training loss",
        y_label=f"loss, mean over {kind.unit}",
        log_y=True,
    )
    score = draw.curves(
        learning_curves(run, [f"eval/{kind.monitor}"]),
        folder / f"{kind.monitor}.png",
        title=f"{label} on held-out {kind.unit}",
        y_label=label,
    )
    return [
        Image(loss, "Loss of the training batches over training steps."),
        Image(score, f"{label} of held-out {kind.unit} while training."),
    ]


def _shown_reports(result: Result) -> dict[str, EvalReport]:
    """The reports; of images without the figures of single frames, which would say the same twice."""
    if result.plan.recipe.evaluation.num_frames > 1:
        return dict(result.reports)
    return {name: replace(report, metrics=_whole(report.metrics)) for name, report in result.reports.items()}


def _whole(metrics: dict[str, float]) -> dict[str, float]:
    return {
        name: value for name, value in metrics.items() if "_frame" not in name and "_no_first" not in name
    }


def _count(result: Result) -> int:
    return next(iter(result.reports.values())).num_videos

"""Results of a demonstration: metrics.json, a table in the terminal, and the page."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchslots.cli.demo.plan import Kind, Result, Shown
from torchslots.cli.table import print_comparison
from torchslots.evaluation.page import Heading, Image, Row, Table, write_page
from torchslots.evaluation.report import LABELS, EvalReport
from torchslots.evaluation.result_page import result_sections
from torchslots.evaluation.seeds import learning_curves
from torchslots.io import draw
from torchslots.io.files import write_file


def write_metrics(result: Result, shown: Shown, seconds: dict[str, float]) -> None:
    """Write metrics.json: reports, the kind's own figures, what was trained on, and seconds of each part."""
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
    print_comparison(_shown_reports(result), f"{result.own.num_videos} held-out {kind.unit}")


def write_result(result: Result, shown: Shown, kind: Kind, seconds: dict[str, float]) -> Path:
    """Write the page."""
    learning = [Heading("Learning"), Row(_learning(result, kind))]
    sections = [
        *result_sections(_shown_reports(result), kind.introduce(result), shown.sections, learning),
        Heading("What took how long"),
        Table(["part", "seconds"], [[part, f"{value:.0f}"] for part, value in seconds.items()], _CLOCK),
    ]
    return write_page(result.plan.out, f"torchslots demo: {result.plan.demo.title}", sections)


_CLOCK = "Of the call that made this page, without the steps of a training that was interrupted before."


def _learning(result: Result, kind: Kind) -> list[Image]:
    """Learning curves."""
    folder, run, label = result.plan.pictures, result.plan.run, LABELS[kind.monitor]
    loss = draw.plot_curves(
        learning_curves(run, ["train/loss"]),
        folder / "loss.png",
        title="Training loss",
        y_label=f"loss, mean over {kind.unit}",
        log_y=True,
    )
    score = draw.plot_curves(
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
    """The reports; of images without the figures of single frames, which are the same."""
    if result.plan.recipe.evaluation.num_frames > 1:
        return dict(result.reports)
    shown = {}
    for name, report in result.reports.items():
        whole = {f: v for f, v in report.metrics.items() if "_frame" not in f and "_no_first" not in f}
        shown[name] = replace(report, metrics=whole)
    return shown

"""The page of a result: three figures, images, then all figures with their definitions.

`torchslots evaluate` and `torchslots demo` write it; `torchslots report` for several models.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torchslots.evaluation.page import (
    Figure,
    Figures,
    Heading,
    Image,
    Row,
    Section,
    Table,
    Text,
    Video,
    write_page,
)
from torchslots.evaluation.report import LABELS, EvalReport, compare, format_figure
from torchslots.recipes import protocols

MAIN = (
    "fg_ari",
    "j_and_f",
    "mbo",
    "miou",
    "ari",
    "ap_inf",
    "ap_1",
    "ap_0.5",
    "psnr",
    "ssim",
    "lpips_vgg",
    "mse",
)
"""Figures by which models are compared, the first ones first."""
_SHOWN = 3
_KINDS = {".mp4": Video, ".png": Image}
_HOW_TO_READ = (
    "From left to right and top to bottom: the input; the true objects, where the data have masks; the predicted ones; "
    "what is reconstructed; then each slot alone. One colour is one object. A chequer is where a slot has no part."
)


def main_figures(metrics: Mapping[str, float]) -> list[str]:
    """Names of the three figures to show first."""
    known = [name for name in MAIN if name in metrics]
    return [*known, *(name for name in metrics if name not in known)][:_SHOWN]


def figures_of(reports: Mapping[str, EvalReport]) -> Figures:
    """The first report's main figures, each above those of the others."""
    (own, *others), rest = reports.values(), list(reports)[1:]
    items = []
    for name in main_figures(own.metrics):
        beside = [
            f"{title}: {format_figure(name, other.metrics[name])}"
            for title, other in zip(rest, others)
            if name in other.metrics
        ]
        items.append(
            Figure(format_figure(name, own.metrics[name]), LABELS.get(name, name), "; ".join(beside))
        )
    return Figures(items)


def result_sections(
    reports: Mapping[str, EvalReport],
    introduction: str,
    shown: Sequence[Section],
    more: Sequence[Section] = (),
) -> list[Section]:
    """The sections of a result's page.

    Args:
        reports: By name, the model's own first, then those of baselines.
        shown: Images and films, with what they show.
        more: Sections in front of the definitions.
    """
    own = next(iter(reports.values()))
    header, rows = compare(reports)
    defined = [[LABELS.get(name, name), own.definitions[name]] for name in own.metrics]
    notes = [Text(f"Note: {note}") for note in own.notes]
    return [
        figures_of(reports),
        Text(introduction),
        Heading("What it sees"),
        *shown,
        Heading("All figures"),
        Table(header, rows, "Each figure is defined below."),
        *notes,
        *more,
        Heading("How the figures are defined"),
        Table(["figure", "definition"], defined),
    ]


def write_result_page(
    folder: Path, title: str, reports: Mapping[str, EvalReport], written: Sequence[Path], about: str
) -> Path:
    """Write the page of an evaluation to `folder`, and return its path.

    Args:
        written: What `EvalReport.save` wrote of the first report.
        about: What was evaluated, on what.

    Raises:
        UserError: a full disk, or a folder that cannot be written.
    """
    own = next(iter(reports.values()))
    films = {path.stem: path for path in written if path.suffix in _KINDS}
    items = [
        _KINDS[films[stem].suffix](films[stem], panel.name or f"video {index}")
        for index, panel in enumerate(own.panels)
        if (stem := f"video_{index}") in films
    ]
    shown: list[Section] = [Text(_HOW_TO_READ), Row(items)] if items else [Text("No video was plotted.")]
    shown += [
        Image(path, "Properties of objects, predicted beside true.")
        for path in _named(written, "properties_")
    ]
    shown += [Image(path, "FG-ARI of each frame alone.") for path in _named(written, "fg_ari_per_frame")]
    settings = [[name, _plain(value)] for name, value in own.settings.items() if value is not None]
    more: list[Section] = (
        [Text(protocols.describe(own.settings["protocol"]))] if "protocol" in own.settings else []
    )
    sections = result_sections(reports, about, shown, more)
    return write_page(folder, title, [*sections, Heading("Settings"), Table(["setting", "value"], settings)])


def _named(written: Sequence[Path], start: str) -> list[Path]:
    return [path for path in written if path.name.startswith(start) and path.suffix == ".png"]


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

"""Models side by side, as Markdown, CSV, LaTeX or a page with images: what `torchslots report --out FILE` writes."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path

from torchslots.evaluation.page import Heading, Image, Row, Section, Table, Text, Video, write_page
from torchslots.evaluation.report import LABELS, format_figure, lower_is_better
from torchslots.evaluation.result_page import MAIN
from torchslots.evaluation.seeds import Figure, Group, SeedTable
from torchslots.io.errors import UserError, nearest
from torchslots.io.files import write_file
from torchslots.io.images import natural_key

_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}
_MOST_FILMS = 4


def write_report(table: SeedTable, file: Path, kind: str | None = None) -> Path:
    """Write a comparison, and return the file.

    Args:
        kind: `md`, `csv`, `tex`, `html` or `json`; None: by the file's ending.

    Raises:
        UserError: an unknown format, a full disk, or a file that cannot be written.
    """
    FORMATS[format_of(file, kind)](table, file)
    return file


def format_of(file: Path, kind: str | None) -> str:
    """The format that is asked for; None: by the file's ending.

    Raises:
        UserError: an unknown one.
    """
    name = kind or file.suffix.lstrip(".").lower()
    name = _ALSO.get(name, name)
    if name not in FORMATS:
        raise UserError(
            f"`{name}` is no format of a report. {nearest(name, FORMATS)} Give --format, or a file that ends so."
        )
    return name


def titles(groups: Sequence[Group]) -> list[str]:
    """A short name for each group: its recipe and what sets it apart."""
    return [_title(group) for group in groups]


def _title(group: Group) -> str:
    apart = ", ".join(f"{_last(key)} {value}" for key, value in group.differs.items())
    return f"{group.recipe} ({apart})" if apart else group.recipe


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def figure_names(groups: Sequence[Group]) -> list[str]:
    """Names of all figures, the main ones first."""
    found = list(dict.fromkeys(figure.name for group in groups for figure in group.figures))
    return [*(name for name in MAIN if name in found), *(name for name in found if name not in MAIN)]


def _rows(groups: Sequence[Group], mark: Callable[[str], str]) -> list[list[str]]:
    """A row for each figure: its name and each group's mean and standard error; `mark` is put on the best mean."""
    rows = []
    for name in figure_names(groups):
        found = [next((figure for figure in group.figures if figure.name == name), None) for group in groups]
        means = [figure.mean for figure in found if figure is not None]
        best = (min if lower_is_better(name) else max)(means)
        several = len(means) > 1
        cells = [
            ""
            if figure is None
            else mark(_cell(figure))
            if several and figure.mean == best
            else _cell(figure)
            for figure in found
        ]
        rows.append([LABELS.get(name, name), *cells])
    return rows


def _cell(figure: Figure) -> str:
    mean = format_figure(figure.name, figure.mean)
    return (
        mean
        if figure.standard_error is None
        else f"{mean} ± {format_figure(figure.name, figure.standard_error)}"
    )


def _markdown(table: SeedTable) -> str:
    groups = table.groups
    header = ["", *(_pipes(title) for title in titles(groups))]
    runs = ["runs", *(str(len(group.runs)) for group in groups)]
    rows = [header, ["---", *("---:" for _ in groups)], runs, *_rows(groups, lambda cell: f"**{cell}**")]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    notes = [f"\n{_pipes(_title(group))}: {note}" for group in groups for note in group.notes]
    return "\n".join([*lines, *notes, "", "Mean over runs ± standard error; the best mean is bold.", ""])


def _pipes(text: str) -> str:
    return text.replace("|", "\\|")


def _csv(table: SeedTable) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("recipe", "settings", "figure", "runs", "mean", "standard_error", "best"))
    for group in table.groups:
        settings = "; ".join(f"{key}={value}" for key, value in group.differs.items())
        for figure in group.figures:
            error = "" if figure.standard_error is None else figure.standard_error
            writer.writerow((group.recipe, settings, figure.name, figure.n, figure.mean, error, figure.best))
    return text.getvalue()


def _latex(table: SeedTable) -> str:
    groups = table.groups
    found = [["", *titles(groups)], *_rows(groups, lambda cell: f"\0{cell}\1")]
    rows = [" & ".join(map(_tex, row)) + r" \\" for row in found]
    head, *body = (row.replace("\0", r"\textbf{").replace("\1", "}") for row in rows)
    columns = "l" + "r" * len(groups)
    above = ["% needs \\usepackage{booktabs}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    return "\n".join([*above, head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _write_page(table: SeedTable, file: Path) -> Path:
    groups, names = table.groups, titles(table.groups)
    films = [films_of(Path(group.runs[0]))[:_MOST_FILMS] for group in groups]
    sections: list[Section] = [
        Table(
            ["", *names],
            [["runs", *(str(len(group.runs)) for group in groups)], *_rows(groups, _starred)],
            "Mean over runs ± standard error. A star marks the best mean.",
        ),
        Heading("What they see"),
    ]
    for index, row in enumerate(zip_longest(*films)):
        shown = [_shown(path, f"{name}: {path.stem}") for name, path in zip(names, row) if path is not None]
        sections += [Heading(f"Example {index}", 3), Row(shown)]
    if not any(films):
        sections.append(Text("No images: run `torchslots evaluate` on the runs first."))
    for name, group in zip(names, groups):
        sections += [Heading(name), Text("\n\n".join([f"Runs: {', '.join(group.runs)}", *group.notes]))]
        if group.differs:
            sections.append(
                Table(["setting", "value"], [[key, value] for key, value in group.differs.items()])
            )
    return write_page(file.parent, "Models side by side", sections, file.name)


def _starred(cell: str) -> str:
    return f"{cell} *"


def _shown(path: Path, caption: str) -> Image | Video:
    return (Video if path.suffix == ".mp4" else Image)(path, caption)


def films_of(run: Path) -> list[Path]:
    """The videos that an evaluation of a run plotted, else the newest plot of its training."""
    for folder in (run / "eval", run):
        found = [path for path in folder.glob("video_*") if re.fullmatch(r"video_\d+\.(mp4|png)", path.name)]
        if found:
            return sorted(found, key=lambda path: natural_key(path.name))
    steps = sorted((run / "pictures").glob("step_*.png"), key=lambda path: natural_key(path.name))
    return steps[-1:]


def _as_text(text: Callable[[SeedTable], str]) -> Callable[[SeedTable, Path], object]:
    return lambda table, file: write_file(file, text(table))


FORMATS: dict[str, Callable[[SeedTable, Path], object]] = {
    "md": _as_text(_markdown),
    "csv": _as_text(_csv),
    "tex": _as_text(_latex),
    "json": _as_text(lambda table: table.to_json() + "\n"),
    "html": _write_page,
}
"""Formats of a report, and the function that writes each."""
_ALSO = {"markdown": "md", "latex": "tex", "htm": "html"}

"""Tables on the command line."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchslots.evaluation.report import EvalReport

_WIDEST = 110
"""Columns of a terminal that a table takes at most."""
_NARROWEST, _GAP = 8, "  "


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """One line for each row: on a terminal the widest columns but the first are cut to its width, elsewhere nothing is.

    Args:
        right: Columns to be aligned at the right.
    """
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    if sys.stdout.isatty():
        spare = min(shutil.get_terminal_size().columns, _WIDEST) - len(_GAP) * (len(widths) - 1) - widths[0]
        while sum(widths[1:]) > spare and max(widths[1:]) > _NARROWEST:
            widths[1 + widths[1:].index(max(widths[1:]))] -= 1
    for line in lines:
        cells = [
            _fit(cell, width).rjust(width) if name in right else _fit(cell, width).ljust(width)
            for name, cell, width in zip(header, line, widths)
        ]
        print(_GAP.join(cells).rstrip())


def _fit(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 1]}…"


def print_comparison(reports: "Mapping[str, EvalReport]", title: str) -> None:
    """A column for each report, a line for each figure."""
    from rich.console import Console
    from rich.table import Table

    from torchslots.evaluation.report import compare

    header, rows = compare(reports)
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)

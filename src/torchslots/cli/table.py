"""Tables on the command line."""

import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchslots.evaluation.report import EvalReport

_GAP = "  "


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> None:
    """One line for each row. No cell is ever cut: a table that is too wide loses whole columns.

    The width is that of the terminal, or `COLUMNS` of the environment; 80 where neither says, as in a pipe.

    Args:
        right: Columns to be aligned at the right.
        optional: Columns that may be left out, the first of them first.
    """
    table = {name: [name, *(row[i] for row in rows)] for i, name in enumerate(header)}
    for name in optional:
        if _width(table) > shutil.get_terminal_size().columns:
            del table[name]
    padded = [
        [cell.rjust(_widest(cells)) if name in right else cell.ljust(_widest(cells)) for cell in cells]
        for name, cells in table.items()
    ]
    for line in zip(*padded):
        print(_GAP.join(line).rstrip())


def _width(table: Mapping[str, Sequence[str]]) -> int:
    return sum(map(_widest, table.values())) + len(_GAP) * (len(table) - 1)


def _widest(cells: Sequence[str]) -> int:
    return max(map(len, cells))


def print_comparison(reports: "Mapping[str, EvalReport]", title: str) -> None:
    """A table with a column for each report and a line for each figure."""
    from rich.console import Console
    from rich.table import Table

    from torchslots.evaluation.report import compare

    header, rows = compare(reports)
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)

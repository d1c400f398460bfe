"""Tables on the command line."""

import shutil
import sys
from collections.abc import Sequence

_WIDEST = 110
"""Columns of a terminal that a table takes at most."""
_GAP = "  "


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """One line for each row: on a terminal the widest columns are cut to its width, elsewhere nothing is.

    Args:
        right: Columns to be aligned at the right.
    """
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    if sys.stdout.isatty():
        columns = min(shutil.get_terminal_size().columns, _WIDEST) - len(_GAP) * (len(widths) - 1)
        while sum(widths) > max(columns, len(widths)):
            widths[widths.index(max(widths))] -= 1
    for line in lines:
        cells = [
            _fit(cell, width).rjust(width) if name in right else _fit(cell, width).ljust(width)
            for name, cell, width in zip(header, line, widths)
        ]
        print(_GAP.join(cells).rstrip())


def _fit(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 1]}…"

"""`torchslots report`."""

from pathlib import Path

import tyro

from torchslots.cli.options import Json, Words, parse
from torchslots.io.errors import UserError


def report(words: Words) -> int:
    """`torchslots report RUN...`."""
    from torchslots.evaluation.seeds import report

    def of_runs(
        runs: tyro.conf.Positional[tuple[Path, ...]],
        /,
        as_json: Json = False,
    ) -> None:
        """Print mean and standard error over seeds of runs, grouped by recipe and by what else they differ in.

        Args:
            runs: Folders of `torchslots train`, or of `torchslots evaluate`.
            as_json: Print JSON in place of a table.
        """
        if not runs:
            raise UserError("name at least one run folder.")
        table = report(list(runs))
        print(table.to_json()) if as_json else table.print_table()

    parse(of_runs, words, "report")
    return 0

"""`torchslots report`."""

from pathlib import Path
from typing import Annotated

import tyro

from torchslots.cli.options import Json, Words, parse
from torchslots.io.errors import UserError


def report(words: Words) -> int:
    """`torchslots report RUN...`."""
    from torchslots.evaluation.comparison import format_of, write_report
    from torchslots.evaluation.seeds import report

    def of_runs(
        runs: tyro.conf.Positional[tuple[Path, ...]],
        /,
        as_json: Json = False,
        out: Path | None = None,
        as_format: Annotated[str | None, tyro.conf.arg(name="format")] = None,
    ) -> None:
        """Compare models: mean and standard error over seeds, for each recipe and each of its configurations.

        Args:
            runs: Folders of `torchslots train`, or of `torchslots evaluate`.
            as_json: Print JSON in place of a table.
            out: File to write, too, with the models side by side: Markdown, CSV, LaTeX, JSON, or a page with images.
            as_format: md, csv, tex, json or html; None: by the ending of --out.
        """
        if not runs:
            raise UserError("name at least one run folder.")
        if as_format is not None and out is None:
            raise UserError("--format needs --out FILE, the file to write.")
        if out is not None:
            format_of(out, as_format)
        table = report(list(runs))
        print(table.to_json()) if as_json else table.print_table()
        if out is not None:
            print(f"Written to {write_report(table, out, as_format)}")

    parse(of_runs, words, "report")
    return 0

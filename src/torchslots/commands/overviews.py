"""`torchslots recipes`, `torchslots report` and `torchslots demo`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from torchslots.commands.line import Words, parse
from torchslots.errors import UserError


def recipes(words: Words) -> int:
    """`torchslots recipes`: names, systems, what the papers report."""
    from torchslots.recipes import catalog

    def recipes(as_json: Annotated[bool, tyro.conf.arg(name="json")] = False) -> None:
        """List the recipes.

        Args:
            as_json: Print every number as JSON.
        """
        table = {
            name: (" ".join((make.__doc__ or "").split()), make()) for name, make in catalog.RECIPES.items()
        }
        if as_json:
            print(
                json.dumps(
                    {
                        name: {"about": about, **dataclasses.asdict(recipe)}
                        for name, (about, recipe) in table.items()
                    }
                )
            )
            return
        width = max(map(len, table))
        for name, (about, _) in table.items():
            print(f"  {name:<{width}}  {about}")

    parse(recipes, words, "recipes")
    return 0


def report(words: Words) -> int:
    """`torchslots report RUN...`."""
    from torchslots.training.report import report

    def of_runs(
        runs: tyro.conf.Positional[tuple[Path, ...]],
        /,
        as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    ) -> None:
        """Mean and standard error over seeds, for runs grouped by recipe.

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


def demo(words: Words) -> int:
    """`torchslots demo`."""
    from torchslots.demo import demo

    print(f"Open {parse(demo, words, 'demo')} in a browser.")
    return 0

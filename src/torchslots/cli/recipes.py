"""`torchslots recipes`, `torchslots report` and `torchslots demo`."""

import dataclasses
import json
from typing import Annotated

import tyro

from torchslots.cli.options import Words, parse


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

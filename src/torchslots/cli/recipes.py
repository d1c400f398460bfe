"""`torchslots recipes`."""

import json
from dataclasses import asdict

import tyro

from torchslots.cli.options import Json, Words, parse
from torchslots.cli.table import print_table
from torchslots.io.errors import UserError

_HEADER = ("name", "system", "data", "pixels", "frames", "slots", "M weights", "published")
_NUMBERS = ("pixels", "frames", "slots", "M weights")


def recipes(words: Words) -> int:
    """`torchslots recipes [WORD]`."""
    from torchslots.recipes import catalog
    from torchslots.recipes.summary import summaries

    def recipes(
        word: tyro.conf.Positional[str | None] = None, /, long: bool = False, as_json: Json = False
    ) -> None:
        """List the recipes.

        Args:
            word: Only recipes with this word in their name, their system or their data set.
            long: Print what each is, in sentences.
            as_json: Print everything as JSON, the whole configuration too.
        """
        rows = summaries(word)
        if not rows:
            raise UserError(f"no recipe has `{word}` in its name, system or data. See `torchslots recipes`.")
        if as_json:
            print(json.dumps({row.name: asdict(row) | asdict(catalog.recipe(row.name)) for row in rows}))
        elif long:
            for row in rows:
                print(f"{row.name}\n    {row.about}")
        else:
            print_table(
                _HEADER,
                [
                    (
                        *(row.name, row.system, row.data, str(row.resolution), str(row.frames)),
                        *(str(row.slots or "-"), f"{row.weights / 1e6:.1f}", row.published),
                    )
                    for row in rows
                ],
                right=_NUMBERS,
            )

    parse(recipes, words, "recipes")
    return 0

"""`torchslots recipes`."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import tyro

from torchslots.cli.options import Json, Words, parse
from torchslots.cli.table import print_table
from torchslots.io.errors import UserError

if TYPE_CHECKING:
    from torchslots.recipes.catalog import Summary

_HEADER = ("name", "system", "data", "pixels", "frames", "slots", "M weights", "needs", "published")
_NUMBERS = ("pixels", "frames", "slots", "M weights")
_OPTIONAL = ("M weights", "system", "data", "frames", "pixels")


def recipes(words: Words) -> int:
    """`torchslots recipes [WORD]`."""
    from torchslots.recipes import catalog

    def recipes(
        word: tyro.conf.Positional[str | None] = None, /, long: bool = False, as_json: Json = False
    ) -> None:
        """List the recipes: system, data set, pixels, frames of a clip, slots, millions of weights, what training needs
        besides frames, published figure.

        A narrow terminal leaves out the weights, the system, the data set, the frames and the pixels, in this order;
        filter by a word, or use --long.

        Args:
            word: Only recipes with this word in their name, their system or their data set.
            long: Print every column and what each recipe is, in sentences.
            as_json: Print everything as JSON, the whole configuration too.
        """
        rows = catalog.summaries(word or "")
        if not rows:
            raise UserError(f"no recipe has `{word}` in its name, system or data. See `torchslots recipes`.")
        if as_json:
            print(json.dumps({row.name: row._asdict() | asdict(catalog.recipe(row.name)) for row in rows}))
        elif long:
            for row in rows:
                facts = (f"{name}: {cell}" for name, cell in zip(_HEADER[1:], _cells(row)[1:]) if cell)
                print(row.name, " ".join(row.about.split()), "; ".join(facts), sep="\n    ")
        else:
            print_table(_HEADER, [_cells(row) for row in rows], right=_NUMBERS, optional=_OPTIONAL)

    parse(recipes, words, "recipes")
    return 0


def _cells(row: "Summary") -> tuple[str, ...]:
    """The cells below `_HEADER`."""
    pixels, slots = "x".join(map(str, row.resolution)), str(row.num_slots or "-")
    weights = f"{row.million_weights:.1f}"
    return (
        row.name,
        row.system,
        row.dataset,
        pixels,
        str(row.num_frames),
        slots,
        weights,
        row.needs,
        row.published,
    )

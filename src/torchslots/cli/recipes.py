"""`torchslots recipes`."""

import json
from typing import TYPE_CHECKING, Annotated, Any

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
    from torchslots.recipes.recipe_files import recipe_yaml

    def recipes(
        word: tyro.conf.Positional[str | None] = None,
        /,
        long: bool = False,
        as_json: Json = False,
        as_yaml: Annotated[bool, tyro.conf.arg(name="yaml")] = False,
    ) -> None:
        """List the recipes: system, data set, pixels, frames of a clip, slots, millions of weights, what training needs
        besides frames, published figure.

        A narrow terminal leaves out the weights, the system, the data set, the frames and the pixels, in this order;
        filter by a word, or use --long.

        Args:
            word: Only recipes with this word in their name, their system or their data set.
            long: Print every column and what each recipe is, in sentences.
            as_json: Print everything as JSON, the whole configuration too; of a recipe's whole name that recipe alone.
            as_yaml: Print the configuration of one recipe as YAML, for `torchslots train FILE.yaml`.
        """
        if as_yaml:
            print(recipe_yaml(catalog.recipe(word or "")), end="")
            return
        rows = catalog.summaries(word or "")
        if not rows:
            raise UserError(f"no recipe has `{word}` in its name, system or data. See `torchslots recipes`.")
        if as_json:
            chosen = [row for row in rows if row.name == word] or rows
            print(json.dumps({row.name: row._asdict() | _settings(row.name) for row in chosen}))
        elif long:
            for row in rows:
                facts = (f"{name}: {cell}" for name, cell in zip(_HEADER[1:], _cells(row)[1:]) if cell)
                print(row.name, " ".join(row.about.split()), "; ".join(facts), sep="\n    ")
        else:
            print_table(_HEADER, [_cells(row) for row in rows], right=_NUMBERS, optional=_OPTIONAL)

    parse(recipes, words, "recipes")
    return 0


def _settings(name: str) -> dict[str, Any]:
    """All fields of a recipe, as `torchslots train FILE.json` reads them."""
    from torchslots.recipes import catalog
    from torchslots.recipes.config import to_json

    return json.loads(to_json(catalog.recipe(name)))


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

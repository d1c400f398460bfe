"""`torchslots data`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torchslots.cli.options import Words, parse
from torchslots.io.errors import UserError, nearest


def _data_commands() -> dict[str, tuple[str, Callable[..., Any]]]:
    from torchslots.data.catalog import data_list
    from torchslots.data.download.sets import data_download
    from torchslots.data.inspect import data_inspect
    from torchslots.data.prepare import data_prepare
    from torchslots.data.sets.waymo_prepare import prepare_waymo
    from torchslots.sim.generate_images import generate_images
    from torchslots.sim.generate_videos import generate

    return {
        "list": ("what there is, with licences and sizes", data_list),
        "download": ("fetch a public data set, with resume and checksums", data_download),
        "inspect": ("print what is in a folder, draw a contact sheet, find damage", data_inspect),
        "prepare": ("cache only what a recipe needs: data prepare RECIPE, ready to train from", data_prepare),
        "generate": ("make videos with physics and a ray caster, as MOVi folders", generate),
        "generate-images": ("make Tetrominoes, rooms and CLEVR pictures, with masks", generate_images),
        "prepare-waymo": (
            "cut camera pictures and masks out of Waymo Open's original records",
            prepare_waymo,
        ),
    }


def _for_recipe(prepare: Callable[..., Any], words: Words) -> tuple[Callable[..., Any], Words]:
    """`data prepare` with the data settings and splits of the recipe that the line begins with, if it does."""
    from torchslots.recipes import catalog

    if not words or words[0].startswith("-"):
        return prepare, words
    recipe = catalog.recipe(words[0])
    splits = tuple(dict.fromkeys((recipe.data.train_split, recipe.evaluation.split)))
    return partial(prepare, config=recipe.data, splits=splits), words[1:]


def data(words: Words) -> int:
    """`torchslots data list|download|inspect|prepare|generate|generate-images`."""
    table = _data_commands()
    if not words or words[0] in ("-h", "--help"):
        print("Usage: torchslots data COMMAND [arguments]\n")
        width = max(map(len, table))
        print("\n".join(f"  {name:<{width}}  {purpose}" for name, (purpose, _) in table.items()))
        return 0 if words else 2
    if words[0] not in table:
        raise UserError(f"there is no data command `{words[0]}`. {nearest(words[0], table)}")
    command, rest = table[words[0]][1], words[1:]
    if words[0] == "prepare":
        command, rest = _for_recipe(command, rest)
    result = parse(command, rest, f"data {words[0]}")
    return result if isinstance(result, int) else 0

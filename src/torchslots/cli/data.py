"""`torchslots data`."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib import import_module
from typing import Any

import tyro

from torchslots.cli.options import Json, Words, parse
from torchslots.cli.table import print_table
from torchslots.io.errors import UserError, nearest

_COMMANDS = {
    "list": ("what there is, with sizes and licences", "cli.data:list_data"),
    "download": ("fetch a public data set, with resume and checksums", "data.download.sets:data_download"),
    "inspect": ("print what is in a folder, plot a contact sheet, find damage", "data.inspect:data_inspect"),
    "prepare": ("cache only what a recipe needs: data prepare RECIPE", "data.prepare:data_prepare"),
    "generate": ("make videos with physics and a ray caster", "sim.generate_videos:generate"),
    "generate-images": ("make images with masks", "sim.generate_images:generate_images"),
    "prepare-waymo": ("cut images out of Waymo Open's records", "data.sets.waymo_prepare:prepare_waymo"),
}
"""Name -> what it does, and the function that does it, imported when it is called."""


def data(words: Words) -> int:
    """`torchslots data list|download|inspect|prepare|generate|generate-images|prepare-waymo`."""
    if not words or words[0] in ("-h", "--help"):
        print("Usage: torchslots data COMMAND [arguments]\n")
        width = max(map(len, _COMMANDS))
        print("\n".join(f"  {name:<{width}}  {purpose}" for name, (purpose, _) in _COMMANDS.items()))
        return 0 if words else 2
    if words[0] not in _COMMANDS:
        raise UserError(f"there is no data command `{words[0]}`. {nearest(words[0], _COMMANDS)}")
    place, _, name = _COMMANDS[words[0]][1].partition(":")
    command, rest = getattr(import_module(f"torchslots.{place}"), name), words[1:]
    if words[0] == "prepare":
        command, rest = _for_recipe(command, rest)
    result = parse(command, rest, f"data {words[0]}")
    return result if isinstance(result, int) else 0


def list_data(
    word: tyro.conf.Positional[str | None] = None,
    /,
    long: bool = False,
    as_json: Json = False,
) -> None:
    """List the data sets.

    Args:
        word: Only data sets with this word in their name or description.
        long: Print licences and addresses in full, and how to get what cannot be downloaded.
        as_json: Print everything as JSON.
    """
    from torchslots.data.catalog import DATASETS, list_datasets

    chosen = {name: DATASETS[name] for name in list_datasets(word)}
    if not chosen:
        raise UserError(f"no data set has `{word}` in its name or description. See `torchslots data list`.")
    if as_json:
        values = {name: asdict(found) for name, found in chosen.items()}
        print(
            json.dumps(
                {name: {k: v for k, v in entry.items() if k != "open"} for name, entry in values.items()}
            )
        )
    elif long:
        for name, found in chosen.items():
            about = [
                found.description,
                f"{', '.join(found.splits)}; {found.size}",
                f"licence: {found.licence}",
            ]
            about += [str(text) for text in (found.remote, found.get) if text]
            print(name, *about, sep="\n    ")
    else:
        rows = [
            (name, found.description, found.size, _short(found.licence), " ".join(found.splits))
            for name, found in chosen.items()
        ]
        print_table(("name", "what", "size", "licence", "splits"), rows)


def _short(licence: str) -> str:
    """The licence without its remarks."""
    return licence.split(";")[0].split(", to be")[0].split(": see")[0]


def _for_recipe(prepare: Callable[..., Any], words: Words) -> tuple[Callable[..., Any], Words]:
    """`data prepare` with the data settings and splits of the recipe that the line begins with, if it does."""
    from torchslots.recipes import catalog

    if not words or words[0].startswith("-"):
        return prepare, words
    recipe = catalog.recipe(words[0])
    splits = tuple(dict.fromkeys((recipe.data.train_split, recipe.evaluation.split)))
    return partial(prepare, config=recipe.data, splits=splits), words[1:]

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
    "list": ("list the data sets; --long for splits, sizes, licences", "cli.data:list_data"),
    "download": ("fetch a public data set, with resume and checksums", "data.download.sets:data_download"),
    "inspect": (
        "print what a folder holds, plot a contact sheet, find damaged files",
        "data.inspect:data_inspect",
    ),
    "prepare": ("cache only what a recipe needs: data prepare RECIPE", "data.prepare:data_prepare"),
    "generate": ("simulate and render videos of objects", "sim.generate_videos:generate"),
    "generate-images": ("render images of objects, with masks", "sim.generate_images:generate_images"),
    "prepare-waymo": ("cut images out of Waymo Open's records", "data.sets.waymo_prepare:prepare_waymo"),
}
"""Name -> what it does, and its function, imported when it is called."""


def data(words: Words) -> int:
    """`torchslots data list|download|inspect|prepare|generate|generate-images|prepare-waymo`.

    Raises:
        UserError: no such command, or as the command.
    """
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
        long: Print splits, sizes, licences and addresses too, and how to get what cannot be downloaded.
        as_json: Print everything as JSON.

    Raises:
        UserError: no data set has the word.
    """
    from torchslots.data.catalog import DATASETS, list_datasets

    chosen = {name: DATASETS[name] for name in list_datasets(word)}
    if not chosen:
        raise UserError(f"no data set has `{word}` in its name or description. See `torchslots data list`.")
    if as_json:
        print(json.dumps({name: _facts(found) for name, found in chosen.items()}))
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
        rows = [(name, found.description, " ".join(found.splits)) for name, found in chosen.items()]
        print_table(("name", "what", "splits"), rows, optional=("splits",))


def _facts(found: Any) -> dict[str, Any]:
    """The fields of a row that are no functions."""
    return {name: value for name, value in asdict(found).items() if not callable(value)}


def _for_recipe(prepare: Callable[..., Any], words: Words) -> tuple[Callable[..., Any], Words]:
    """`data prepare` with the data settings and splits of the recipe that `words` begins with, if any."""
    from torchslots.recipes import catalog

    if not words or words[0].startswith("-"):
        return prepare, words
    recipe = catalog.recipe(words[0])
    splits = tuple(dict.fromkeys((recipe.data.train_split, recipe.evaluation.split)))
    return partial(prepare, config=recipe.data, splits=splits), words[1:]

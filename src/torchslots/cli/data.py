"""`torchslots data`."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import tyro

from torchslots.cli.options import Flat, Json, Words, chosen, parse
from torchslots.cli.table import print_table
from torchslots.io.errors import UserError

COMMANDS = {
    "list": ("list the data sets; --long for splits, sizes, licences", "cli.data:list_data"),
    "download": ("fetch a public data set, with resume and checksums", "data.download.sets:data_download"),
    "inspect": (
        "print what a folder holds, plot a contact sheet, find damaged files",
        "data.inspect:data_inspect",
    ),
    "prepare": (
        "cache what a recipe needs: data prepare RECIPE; --features RECIPE: features, to train several times as fast",
        "data.prepare:data_prepare",
    ),
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
    wanted = chosen(words, "data", {name: purpose for name, (purpose, _) in COMMANDS.items()})
    if wanted is None:
        return 0 if words else 2
    place, _, name = COMMANDS[wanted][1].partition(":")
    command, rest = getattr(import_module(f"torchslots.{place}"), name), words[1:]
    if wanted == "prepare":
        command, rest = _prepare_features(rest) or _for_recipe(command, rest)
    result = parse(command, rest, f"data {wanted}")
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
    from torchslots.data.catalog import datasets, list_datasets

    chosen = {name: datasets()[name] for name in list_datasets(word)}
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


def _prepare_features(words: Words) -> tuple[Callable[..., Any], Words] | None:
    """`data prepare [NAME] --features RECIPE`, if `words` has the flag; NAME is a data set, or a recipe on one."""
    flags = [word for word in words if word.partition("=")[0] == "--features"]
    if not flags:
        return None
    from torchslots.data.catalog import datasets
    from torchslots.recipes import catalog
    from torchslots.recipes.config import current_flags, with_changes
    from torchslots.training.feature_job import FeatureOptions

    after = words[words.index(flags[0]) + 1 :]
    name = flags[0].partition("=")[2] or (after[0] if after else "")
    if not name or name.startswith("-"):
        raise UserError("--features needs a recipe, such as `--features slotcontrast_movi_c`.")
    chosen = catalog.recipe(name)
    if not words[0].startswith("-"):
        dataset, words = words[0], words[1:]
        if dataset not in datasets():
            dataset = catalog.recipe(dataset).data.dataset
        chosen = with_changes(chosen, **{"data.dataset": dataset})
    return _feature_command(chosen, FeatureOptions(name)), current_flags(chosen, words)


def _feature_command(chosen: Any, defaults: Any) -> Callable[..., int]:
    from torchslots.convert.pretrained import model_folder
    from torchslots.io.devices import announce_device
    from torchslots.recipes.config import Recipe
    from torchslots.training.feature_job import FeatureJob, FeatureOptions

    def prepare(
        root: Path,
        out: Path,
        yes: bool = False,
        recipe: Flat[Recipe] = chosen,
        options: Flat[FeatureOptions] = defaults,
    ) -> int:
        """Store the features of a recipe's frozen backbone, to train with `--data prepared --root OUT`.

        Args:
            root: Folder of the data set.
            out: Folder to write; the same command resumes after an interruption.
            yes: Begin without asking.
            recipe: The recipe.
            options: What is stored.
        """
        if options.model is not None:
            options = replace(options, model=str(model_folder(options.model)))
        announce_device(options.device)
        job = FeatureJob(recipe, root, out, options)
        print(job.summary(), flush=True)
        if not (yes or job.finished or _agreed()):
            print("Nothing was written.")
            return 1
        print(*job.run(), sep="\n")
        print(f"Next: torchslots train {recipe.name} --data prepared --root {out} --run-dir DIR")
        return 0

    return prepare


def _agreed() -> bool:
    """The answer on the terminal.

    Raises:
        UserError: there is none to ask on.
    """
    if not sys.stdin.isatty():
        raise UserError(
            "Nothing was written: this needs an answer, and there is no terminal. Give --yes to begin."
        )
    return input("Begin? [y/N] ").strip().lower() in ("y", "yes")


def _for_recipe(prepare: Callable[..., Any], words: Words) -> tuple[Callable[..., Any], Words]:
    """`data prepare` with the data settings and splits of the recipe that `words` begins with, if any."""
    from torchslots.data.config import DataConfig
    from torchslots.recipes import catalog
    from torchslots.recipes.protocols import evaluation_data

    if not words or words[0].startswith("-"):
        return prepare, words
    recipe = catalog.recipe(words[0])
    both = tuple(dict.fromkeys((recipe.data.train_split, recipe.evaluation.split)))

    def prepare_for(
        root: Path,
        out: Path,
        *,
        splits: tuple[str, ...] = both,
        config: DataConfig = recipe.data,
        num_workers: int = 0,
        skip_corrupt: bool = False,
    ) -> None:
        """Cache what a recipe needs of a data set, to train and evaluate with `--data prepared --root OUT`.

        Splits that are not trained on get the labels that the recipe's protocol of evaluation takes.

        Args:
            root: Folder of the data set.
            out: Folder to write; the same command resumes after an interruption.
            splits: Splits to prepare.
            config: The recipe's data settings.
            num_workers: Processes that write; 0 or 1: this one.
            skip_corrupt: Leave out records that cannot be read; otherwise the first one stops the command.
        """
        evaluated = evaluation_data(config, recipe.evaluation)
        for split in splits:
            wanted = config if split == config.train_split else evaluated
            how = {"num_workers": num_workers, "skip_corrupt": skip_corrupt}
            prepare(root, out, splits=(split,), config=wanted, **how)

    return prepare_for, words[1:]

"""Load published checkpoints by name: each is fetched and converted once, then read from the cache.

Nothing in a file is executed. The public `load_model` and `load_tokenizer` are here, since names are among what they
take.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import torch
from torch import nn

from torchslots import hub
from torchslots._version import __version__
from torchslots.convert import layouts, systems
from torchslots.convert.fetch import Original, original, unpacked
from torchslots.convert.locations import (
    NO_SPACE,
    address,
    by_hand,
    cache_folder,
    converted_folder,
    is_here,
)
from torchslots.convert.readers.checkpoint import Checkpoint
from torchslots.convert.readers.torch import TorchCheckpoint
from torchslots.convert.released import RELEASED, released
from torchslots.convert.shipped import SHIPPED, shipped_folder
from torchslots.convert.sources import InArchive, Released
from torchslots.data.download.archives import ENDINGS, list_members
from torchslots.io.cache import user_cache
from torchslots.io.errors import UserError, check_type, nearest
from torchslots.io.files import atomic_folder, expanded, locked, remove_partial, sha256_of, write_file
from torchslots.models.model import ObjectCentricModel
from torchslots.models.tokenizers.base import Tokenizer
from torchslots.models.weights import CONFIG_NAME, save_pretrained, without_weights
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe, to_json

_RECIPE_NAME = "recipe.json"
"""As in a run, from which `evaluate` takes data set and settings."""
_TORCH_FILES = (".pth", ".pt", ".ckpt")
_ALL = "`torchslots pretrained list` shows all published checkpoints."


@dataclass(frozen=True)
class Fetched:
    """A converted published checkpoint: its model folder, and notes for the user."""

    name: str
    folder: Path
    notes: tuple[str, ...] = ()


def load_model(
    path_or_id: str | Path,
    *,
    device: str | torch.device | None = "cpu",
    revision: str | None = None,
    backbone: str | Path | None = None,
) -> ObjectCentricModel:
    """Load the model of a folder, a run of `train`, a published checkpoint, or the hub, in evaluation mode.

    Its configuration is `model.config`; for arguments and results of `model.predict` see `create_model`.

    Args:
        path_or_id: A folder with config.json and model.safetensors, its model.safetensors, a run folder (its
            final model, else its best), a name in `list_pretrained()`, or a hub id. A published checkpoint is fetched
            and converted the first time.
        device: Device of the model; None: cuda or mps where there is one, else cpu.
        revision: Branch, tag or commit on the hub; None: the main branch.
        backbone: For a model that was saved without its backbone: a file or folder with its weights; None: they are
            taken from the hub, or its cache, under the name in the configuration.

    Raises:
        UserError: no such folder, name or id; a pickle; a truncated or foreign file; tensors missing, left over or of
            another shape; a configuration of a newer version or an unknown family; a device that does not exist; a
            published checkpoint that cannot be fetched, with what to fetch by hand and where to put it.

    Examples:
        >>> model = torchslots.create_model("savi_small", num_slots=3, conditioning="learned")
        >>> folder = model.save_pretrained(path)
        >>> torchslots.load_model(path).config == model.config
        True
    """
    return hub.load_model(model_folder(path_or_id), device=device, revision=revision, backbone=backbone)


def load_tokenizer(
    path_or_id: str | Path, *, device: str | torch.device | None = "cpu", revision: str | None = None
) -> Tokenizer:
    """Load the tokenizer (dVAE, VQ-VAE) of a folder, a run, a published checkpoint, or the hub, in evaluation mode.

    Arguments and errors are those of `load_model`, which loads models of slots.

    Examples:
        >>> folder = torchslots.create_model("vqvae_demo").save_pretrained(path)
        >>> torchslots.load_tokenizer(path).training
        False
    """
    return hub.load_tokenizer(model_folder(path_or_id), device=device, revision=revision)


def model_folder(path_or_id: str | Path) -> str | Path:
    """The model folder of a model in the package, or of a published checkpoint, fetched if necessary; any other
    `path_or_id` is returned unchanged.

    A model folder takes precedence over a published checkpoint of the same name.

    Raises:
        UserError: a published checkpoint that cannot be fetched; a word that is neither one nor a file, with the
            nearest names.
    """
    name, path = str(check_type("path_or_id", path_or_id, str, Path)), expanded(path_or_id)
    if name in SHIPPED and not _holds_model(path):
        return shipped_folder(name)
    if name in RELEASED and not _holds_model(path):
        return get(name).folder
    if path.name == name and not path.suffix and not path.exists():
        hint = nearest(name, [*SHIPPED, *RELEASED], otherwise="")
        raise UserError(
            f"{name} does not exist here, and is no published checkpoint. {hint}{' ' if hint else ''}{_ALL} Or give "
            "a model folder, a run folder of `torchslots train`, or a hub id written owner/name."
        )
    return path_or_id


def _holds_model(folder: Path) -> bool:
    return any((folder / part / CONFIG_NAME).is_file() for part in ("", *hub.RUN_MODELS))


def get(name: str, file: Path | None = None) -> Fetched:
    """Fetch a published checkpoint and convert it to a model folder in the cache, unless that is done already.

    Args:
        file: the original file, or a folder or archive that holds it; it replaces an earlier conversion. None: the file
            is downloaded.

    Raises:
        UserError: no such name; it cannot be fetched, with what to fetch by hand and where to put it; a damaged file,
            one of another model, or one with another digest; no space, a cache that cannot be written.
    """
    if name in SHIPPED and file is None:
        return Fetched(name, shipped_folder(name), ("It is in the package: nothing is fetched.",))
    row, folder = released(name), converted_folder(name)
    recipe = recipe_of(row)
    if file is None and _is_current(name, recipe):
        return Fetched(name, folder)
    with locked(cache_folder(name) / ".lock", advice=NO_SPACE):
        if file is None and _is_current(name, recipe):
            return Fetched(name, folder)
        with original(name, row, file) as found:
            try:
                _convert(name, row, recipe, found, folder)
            except _Unreadable as error:
                raise UserError(_give_up(name, row, error, file is None)) from error
        _remove_older(folder)
    return Fetched(name, folder, (*found.notes, *([row.note] if row.note else [])))


def _is_current(name: str, recipe: Recipe) -> bool:
    """Whether the converted model exists and has the recipe's present configuration."""
    if not is_here(name):
        return False
    try:
        return catalog.read_recipe(converted_folder(name) / _RECIPE_NAME).model == recipe.model
    except UserError:
        return False


def get_all(archive: Path) -> tuple[list[Fetched], dict[str, str]]:
    """Convert every published checkpoint in an archive, and describe its other weights files.

    A file is recognised by its name and must have the weights of that model; under an unknown name, by its shapes.

    Raises:
        UserError: no archive, or none with a published checkpoint.
    """
    if not archive.is_file() or not archive.name.endswith(ENDINGS):
        raise UserError(
            f"{archive} is no archive ({', '.join(ENDINGS)}). Give the checkpoint's name beside a file."
        )
    sources = {row.source.file: name for name, row in RELEASED.items() if isinstance(row.source, InArchive)}
    names = [PurePosixPath(member).name for member in list_members(archive)]
    found: list[Fetched] = []
    others: dict[str, str] = {}
    for name in names:
        try:
            if name in sources:
                found.append(get(sources[name], archive))
            elif name.endswith(_TORCH_FILES):
                others[name] = _recognised(archive, name)
        except UserError as error:
            others[name] = f"not taken: {error}"
    if not found:
        held = [f"{name} ({others[name]})" if name in others else name for name in names[:12]]
        raise UserError(
            f"{archive} holds no published checkpoint, only {', '.join(held) or 'nothing'}. {_ALL}"
        )
    return found, others


def _recognised(archive: Path, name: str) -> str:
    """Describe a file with an unknown name by its tensors' names and shapes."""
    with unpacked(archive, user_cache("pretrained"), lambda member: member == name) as folder:
        (path,) = folder.rglob(name)
        try:
            program, read = systems.open_original(path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), name)) from error
        return f"a checkpoint of {program.title} that has no name here.{_fitting(program, read)}"


class _Unreadable(Exception):
    """A file could not be read as a checkpoint of any program."""


def _convert(name: str, row: Released, recipe: Recipe, found: Original, folder: Path) -> None:
    """Write the model folder, whole or not at all.

    Raises:
        _Unreadable: damaged, or no checkpoint.
        UserError: a checkpoint of another model; no space.
    """
    try:
        reader, read = systems.read_original(found.path)
    except UserError as error:
        raise _Unreadable(str(error)) from error
    with torch.random.fork_rng(devices=[]), without_weights():
        model = catalog.build(recipe.model)
    _fill(model, recipe, row.system, reader, read, f"It is not {name} as published. {by_hand(name, row)}")
    with atomic_folder(folder, advice=NO_SPACE) as part:
        save_pretrained(model, recipe.model, part, card=_card(name, row))
        write_file(part / _RECIPE_NAME, to_json(recipe))
        write_file(part / "source.json", json.dumps(_source(name, row, read), indent=2) + "\n")


def _fill(
    model: nn.Module,
    recipe: Recipe,
    system: str,
    reader: systems.Reader,
    read: Checkpoint | TorchCheckpoint,
    remedy: str,
) -> None:
    """Load the weights of a checkpoint, all of them and no others.

    Raises:
        UserError: they are of another program or another size; the message ends with `remedy` and what they fit.
    """
    program = None
    try:
        program = systems.program_of(read, reader)
        if not isinstance(recipe.model, program.config):
            raise UserError(f"{read.path} is a checkpoint of {program.title}, not of {system}. {remedy}")
        state = systems.weights(program, read, recipe.model, remedy)
        layouts.fill(model, state, str(read.path), remedy)
    except UserError as error:
        more = f" {remedy}" if program is None else _fitting(program, read)
        raise UserError(f"{error}{more}") from error


def recipe_of(row: Released) -> Recipe:
    """The recipe of a published checkpoint, on the data that it was trained on."""
    recipe = catalog.recipe(row.recipe)
    return recipe if row.dataset is None else replace(recipe, data=replace(recipe.data, dataset=row.dataset))


def _fitting(program: systems.Program, read: Checkpoint | TorchCheckpoint) -> str:
    """A sentence with the published checkpoints whose weights have these names and shapes; empty: none has."""
    recipes = {row.recipe for row in RELEASED.values() if row.recipe in catalog.RECIPES}
    fitting = {
        recipe for recipe in recipes if systems.has_weights_of(program, read, catalog.recipe(recipe).model)
    }
    names = [name for name, row in RELEASED.items() if row.recipe in fitting]
    return f" By its shapes it may be {', '.join(names)}." if names else ""


def _give_up(name: str, row: Released, error: Exception, downloaded: bool) -> str:
    """The message for an unreadable file; a downloaded one is removed, so that it is fetched again."""
    if not downloaded or isinstance(row.source, InArchive):
        return f"{error} {by_hand(name, row)}"
    shutil.rmtree(cache_folder(name) / "original", ignore_errors=True)
    return f"{error} It was removed: give the command again to fetch it anew. {by_hand(name, row)}"


def _card(name: str, row: Released) -> dict[str, str]:
    facts = {"published_checkpoint": name, "system": row.system, "trained_on": row.data, "figure": row.figure}
    return facts | {"licence": row.licence, "citation": row.citation, "address": address(row)}


def _source(name: str, row: Released, read: Checkpoint | TorchCheckpoint) -> dict[str, object]:
    """Origin and digests of the converted files."""
    beside = sorted(read.path.parent.glob(f"{read.path.name}.*")) if not read.path.is_file() else [read.path]
    digests = {path.name: sha256_of(path) for path in beside if path.is_file()}
    return {"name": name, "address": address(row), "sha256": digests, "torchslots": __version__}


def _remove_older(folder: Path) -> None:
    """Remove conversions of earlier versions, and partial files of killed processes."""
    remove_partial(folder.parent)
    for other in folder.parent.iterdir():
        if other != folder and (other / CONFIG_NAME).is_file():
            shutil.rmtree(other, ignore_errors=True)

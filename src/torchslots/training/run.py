"""Train a recipe, given its name, its data and a folder for the run."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from torchslots.data.catalog import split_on
from torchslots.data.parts import parse_split
from torchslots.evaluation.videos import whole_videos
from torchslots.io.errors import UserError
from torchslots.recipes import catalog
from torchslots.recipes.config import DataConfig, EvalConfig, Recipe, with_changes
from torchslots.training import loop
from torchslots.training.best import check_name
from torchslots.training.features import training_set
from torchslots.training.loop import RunResult
from torchslots.training.needs import check_frames, check_needs
from torchslots.training.own_files import sized_by_data
from torchslots.training.resume import USUAL, TrainOptions, start_of
from torchslots.training.warm_start import assemble


def train(
    recipe: str | Recipe,
    root: str | Path,
    run: str | Path,
    options: TrainOptions = USUAL,
    **changes: Any,
) -> RunResult:
    """Train a recipe; the same call again resumes from the newest checkpoint in `run`, or returns a finished run.

    The public `train` also takes names of published checkpoints (`convert/train.py`, which says the rest).

    Args:
        changes: Fields of `TrainOptions` by name, and of the recipe by dotted name.

    Raises:
        UserError: no such recipe, field, data or device; a loss that is not finite; a full disk; a `run` of another
            recipe. Ctrl-C saves a checkpoint and raises `Interrupted`, a `UserError`.
    """
    own = {field.name for field in fields(TrainOptions)}
    options = with_changes(options, **{name: value for name, value in changes.items() if name in own})
    recipe = recipe if isinstance(recipe, Recipe) else catalog.recipe(recipe)
    recipe = with_changes(recipe, **{name: value for name, value in changes.items() if name not in own})
    if options.dataset is not None:
        recipe = with_changes(recipe, **{"data.dataset": options.dataset})
    if options.monitor is not None:
        check_name(options.monitor)
    recipe = _on_other_data(recipe, Path(root))
    if recipe.data.dataset == "folder":
        recipe = _on_own_files(recipe, "data.crop" in changes)
        recipe = sized_by_data(recipe, Path(root), Path(run), options.skip_corrupt)
    given = (options.tokenizer, options.slot_encoder, options.init, options.backbone)
    recipe, model = assemble(recipe, Path(run), *given)
    data, root = recipe.data, Path(root)
    train_set = training_set(recipe, model, root)
    if not options.skip_corrupt and len(train_set):
        sample = train_set.sample(0, np.random.default_rng(0))
        check_needs(recipe, model, sample)
        check_frames(recipe, model, sample)
    return loop.train(
        recipe,
        model,
        train_set,
        whole_videos(data, recipe.evaluation, root),
        Path(run),
        device=options.device,
        monitor=options.monitor,
        num_plots=options.num_plots,
        wandb=options.wandb,
        skip_corrupt=options.skip_corrupt,
        start=start_of(root, options),
    )


def _on_other_data(recipe: Recipe, root: Path) -> Recipe:
    """The recipe without splits, and parts of them (`all[512:70000]`), that belong to the data set of the catalog's
    recipe, where it is trained on another that lacks them; arrays prepared from that set have them."""
    if recipe.name not in catalog.recipes() or recipe.data.dataset == "prepared":
        return recipe
    usual, data, watched = catalog.recipe(recipe.name), recipe.data, recipe.evaluation
    if data.dataset == usual.data.dataset:
        return recipe
    if data.train_split == usual.data.train_split:
        data = replace(data, train_split=_split_on(data, root, data.train_split, DataConfig.train_split))
    if watched.split == usual.evaluation.split:
        watched = replace(watched, split=_split_on(data, root, watched.split, EvalConfig.split))
    return replace(recipe, data=data, evaluation=watched)


def _split_on(data: DataConfig, root: Path, split: str, usual: str) -> str:
    return usual if parse_split(split)[1] is not None else split_on(data.dataset, root, split, usual)


def _on_own_files(recipe: Recipe, own_crop: bool) -> Recipe:
    """The recipe for a folder of one's own: without the crop that belongs to another data set's frames.

    Args:
        own_crop: the crop was asked for; otherwise one that the catalog's recipe has is dropped.

    Raises:
        UserError: frames will be square, and the model is built for others.
    """
    usual = catalog.recipe(recipe.name).data if recipe.name in catalog.recipes() else recipe.data
    if not own_crop and usual.dataset != "folder" and recipe.data.crop == usual.crop:
        recipe = replace(recipe, data=replace(recipe.data, crop=None))
    height, width = vars(recipe.model).get("resolution", (1, 1))
    if height != width and recipe.data.crop is None:
        raise UserError(
            f"The model is built for frames of {height} x {width}, and frames of your own are cut to their central "
            f"square. Give --data.crop TOP LEFT HEIGHT WIDTH, a part of that shape in pixels of your frames, and "
            f"--data.resolution {min(height, width)}; or build the model for squares, as with --model.resolution "
            f"{height} {height}."
        )
    return recipe

"""Sizes of a recipe for your own videos, from the videos."""

import shlex
from dataclasses import replace
from pathlib import Path

from torchslots.data.sets.own_survey import OwnSurvey, survey_own_files
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError, note
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe

_IMAGES_AT_ONCE = 4
"""Factor of the batch where all clips are single images."""


def sized_by_data(recipe: Recipe, root: Path, run: Path, skip_corrupt: bool) -> Recipe:
    """The recipe with clips, and evaluated videos, no longer than the longest that there are.

    Only recipes that are made for a folder change, and only in what was not chosen otherwise. A run keeps the sizes
    that it began with, so that it resumes where films have come since.

    Raises:
        UserError: clips that cannot be read, unless they are skipped; no clips.
    """
    usual = catalog.recipes()[recipe.name]() if recipe.name in catalog.recipes() else None
    if usual is None or usual.data.dataset != "folder":
        return recipe
    if (run / "recipe.json").is_file():
        return _like(catalog.read_recipe(run / "recipe.json"), recipe, usual)
    found = survey_own_files(root)
    if found.unusable and not skip_corrupt:
        raise UserError(_unusable(found))
    for split, use in ((usual.data.train_split, "train on"), (usual.evaluation.split, "evaluate on")):
        if reasons := found.unreadable(split):
            raise UserError(
                f"None of the clips to {use} can be read. {reasons[0]} `{_inspect(found)}` lists all. Remove what "
                "cannot be read, or make the folders train and validation."
            )
    return _like(_fitted(usual, found), recipe, usual)


def _fitted(recipe: Recipe, found: OwnSurvey) -> Recipe:
    longest = found.longest(recipe.data.train_split)
    held_out = found.longest(recipe.evaluation.split)
    if not longest or not held_out:  # the data set itself says what is missing
        return recipe
    frames = min(recipe.data.num_frames, longest)
    batch = recipe.train.batch_size * (_IMAGES_AT_ONCE if frames == 1 else 1)
    shown = min(recipe.evaluation.num_frames, held_out)
    if longest < recipe.data.num_frames:
        held = f"{longest} frame{'s' * (longest > 1)}"
        note(f"The longest clip has {held}: training clips of {frames} in batches of {batch}.")
    return replace(
        recipe,
        data=replace(recipe.data, num_frames=frames),
        train=replace(recipe.train, batch_size=batch),
        evaluation=replace(recipe.evaluation, num_frames=shown),
    )


def _like(fitted: Recipe, recipe: Recipe, usual: Recipe) -> Recipe:
    """`recipe` with the sizes of `fitted`, where it has the usual ones."""
    data, evaluation, train = recipe.data, recipe.evaluation, recipe.train
    if data.num_frames == usual.data.num_frames:
        data = replace(data, num_frames=fitted.data.num_frames)
    if evaluation.num_frames == usual.evaluation.num_frames:
        evaluation = replace(evaluation, num_frames=fitted.evaluation.num_frames)
    if train.batch_size == usual.train.batch_size:
        train = replace(train, batch_size=fitted.train.batch_size)
    return replace(recipe, data=data, evaluation=evaluation, train=train)


def _unusable(found: OwnSurvey) -> str:
    why = found.unusable[0][1]
    others = (
        f" So it is with {count_text(len(found.unusable) - 1, 'other')}." if len(found.unusable) > 1 else ""
    )
    return f"{why}{others} `{_inspect(found)}` lists what cannot be read. Remove it, or give --skip-corrupt."


def _inspect(found: OwnSurvey) -> str:
    return f"torchslots data inspect {shlex.quote(str(found.root))}"

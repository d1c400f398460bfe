"""Train recipes whose parts may be published checkpoints, by name.

The public `train` is here, since `training` knows no names of checkpoints.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torchslots.convert.pretrained import model_folder
from torchslots.recipes.config import Recipe, with_changes
from torchslots.training import run as training
from torchslots.training.loop import RunResult
from torchslots.training.resume import USUAL, TrainOptions

_TRAINED_PARTS = ("tokenizer", "slot_encoder", "init")


def train(
    recipe: str | Recipe,
    root: str | Path,
    run: str | Path,
    options: TrainOptions = USUAL,
    **changes: Any,
) -> RunResult:
    """Train a recipe; the same call again resumes from the newest checkpoint in `run`, or returns a finished run.

    Args:
        recipe: Its name in `list_recipes()`, or a `Recipe`.
        root: Folder with the data.
        run: Folder for checkpoints, logs, plots and the model; `load_model(run)` loads it.
        options: Options besides the recipe. `tokenizer`, `slot_encoder` and `init` may be names in `list_pretrained()`.
        changes: Fields of `TrainOptions` by name (`dataset="movi_a"`, `device="cuda"`), and of the recipe by dotted
            name (`**{"optim.num_steps": 1000, "train.batch_size": 8, "data.resolution": 64, "model.num_slots": 8}`).

    Returns:
        Steps done, the last evaluation's metrics, the best value of the monitored one and its step.

    Raises:
        UserError: no such recipe, field, data or device; a loss that is not finite; a full disk; a `run` of another
            recipe. Ctrl-C saves a checkpoint and raises `Interrupted`, a `UserError`.

    Examples:
        >>> tiny = {"model.resolution": (16, 16), "model.decoder.grid": (4, 4), "data.resolution": 16}
        >>> tiny |= {"data.crop": None, "optim.num_steps": 1, "train.batch_size": 2}
        >>> tiny |= {"evaluation.split": "train", "evaluation.num_frames": 2}
        >>> result = torchslots.train("savi_demo", root, run, dataset="movi_a", num_plots=0, **tiny)
        >>> result.step
        1
    """
    own = {field.name for field in fields(TrainOptions)}
    options = with_changes(options, **{name: value for name, value in changes.items() if name in own})
    parts = {name: getattr(options, name) for name in _TRAINED_PARTS}
    found = {name: str(model_folder(part)) for name, part in parts.items() if part is not None}
    of_recipe = {name: value for name, value in changes.items() if name not in own}
    return training.train(recipe, root, run, replace(options, **found), **of_recipe)

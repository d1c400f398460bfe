"""The models that a run ships: the newest weights, and the best."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch

from torchslots.io.errors import UserError
from torchslots.io.files import disk_errors, sweep
from torchslots.models.model import ObjectCentricModel
from torchslots.models.weights import CONFIG_NAME, WEIGHTS_NAME, add_to_card, has_card
from torchslots.recipes.config import Recipe
from torchslots.training import checkpoint
from torchslots.training.card import sections_of
from torchslots.training.checkpoint import Checkpoint, RunState
from torchslots.training.step import Trainable, TrainStep

MODEL_FOLDER = "model"
"""Folder in the run of the newest weights, finally the last ones; averaged if the recipe has an average."""
BEST_FOLDER = "best"
"""Folder in the run of the weights with the best value of the monitored metric."""


def export(stepper: TrainStep, folder: Path, card: Mapping[str, str]) -> None:
    """Write the model to evaluate, averaged if the recipe has an average, for `load_model`, and its card.

    Raises:
        UserError: the folder cannot be written.
    """
    with disk_errors(folder):
        cast(Trainable, stepper.evaluated_model()).save_pretrained(folder)
        add_to_card(folder, card)


def complete(run: Path, recipe: Recipe, state: RunState, stepper: TrainStep) -> None:
    """Write what of a finished run's models is missing, damaged or older than its checkpoints; remove leftovers.

    A run that was killed, or whose disk was full, after its last checkpoint has none, or older ones.

    Args:
        stepper: holds the last checkpoint's weights; it may hold the best ones afterwards.

    Raises:
        UserError: a folder cannot be written.
    """
    checkpoint.tidy(run, state, recipe.train.keep)
    _mend(stepper, run / MODEL_FOLDER, sections_of(recipe, state))
    best = _best(run, state)
    if best is not None:
        stepper.load(best.model, best.training, best.state.loss_scale, str(best.folder))
        _mend(stepper, run / BEST_FOLDER, sections_of(recipe, best.state))


def _mend(stepper: TrainStep, folder: Path, card: Mapping[str, str]) -> None:
    sweep(folder)
    if not (_is_current(folder, stepper) and has_card(folder, card)):
        export(stepper, folder, card)


def _best(run: Path, state: RunState) -> Checkpoint | None:
    """The checkpoint of the best weights; None: there is no best model, or its checkpoint is gone or damaged."""
    if state.best_step is None:
        return None
    try:
        return checkpoint.read(checkpoint.folder_of(run, state.best_step))
    except UserError:
        return None


def _is_current(folder: Path, stepper: TrainStep) -> bool:
    """Whether a model folder has the weights of the model to evaluate."""
    file = folder / WEIGHTS_NAME
    try:
        found = checkpoint.read_tensors(file, file.read_bytes())
    except (OSError, UserError):
        return False
    model = stepper.evaluated_model()
    left = model.training_only if isinstance(model, ObjectCentricModel) else ()
    wanted = {name: value for name, value in model.state_dict().items() if not name.startswith(left)}
    equal = found.keys() == wanted.keys() and all(
        torch.equal(found[name], tensor.cpu()) for name, tensor in wanted.items()
    )
    return equal and (folder / CONFIG_NAME).is_file()

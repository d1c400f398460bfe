"""A data set of four tiny videos, its stored features, and the tiny recipes that are trained on them."""

from pathlib import Path
from typing import Any

from data.movi_files import copy_movi
from torchslots.data.clips import Clips
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe, with_changes
from torchslots.training.feature_job import FeatureJob, FeatureOptions

STILL = {"data.flip": 0.0}


def tiny(name: str = "videosaur_demo", **changes: Any) -> Recipe:
    """On 32 x 32 frames of MOVi-A, of which only the training split is there."""
    small = {
        "data.dataset": "movi_a",
        "evaluation.split": "train",
        "optim.num_steps": 3,
        "train.batch_size": 2,
    }
    every = {"train.eval_every": 0, "train.checkpoint_every": 2, "evaluation.num_frames": 4}
    return with_changes(catalog.recipe(name), **{**small, **every, **changes})


def movi(folder: Path) -> Path:
    """The four videos."""
    copy_movi("a", folder)
    return folder


def job(recipe: Recipe, root: Path, out: Path, **options: Any) -> FeatureJob:
    """On the CPU."""
    return FeatureJob(recipe, root, out, FeatureOptions(recipe.name, device="cpu", **options))


def built(recipe: Recipe) -> ObjectCentricModel:
    """The model that a training of the recipe starts with."""
    model = catalog.build_seeded(recipe.model, recipe.train.seed)
    assert isinstance(model, ObjectCentricModel)
    return model


def reads(clips: Clips) -> tuple[str, ...]:
    """The stored arrays that a data set reads."""
    return clips.source.keys or ()

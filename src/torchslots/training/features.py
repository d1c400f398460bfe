"""Train on stored features of a frozen backbone in place of frames.

The model keeps its backbone: evaluation and prediction run it on frames, and it is saved with the model.
`training/feature_job.py` stores features.
"""

import sys
from dataclasses import replace
from pathlib import Path

from torch import nn

from torchslots.data.batch import ClipDataset
from torchslots.data.catalog import open_dataset
from torchslots.data.clips import Clips
from torchslots.data.config import DataConfig
from torchslots.data.sets.prepared_features import AGAIN, KEYS, TOKENS, FeatureArrays, features_split, lost
from torchslots.io.errors import UserError
from torchslots.io.processes import is_first_process
from torchslots.models.decoders.features import FeatureDecoder
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.feature_encoder import FeatureEncoder
from torchslots.models.weights import digest
from torchslots.recipes.config import Recipe

_FRAMES = "Train it on frames: `torchslots data prepare RECIPE` without --features, or the data set itself."


def feature_encoder(model: nn.Module, name: str) -> FeatureEncoder:
    """The part of a model that stored features can take the place of.

    Raises:
        UserError: the model has no vision transformer, or one that is tuned.
    """
    encoder = model.feature_encoder if isinstance(model, ObjectCentricModel) else None
    if encoder is None:
        raise UserError(
            f"{name} has no frozen vision transformer, whose features could be stored and trained on. {_FRAMES}"
        )
    if encoder.backbone.trainable_from is not None:
        raise UserError(
            f"{name} tunes its vision transformer: its features change in every step and cannot be stored. {_FRAMES}"
        )
    return encoder


def training_set(recipe: Recipe, model: nn.Module, root: Path) -> Clips:
    """The clips that a recipe is trained on: of frames or, where they are prepared and the model can take them, of
    stored features, with a note of what is lost.

    Raises:
        UserError: no such data; features that do not suit the recipe.
    """
    data, stored = recipe.data, features_split(recipe.data.train_split)
    folder = root / stored
    if data.dataset != "prepared" or not (folder / "meta.json").exists():
        return open_dataset(data.dataset, root, data.train_split, data, True)
    try:
        encoder = feature_encoder(model, recipe.name)
    except UserError:
        if not (root / data.train_split / "meta.json").exists():
            raise
        return open_dataset(data.dataset, root, data.train_split, data, True)
    keys = (TOKENS, KEYS) if encoder.backbone.keys else (TOKENS,)
    clips = open_dataset(data.dataset, root, stored, replace(data, keys=keys), True)
    if is_first_process():
        print(
            f"Training reads the features in {folder}; the backbone is not run. {lost_text(data)}",
            file=sys.stderr,
        )
    return clips


def check_backbone(train_set: ClipDataset, model: nn.Module) -> None:
    """Check that stored features, if there are any, are those of the model's own backbone.

    Raises:
        UserError: they are not.
    """
    source = train_set.source if isinstance(train_set, Clips) else None
    if not isinstance(source, FeatureArrays):
        return
    found = digest(feature_encoder(model, "This model").backbone.state_dict())
    if source.backbone != found:
        raise UserError(
            f"{source.folder} holds features of another backbone (weights {source.backbone[:12]}) than the model's "
            f"({found[:12]}). Give the weights that they were computed with by --backbone FILE, or store those of the "
            "model's in another folder: `torchslots data prepare --features RECIPE --backbone FILE --out DIR`."
        )
    decoder = model.decoder if isinstance(model, ObjectCentricModel) else None
    if isinstance(decoder, FeatureDecoder) and decoder.renderer.grid != source.grid:
        theirs, ours = (" x ".join(map(str, grid)) for grid in (source.grid, decoder.renderer.grid))
        raise UserError(
            f"{source.folder} holds features of {theirs} patches, the model was built for {ours}. {AGAIN}"
        )


def lost_text(data: DataConfig) -> str:
    """What a recipe loses with stored features, as a sentence."""
    found = lost(data)
    return f"Without frames {' and '.join(found)}." if found else "No augmentation is lost."

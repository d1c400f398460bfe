"""What a recipe's model needs of its data, checked before a run begins."""

import dataclasses
from collections.abc import Collection
from typing import Any

from torchslots.io.errors import UserError
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Batch
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe

_INSTEAD = {"conditioning": "learned", "targets": "video"}
"""Fields of configurations, and the values with which a model needs only frames."""


def check_needs(recipe: Recipe, model: catalog.Built, sample: Batch) -> None:
    """Check that a clip has the hints and targets of the model.

    Raises:
        UserError: it lacks some; the message has the switches of a model that does without.
    """
    if not isinstance(model, ObjectCentricModel):
        return
    missing = [key for key in model.needs if key not in sample]
    if not missing:
        return
    names = " and ".join(catalog.NEED_NAMES[key] for key in missing)
    raise UserError(
        f"{recipe.name} needs {names}, which the clips of `{recipe.data.dataset}` do not have. "
        f"{_remedy(recipe, model, missing)}"
    )


def check_frames(recipe: Recipe, model: catalog.Built, sample: Batch) -> None:
    """Check that frames have the size that the model is built for.

    Raises:
        UserError: they have another; the message has the switches.
    """
    wanted = getattr(recipe.model, "resolution", None)
    if not isinstance(model, ObjectCentricModel) or wanted is None or "video" not in sample:
        return
    height, width = sample["video"].shape[-2:]
    if model.feature_encoder is None and (height, width) != tuple(wanted):
        raise UserError(
            f"The model is built for frames of {wanted[0]} x {wanted[1]}, and those of `{recipe.data.dataset}` come as "
            f"{height} x {width}, with --data.resolution {recipe.data.resolution} for their shorter side. Give "
            f"--data.resolution {min(wanted)} and a --data.crop of the model's shape, or build the model for frames of "
            "that size."
        )


def _remedy(recipe: Recipe, model: ObjectCentricModel, missing: Collection[str]) -> str:
    fields = []
    if set(missing) & set(model.hints):
        fields.append("conditioning")
    if set(missing) & set(model.decoder.targets):
        fields.append("targets")
    paths = [_path(recipe.model, field) for field in fields]
    if fields and None not in paths and not set(missing) & set(model.decoder.labels):
        changes = [(path, _INSTEAD[field]) for path, field in zip(paths, fields)] + _weights(
            recipe.model, fields
        )
        switches = " ".join(f"--model.{str(path).replace('_', '-')} {value}" for path, value in changes)
        return f"Without them: {switches}. Or use data that have them."
    return "Use data that have them, or a recipe without: see the column `needs` of `torchslots recipes`."


def _weights(config: Any, fields: Collection[str]) -> list[tuple[str | None, str]]:
    """The change of a configuration's weights of targets that goes with one target alone: its own weight."""
    weights = getattr(config, "target_weights", ())
    if "targets" not in fields or not weights:
        return []
    own = dict(zip(config.targets, weights)).get(_INSTEAD["targets"], 1.0)
    return [("target_weights", f"{own:g}")]


def _path(config: Any, name: str) -> str | None:
    """The dotted name of the first field `name` in a dataclass or in those inside it; None: there is none."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == name:
            return name
        if dataclasses.is_dataclass(value) and (inner := _path(value, name)) is not None:
            return f"{field.name}.{inner}"
    return None

"""Start a new model from trained parts: the tokenizer that its decoder needs, another model's slot encoder, or all of
another model; and give a model whose backbone is tuned its teacher, that backbone before it is tuned.

In Python, pass the parts to the constructor: any `SlotEncoder` fits any decoder of the same slot size,
`ObjectCentricModel(trained.slot_encoder, decoder)`. The command line also copies their configuration.
"""

import sys
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchslots.hub import load_model, load_tokenizer, load_trained
from torchslots.io.errors import UserError
from torchslots.io.processes import is_first_process
from torchslots.models.backbones.vit import ViT
from torchslots.models.decoders.features import FeatureDecoder
from torchslots.models.layers.position import LearnedPositions, resample_positions
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.feature_encoder import FeatureEncoder
from torchslots.models.tokenizers.base import Tokenizer
from torchslots.models.weights import check_fit, shapes
from torchslots.recipes import catalog
from torchslots.recipes.backbone_weights import load_backbone, published_backbone
from torchslots.recipes.config import ModelConfig, Recipe
from torchslots.training import checkpoint

_TOKENIZER = "decoder.tokenizer."


@dataclass(frozen=True)
class Parts:
    """Trained parts of a new model; None: the part starts untrained."""

    tokenizer: Tokenizer | None = None
    """A tokenizer with its configuration."""
    slots_from: ObjectCentricModel | None = None
    """A model whose slot encoder is copied."""


def assemble(
    recipe: Recipe,
    run: Path,
    tokenizer: str | Path | None = None,
    slot_encoder: str | Path | None = None,
    init: str | Path | None = None,
    backbone: str | Path | None = None,
) -> tuple[Recipe, catalog.Built]:
    """The recipe with the configuration of the given parts, and its model with their weights, for `loop.train`.

    A run that has begun holds its weights in its checkpoints: there `tokenizer` and `init` may be left out.

    Args:
        run: the run's folder, which need not exist.
        tokenizer: run folder, model folder or hub id of a tokenizer.
        slot_encoder: the same of a model of slots.
        init: the same of a model of this recipe's kind and sizes; only its patches may be more or fewer.
        backbone: file, folder or hub id of the weights of a pretrained backbone; None: the recipe's own hub id.

    Raises:
        UserError: no tokenizer for a model that needs one (the message has the command that trains one), a part of
            another kind, or another tokenizer than the run began with.
    """
    begun = bool(checkpoint.list_steps(run))
    parts = Parts(
        None if tokenizer is None else load_tokenizer(tokenizer),
        None if slot_encoder is None else load_model(slot_encoder),
    )
    _check_tokenizer(recipe, parts.tokenizer, tokenizer, begun)
    config = adopt_config(recipe.model, parts)
    if begun and parts.tokenizer is None:
        config = _as_begun(config, run)
    recipe = replace(recipe, model=config)
    model = catalog.build_seeded(config, recipe.train.seed)
    if parts.tokenizer is None and not begun and frozen_tokenizer(model) is not None:
        raise _missing(recipe)
    if not begun:
        _take_backbone(recipe, model, backbone, given=init is not None or parts.slots_from is not None)
    add_teacher(model)
    take_weights(model, parts)
    if init is not None and not begun:
        for line in take_all(load_trained(init), model, str(init)):
            if is_first_process():
                print(line, file=sys.stderr)
    if begun and parts.tokenizer is not None:
        _check_same(run, parts.tokenizer, tokenizer)
    return recipe, model


def adopt_config(config: ModelConfig, parts: Parts) -> ModelConfig:
    """A model's configuration with the parts' configurations.

    Raises:
        UserError: a slot encoder of another kind.
    """
    changes: dict[str, Any] = {}
    if parts.tokenizer is not None:
        changes["tokenizer"] = parts.tokenizer.config
    if parts.slots_from is not None:
        changes |= _slot_config(config, parts.slots_from)
    return replace(config, **changes)


def take_weights(model: nn.Module, parts: Parts) -> None:
    """Copy the weights of the parts into a model that was built from their configuration.

    Raises:
        UserError: a model without such a part, or weights that do not fit.
    """
    if parts.tokenizer is not None:
        own = frozen_tokenizer(model)
        if own is None:
            raise UserError(f"{type(model).__name__} takes no trained tokenizer. Leave it out.")
        _copy(parts.tokenizer, own, "tokenizer")
    if parts.slots_from is not None:
        if not isinstance(model, ObjectCentricModel):
            raise UserError(f"{type(model).__name__} has no slots and takes no slot encoder. Leave it out.")
        _copy(parts.slots_from.slot_encoder, model.slot_encoder, "slot encoder")


def _take_backbone(recipe: Recipe, model: nn.Module, source: str | Path | None, *, given: bool) -> None:
    """Fill a new model's backbone with pretrained weights.

    Args:
        given: it will be overwritten by a trained one, so that only a teacher needs them.
    """
    found = [part for part in model.modules() if isinstance(part, ViT)]
    if source is not None and not found:
        raise UserError(f"{recipe.name} has no pretrained backbone. Leave out --backbone {source}.")
    decoder = model.decoder if isinstance(model, ObjectCentricModel) else None
    taught = isinstance(decoder, FeatureDecoder) and decoder.taught
    if given and not taught:
        return
    place = published_backbone(recipe.model) if source is None else source
    for part in found:
        if place:
            load_backbone(part, place)


def add_teacher(model: nn.Module) -> None:
    """Give a decoder that learns from a teacher a frozen copy of its model's backbone, as that is now."""
    if not isinstance(model, ObjectCentricModel) or not isinstance(model.decoder, FeatureDecoder):
        return
    encoder = model.slot_encoder.encoder
    if model.decoder.taught and isinstance(encoder, FeatureEncoder):
        backbone = deepcopy(encoder.backbone)
        backbone.trainable_from = None
        model.decoder.learn_from(nn.Sequential(deepcopy(encoder.normalize), backbone))


def take_all(trained: nn.Module, model: nn.Module, where: str) -> list[str]:
    """Copy the weights of a model, all that fit; the positions of a decoder on another grid are resampled. A teacher
    stays.

    Returns:
        A sentence for each table of positions that was resampled, and one that names the tensors that do not fit.

    Raises:
        UserError: none fits.
    """
    tensors, said = dict(trained.state_dict()), []
    theirs = dict(trained.named_modules())
    for name, part in model.named_modules():
        other = theirs.get(name)
        if (
            isinstance(part, LearnedPositions)
            and isinstance(other, LearnedPositions)
            and other.grid != part.grid
        ):
            tensors[f"{name}.table"] = resample_positions(other.table.detach(), other.grid, part.grid)
            said.append(
                f"{where}: {name} resampled from {other.grid[0]} x {other.grid[1]} to {part.grid[0]} x {part.grid[1]} "
                "patches."
            )
    left = model.training_only if isinstance(model, ObjectCentricModel) else ()
    wanted = {name: value for name, value in model.state_dict().items() if not name.startswith(left)}
    fitting = {
        name: value for name, value in tensors.items() if name in wanted and value.shape == wanted[name].shape
    }
    remedy = "Give a model of the same recipe, or of the same system."
    if not fitting:
        check_fit(shapes(tensors), shapes(wanted), f"{where} does not fit the new model", remedy)
    model.load_state_dict(fitting, strict=False)
    return [*said, *_left_out(tensors, wanted, fitting, where)]


def _left_out(
    tensors: dict[str, Tensor], wanted: dict[str, Tensor], fitting: dict[str, Tensor], where: str
) -> list[str]:
    """Sentences that name what a warm start leaves untrained, and what it does not use."""
    anew = [
        f"{name} {list(value.shape)}" + (f", there {list(tensors[name].shape)}" if name in tensors else "")
        for name, value in wanted.items()
        if name not in fitting
    ]
    unused = [name for name in tensors if name not in wanted]
    said = {f"of the new model's {len(wanted)} tensors {len(anew)} do not fit and start untrained": anew}
    said[f"{len(unused)} tensors have no place in the new model"] = unused
    return [f"{where}: {what}: {'; '.join(names)}." for what, names in said.items() if names]


def frozen_tokenizer(model: nn.Module) -> Tokenizer | None:
    """The frozen tokenizer of a model's decoder; None: there is none, or it is trained with the slots."""
    return model.decoder.frozen_tokenizer() if isinstance(model, ObjectCentricModel) else None


def next_recipe(recipe: Recipe) -> str | None:
    """Name of a recipe on the same data that needs the tokenizer which this one trains; None: there is none."""
    for name, make in catalog.recipes().items():
        other = make()
        if _wants(other) is type(recipe.model) and other.data.dataset == _published_data(recipe):
            return name
    return None


def _published_data(recipe: Recipe) -> str:
    """The data set of the published recipe of the same name."""
    make = catalog.recipes().get(recipe.name)
    return (recipe if make is None else make()).data.dataset


def _wants(recipe: Recipe) -> type | None:
    """Type of the configuration of the trained tokenizer that a recipe needs; None: none."""
    config = vars(recipe.model).get("tokenizer")
    trains_it = recipe.optim.tokenizer_learning_rate is not None
    return type(config) if isinstance(config, ModelConfig) and not trains_it else None


def _check_tokenizer(
    recipe: Recipe, tokenizer: Tokenizer | None, where: str | Path | None, begun: bool
) -> None:
    """Check, before a model is built, that the tokenizer is of the kind that the recipe needs."""
    wanted = _wants(recipe)
    if tokenizer is None:
        if wanted is not None and not begun:
            raise _missing(recipe)
        return
    if wanted is None:
        raise UserError(f"{recipe.name} takes no trained tokenizer. Leave out --tokenizer {where}.")
    if type(tokenizer.config) is not wanted:
        found, right = tokenizer.config.family, vars(recipe.model)["tokenizer"].family
        raise UserError(
            f"{where} is a tokenizer of the family {found}; {recipe.name} needs one of the family {right}. "
            f"{_how_to_train(recipe)}"
        )


def _missing(recipe: Recipe) -> UserError:
    return UserError(
        f"{recipe.name} needs a trained tokenizer: give its run with --tokenizer RUN. {_how_to_train(recipe)}"
    )


def _how_to_train(recipe: Recipe) -> str:
    """The command that trains the tokenizer a recipe needs."""
    wanted, names = _wants(recipe), []
    for name, make in catalog.recipes().items():
        if type((other := make()).model) is wanted:
            names.insert(0 if other.data.dataset == _published_data(recipe) else len(names), name)
    return f"Train one: torchslots train {names[0]} --root DIR --run-dir RUN." if names else ""


def _slot_config(config: ModelConfig, source: ObjectCentricModel) -> dict[str, Any]:
    """Changes of a model's configuration for the slot encoder of another."""
    own, theirs = (vars(one).get("slots") for one in (config, source.config))
    if own is not None and type(own) is type(theirs):
        return {"slots": theirs}
    if type(config) is type(source.config):
        return {}
    families = [one.family for one in (source.config, config)]
    raise UserError(
        f"The slot encoder of a {families[0]} model cannot start a {families[1]} model: they are of different kinds. "
        f"Give a run of a system with the same slot encoder, or put the parts together in Python."
    )


def _as_begun(config: ModelConfig, run: Path) -> ModelConfig:
    """The configuration with the tokenizer's that the run began with."""
    found = vars(catalog.read_recipe(run / "recipe.json").model).get("tokenizer")
    same = found is not None and type(found) is type(vars(config).get("tokenizer"))
    return replace(config, tokenizer=found) if same else config


def _check_same(run: Path, tokenizer: Tokenizer, where: str | Path | None) -> None:
    """Check that a run continues with the tokenizer that it began with."""
    found = checkpoint.latest(run, tell=lambda message: None)
    stored = {} if found is None else found.model
    for name, weight in tokenizer.state_dict().items():
        begun = stored.get(_TOKENIZER + name)
        if begun is None or not torch.equal(begun, weight):
            raise UserError(
                f"{run} was begun with another tokenizer than {where}: `{name}` differs. Leave out --tokenizer, which "
                f"a run that has begun does not need, or choose another run folder."
            )


def _copy(source: nn.Module, target: nn.Module, what: str) -> None:
    tensors = source.state_dict()
    wrong = f"The trained {what} does not fit the new model"
    check_fit(
        shapes(tensors), shapes(target.state_dict()), wrong, "Give the new model the same configuration."
    )
    target.load_state_dict(tensors)

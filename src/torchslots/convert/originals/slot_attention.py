"""Slot Attention's TensorFlow checkpoints: weights, moments and step, and which numbers made them.

Optimisers kept their moments in three ways: beside each weight (Keras up to 2.10, the published checkpoints), as one
numbered list (2.11 to 2.15), and, in Keras 3, as a numbered list beside another that holds the weights themselves.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from torchslots.convert.layouts import Arrays
from torchslots.convert.originals.slot_attention_layout import (
    count_layers,
    names,
    params_of,
    task_of,
    to_ours,
)
from torchslots.convert.readers import tensorflow as tensorflow_checkpoint
from torchslots.convert.readers.tensorflow import VALUE, TensorflowCheckpoint
from torchslots.io.errors import UserError
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes.config import ModelConfig
from torchslots.recipes.slot_attention import (
    ImageDecoderConfig,
    SetPredictionConfig,
    SlotAttentionConfig,
    build,
)

TITLE = "Slot Attention"
"""Its name in messages."""
NETWORK = "network/layer_with_weights-0/"
"""Beginning of the weights' names in the original's checkpoints."""
_PREDICTION_STRIDES = (1, 2, 2, 1)
_DECODER_STRIDE = 2
_OTHER_DISCOVERY, _OTHER_PREDICTION = 28, 30
"""Variables that are not of convolutions."""
_DECODER_LAYERS = 6
_RECIPES = {
    "object_discovery": "slot_attention_clevr6",
    "set_prediction": "slot_attention_set_prediction",
}


@dataclass(frozen=True)
class SlotAttentionCheckpoint:
    """Weights under the original's names without their prefix, and what Adam remembers of their gradients."""

    path: Path
    params: Arrays
    first_moments: Arrays = field(default_factory=dict)
    second_moments: Arrays = field(default_factory=dict)
    step: int | None = None
    """Updates that the optimiser has done."""
    layout: str = ""
    """How the file keeps them, in words."""


def read(source: Path) -> SlotAttentionCheckpoint:
    """Weights, moments and step of a checkpoint of any generation.

    Raises:
        UserError: not a checkpoint, damaged, or not of Slot Attention.
    """
    checkpoint = tensorflow_checkpoint.read(source)
    named = _named(checkpoint)
    if named:
        return _complete(checkpoint, named, "weights by name")
    listed = _numbered(checkpoint, "optimizer/_trainable_variables")
    if listed:
        order = _order_of(checkpoint, listed)
        return _complete(checkpoint, dict(zip(order, listed)), "weights in the optimiser's list")
    held = sorted({key.split("/")[0] for key in checkpoint.entries})
    raise UserError(
        f"{checkpoint.path} is a TensorFlow checkpoint, but not of Slot Attention: it holds {', '.join(held[:6])}. "
        "SAVi, SAVi++, STATM and Invariant Slot Attention are kept in flax files (ckpt-N.flax)."
    )


def _named(checkpoint: TensorflowCheckpoint) -> dict[str, str]:
    """Keys of the weights by name, where the file has names, whatever stands before them."""
    end = f"slot_attention/slots_mu{VALUE}"
    prefix = next((key.removesuffix(end) for key in checkpoint.entries if key.endswith(end)), None)
    if prefix is None:
        return _by_graph(checkpoint)
    keys = (key for key in checkpoint.entries if key.startswith(prefix) and key.endswith(VALUE))
    paths = {key.removeprefix(prefix).removesuffix(VALUE): key for key in keys}
    return {
        path: key
        for path, key in paths.items()
        if not re.search(r"(^|/)(\.|optimizer/|save_counter|global_step)", path)
    }


def _by_graph(checkpoint: TensorflowCheckpoint) -> dict[str, str]:
    """The same by way of the objects' graph, for files that keep weights under other names."""
    for task in ("object_discovery", "set_prediction"):
        found = {path: checkpoint.find(NETWORK + path) for path in names(task)}
        if all(found.values()):
            return {path: key for path, key in found.items() if key is not None}
    return {}


def _numbered(checkpoint: TensorflowCheckpoint, path: str) -> list[str]:
    """Keys of a list's variables, in order."""
    pattern = re.compile(rf"{re.escape(path)}/(\d+){re.escape(VALUE)}")
    found = {int(match[1]): key for key in checkpoint.entries if (match := pattern.fullmatch(key))}
    return [found[index] for index in sorted(found)]


def _order_of(checkpoint: TensorflowCheckpoint, listed: list[str]) -> list[str]:
    """Names of the weights in a list, from how many there are and how many are of convolutions."""
    shapes = [checkpoint.entries[key].shape for key in listed]
    convolutions = sum(len(shape) == 4 for shape in shapes)
    others = len(listed) - 2 * convolutions
    if others == _OTHER_DISCOVERY and convolutions > _DECODER_LAYERS:
        order = names("object_discovery", convolutions - _DECODER_LAYERS)
    elif others == _OTHER_PREDICTION:
        order = names("set_prediction", convolutions)
    else:
        order = []
    kernels = [path for path in order if "_cnn/" in path and path.endswith("kernel")]
    if not order or {order[i] for i, shape in enumerate(shapes) if len(shape) == 4} != set(kernels):
        raise UserError(
            f"{checkpoint.path} is a Keras 3 checkpoint of {len(listed)} weights, {convolutions} of them convolutions: "
            "not Slot Attention's object discovery (48, 10) nor its set prediction (38, 4)."
        )
    return order


def _complete(checkpoint: TensorflowCheckpoint, keys: dict[str, str], layout: str) -> SlotAttentionCheckpoint:
    """All arrays, and the moments where the file has them."""
    generation, first, second = _moments(checkpoint, keys)
    read = checkpoint.array
    return SlotAttentionCheckpoint(
        checkpoint.path,
        {path: read(key) for path, key in keys.items()},
        {path: read(key) for path, key in first.items()},
        {path: read(key) for path, key in second.items()},
        _step(checkpoint),
        f"{layout}, {generation}",
    )


def _moments(
    checkpoint: TensorflowCheckpoint, keys: dict[str, str]
) -> tuple[str, dict[str, str], dict[str, str]]:
    """Which generation wrote the moments, and their keys."""
    beside = [
        {
            path: f"{key.removesuffix(VALUE)}/.OPTIMIZER_SLOT/optimizer/{part}{VALUE}"
            for path, key in keys.items()
        }
        for part in "mv"
    ]
    if all(key in checkpoint.entries for part in beside for key in part.values()):
        return "moments beside them", beside[0], beside[1]
    listed = _numbered(checkpoint, "optimizer/_variables")
    third = any(key.startswith("optimizer/_trainable_variables/") for key in checkpoint.entries)
    listed = [key for key in listed if int(key.split("/")[2]) >= (2 if third else 1)]
    if len(listed) != 2 * len(keys):
        return "no moments", {}, {}
    order = _listed_order(keys)
    pairs = dict(zip(order, listed[::2])), dict(zip(order, listed[1::2]))
    for path, key in keys.items():
        shape = checkpoint.entries[key].shape
        if any(checkpoint.entries[pair[path]].shape != shape for pair in pairs):
            raise UserError(
                f"{checkpoint.path}: the optimiser's moments do not fit its weights, first at `{path}` {list(shape)}. "
                "They belong to another program; convert a checkpoint without them."
            )
    return "moments in the optimiser's list", *pairs


def _listed_order(keys: dict[str, str]) -> list[str]:
    return names(task_of(keys), count_layers(keys, "encoder_cnn"), count_layers(keys, "decoder_cnn"))


def _step(checkpoint: TensorflowCheckpoint) -> int | None:
    for path in ("optimizer/iter", "optimizer/_iterations", "optimizer/iterations", "global_step"):
        if path + VALUE in checkpoint.entries:
            return int(checkpoint.array(path + VALUE))
    return None


def recognize(
    params: Arrays,
    where: str,
    like: SlotAttentionConfig | None = None,
    resolution: tuple[int, int] | None = None,
) -> SlotAttentionConfig:
    """Our numbers from the arrays' shapes.

    Resolution, strides, slots and rounds leave no trace in the weights: they are the published ones (128x128, strides
    1 or 1, 2, 2, 1, 7 or 10 slots, 3 rounds), or those of `like`.

    Raises:
        UserError: arrays that no Slot Attention has, or of the other task than `like`.
    """
    task = task_of(params)
    wanted = set(names(task, count_layers(params, "encoder_cnn"), count_layers(params, "decoder_cnn")))
    odd = sorted(wanted - set(params)), sorted(set(params) - wanted)
    if any(odd):
        raise UserError(
            f"{where} is not of Slot Attention's {task.replace('_', ' ')} as published: missing "
            f"{', '.join(odd[0][:3]) or 'nothing'}, left over {', '.join(odd[1][:3]) or 'nothing'}."
        )
    published = SlotAttentionConfig()
    if task == "set_prediction":
        published = replace(
            published, strides=_PREDICTION_STRIDES, num_slots=10, decoder=SetPredictionConfig()
        )
    if like is not None and isinstance(like.decoder, SetPredictionConfig) != (task == "set_prediction"):
        raise UserError(
            f"{where} is a checkpoint of {task.replace('_', ' ')}. Convert it with --recipe {_RECIPES[task]}."
        )
    numbers = like or published
    return _with_widths(numbers, resolution or numbers.resolution, params)


def _with_widths(
    config: SlotAttentionConfig, resolution: tuple[int, int], params: Arrays
) -> SlotAttentionConfig:
    """The numbers that shapes do tell."""
    encoder = tuple(params[name].shape[-1] for name in params_of(params, "encoder_cnn"))
    strides = config.strides if len(config.strides) == len(encoder) else (1,) * len(encoder)
    hidden, size = params["mlp/layer_with_weights-0/bias"], params["mlp/layer_with_weights-1/bias"]
    decoder: ImageDecoderConfig | SetPredictionConfig
    if isinstance(config.decoder, SetPredictionConfig):
        widths = [params[f"mlp_classifier/layer_with_weights-{i}/bias"].size for i in (0, 1)]
        decoder = SetPredictionConfig(*widths)
    else:
        decoder = _picture_decoder(config.decoder, resolution, params)
    return replace(
        config,
        resolution=resolution,
        channels=encoder,
        strides=strides,
        token_hidden=hidden.size,
        token_size=size.size,
        slot_size=params["slot_attention/slots_mu"].size,
        mlp_size=params["slot_attention/mlp/layer_with_weights-0/bias"].size,
        decoder=decoder,
    )


def _picture_decoder(
    numbers: ImageDecoderConfig, resolution: tuple[int, int], params: Arrays
) -> ImageDecoderConfig:
    """All but the last layer; the published strides, all 2 but the last, unless the numbers fit."""
    channels = tuple(params[name].shape[-2] for name in params_of(params, "decoder_cnn")[:-1])
    strides = numbers.strides
    if len(strides) != len(channels):
        strides = (*(_DECODER_STRIDE for _ in channels[1:]), 1)
    scale = int(np.prod(strides))
    return replace(
        numbers, channels=channels, strides=strides, grid=(resolution[0] // scale, resolution[1] // scale)
    )


def numbers(checkpoint: SlotAttentionCheckpoint, like: ModelConfig | None = None) -> SlotAttentionConfig:
    """The model's numbers.

    Args:
        like: numbers of the recipe that was named; None: the published ones.

    Raises:
        UserError: a recipe of another system or task.
    """
    if like is not None and not isinstance(like, SlotAttentionConfig):
        right = _RECIPES[task_of(checkpoint.params)]
        raise UserError(
            f"{checkpoint.path} is a TensorFlow checkpoint of Slot Attention. Convert it with --recipe {right}."
        )
    return recognize(checkpoint.params, str(checkpoint.path), like)


def config_from_reference(
    reference: dict[str, Any], checkpoint: SlotAttentionCheckpoint
) -> SlotAttentionConfig:
    """Our numbers where the original was built with others than the published ones.

    Args:
        reference: `resolution` [height, width], `num_slots`, `num_iterations`; those that lack are as published.
            `model`, where it is given, names the task.

    Raises:
        UserError: a resolution that is not two whole numbers, or numbers of another system or task.
    """
    task = task_of(checkpoint.params)
    if reference.get("model", task) != task:
        raise UserError(
            f"{checkpoint.path} is a TensorFlow checkpoint of Slot Attention's {task.replace('_', ' ')}, and the "
            f"configuration given is of {reference['model']}. Leave --config out, or convert with --recipe "
            f"{_RECIPES[task]}."
        )
    resolution = reference.get("resolution", SlotAttentionConfig().resolution)
    counts = {name: reference[name] for name in ("num_slots", "num_iterations") if name in reference}
    if len(resolution) != 2 or not all(isinstance(value, int) for value in (*resolution, *counts.values())):
        raise UserError(
            f"`resolution` should be [height, width], `num_slots` and `num_iterations` numbers, got {reference}."
        )
    found = recognize(checkpoint.params, str(checkpoint.path), resolution=(resolution[0], resolution[1]))
    return replace(found, **counts)


def model_of(checkpoint: SlotAttentionCheckpoint, config: SlotAttentionConfig) -> ObjectCentricModel:
    """The model with the checkpoint's weights.

    Raises:
        UserError: arrays that do not fit each other.
    """
    model = build(config)
    wanted, found = model.state_dict(), to_ours(config, checkpoint.params, str(checkpoint.path))
    wrong = [name for name, value in found.items() if value.shape != wanted[name].shape]
    if wrong:
        shapes = list(found[wrong[0]].shape), list(wanted[wrong[0]].shape)
        raise UserError(
            f"{checkpoint.path} is not of Slot Attention as published: {len(wrong)} arrays have other shapes, first "
            f"`{wrong[0]}` {shapes[0]}, not {shapes[1]}."
        )
    model.load_state_dict(found)
    return model.eval()

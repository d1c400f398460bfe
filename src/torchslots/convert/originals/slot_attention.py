"""Slot Attention, the authors' program in TensorFlow: `tf.train.Checkpoint` files (`ckpt-N.index` and shards).

Moments of optimisers are stored in three ways: beside each weight (Keras up to 2.10, the published checkpoints), as one
numbered list (2.11 to 2.15), and, in Keras 3, as a numbered list beside another that holds the weights themselves.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from torchslots.convert.layouts import OTHER_FILE, Shapes
from torchslots.convert.originals.slot_attention_layout import count_layers, names, params_of, task_of
from torchslots.convert.readers import tensorflow as tensorflow_checkpoint
from torchslots.convert.readers.checkpoint import Checkpoint
from torchslots.convert.readers.tensorflow import VALUE, TensorflowCheckpoint
from torchslots.io.errors import UserError
from torchslots.models.weights import check_fit
from torchslots.recipes.slot_attention import ImageDecoderConfig, SetPredictionConfig, SlotAttentionConfig

NETWORK = "network/layer_with_weights-0/"
"""Prefix of the weights' names in the original's checkpoints."""
_OTHER_DISCOVERY, _OTHER_PREDICTION = 28, 30
"""Number of variables of each task that are not of convolutions."""
_DECODER_LAYERS = 6
_RECIPES = {"object_discovery": "slot_attention_clevr6", "set_prediction": "slot_attention_set_prediction"}


def read(source: Path) -> Checkpoint:
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
        "SAVi, SAVi++, STATM and Invariant Slot Attention are stored in flax files (ckpt-N.flax)."
    )


def _named(checkpoint: TensorflowCheckpoint) -> dict[str, str]:
    """Keys of the weights by name, with any prefix; empty where the file has no names."""
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
    """The same by the graph of objects, for files that keep weights under other names."""
    for task in _RECIPES:
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
    """Names of the weights in a list, by their number and that of convolutions."""
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


def _complete(checkpoint: TensorflowCheckpoint, keys: dict[str, str], layout: str) -> Checkpoint:
    """The checkpoint with all arrays, and moments where the file has any."""
    generation, *moments = _moments(checkpoint, keys)
    weights, first, second = (
        {path: checkpoint.array(key) for path, key in part.items()} for part in (keys, *moments)
    )
    return Checkpoint(checkpoint.path, weights, first, second, _step(checkpoint), f"{layout}, {generation}")


def _moments(
    checkpoint: TensorflowCheckpoint, keys: dict[str, str]
) -> tuple[str, dict[str, str], dict[str, str]]:
    """The layout of the moments, and their keys."""
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
    order = names(task_of(keys), count_layers(keys, "encoder_cnn"), count_layers(keys, "decoder_cnn"))
    pairs = dict(zip(order, listed[::2])), dict(zip(order, listed[1::2]))
    for path, key in keys.items():
        shape = checkpoint.entries[key].shape
        if any(checkpoint.entries[pair[path]].shape != shape for pair in pairs):
            raise UserError(
                f"{checkpoint.path}: the optimiser's moments do not fit its weights, first at `{path}` {list(shape)}. "
                "They belong to another program; convert a checkpoint without them."
            )
    return "moments in the optimiser's list", *pairs


def _step(checkpoint: TensorflowCheckpoint) -> int | None:
    paths = ("optimizer/iter", "optimizer/_iterations", "optimizer/iterations", "global_step")
    found = (path + VALUE for path in paths if path + VALUE in checkpoint.entries)
    return next((int(checkpoint.array(key)) for key in found), None)


def from_shapes(shapes: Shapes, resolution: tuple[int, int] | None = None) -> SlotAttentionConfig:
    """Configuration from the names and shapes of the arrays.

    What weights do not show is as published: 128x128 pixels, strides of 1 or 1, 2, 2, 1, 7 or 10 slots, 3 rounds.

    Args:
        resolution: height and width of another size.

    Raises:
        UserError: arrays that no Slot Attention has.
    """
    published = SlotAttentionConfig()
    if task_of(shapes) == "set_prediction":
        published = replace(published, strides=(1, 2, 2, 1), num_slots=10, decoder=SetPredictionConfig())
    return _with_widths(published, resolution or published.resolution, shapes)


def like(config: Any, shapes: Shapes) -> SlotAttentionConfig:
    """`config` with the sizes that the shapes show.

    Raises:
        UserError: arrays that no Slot Attention has, or those of another task than `config`.
    """
    task = task_of(shapes)
    if isinstance(config.decoder, SetPredictionConfig) != (task == "set_prediction"):
        raise UserError(
            f"This is a checkpoint of {task.replace('_', ' ')}. Convert it with --recipe {_RECIPES[task]}."
        )
    return _with_widths(config, config.resolution, shapes)


def _with_widths(
    config: SlotAttentionConfig, resolution: tuple[int, int], shapes: Shapes
) -> SlotAttentionConfig:
    """`config` with the sizes that the shapes show."""
    task = task_of(shapes)
    wanted = names(task, count_layers(shapes, "encoder_cnn"), count_layers(shapes, "decoder_cnn"))
    what = f"This is not of Slot Attention's {task.replace('_', ' ')} as published"
    check_fit(dict.fromkeys(shapes, ()), dict.fromkeys(wanted, ()), what, OTHER_FILE)
    encoder = tuple(shapes[name][-1] for name in params_of(shapes, "encoder_cnn"))
    strides = config.strides if len(config.strides) == len(encoder) else (1,) * len(encoder)
    hidden, size = shapes["mlp/layer_with_weights-0/bias"], shapes["mlp/layer_with_weights-1/bias"]
    decoder: ImageDecoderConfig | SetPredictionConfig
    if isinstance(config.decoder, SetPredictionConfig):
        widths = [shapes[f"mlp_classifier/layer_with_weights-{i}/bias"][-1] for i in (0, 1)]
        decoder = SetPredictionConfig(*widths)
    else:
        decoder = _image_decoder(config.decoder, resolution, shapes)
    return replace(
        config,
        resolution=resolution,
        channels=encoder,
        strides=strides,
        token_hidden=hidden[0],
        token_size=size[0],
        slot_size=shapes["slot_attention/slots_mu"][-1],
        mlp_size=shapes["slot_attention/mlp/layer_with_weights-0/bias"][-1],
        decoder=decoder,
    )


def _image_decoder(
    config: ImageDecoderConfig, resolution: tuple[int, int], shapes: Shapes
) -> ImageDecoderConfig:
    """All layers but the last; where `config` has another number of strides, all are 2 but the last."""
    channels = tuple(shapes[name][-2] for name in params_of(shapes, "decoder_cnn")[:-1])
    strides = config.strides
    if len(strides) != len(channels):
        strides = (*(2 for _ in channels[1:]), 1)
    scale = int(np.prod(strides))
    grid = (resolution[0] // scale, resolution[1] // scale)
    return replace(config, channels=channels, strides=strides, grid=grid)


def from_reference(reference: dict[str, Any], shapes: Shapes) -> SlotAttentionConfig:
    """Configuration of a model that was built with another than the published one.

    Args:
        reference: `resolution` [height, width], `num_slots`, `num_iterations`, each as published where it is missing;
            `model` may name the task.

    Raises:
        UserError: a resolution that is not two whole numbers, or the configuration of another task.
    """
    task = task_of(shapes)
    if reference.get("model", task) != task:
        raise UserError(
            f"This is a checkpoint of Slot Attention's {task.replace('_', ' ')}, and the configuration given is of "
            f"{reference['model']}. Leave --config out, or convert with --recipe {_RECIPES[task]}."
        )
    resolution = reference.get("resolution", SlotAttentionConfig().resolution)
    counts = {name: reference[name] for name in ("num_slots", "num_iterations") if name in reference}
    if len(resolution) != 2 or not all(isinstance(value, int) for value in (*resolution, *counts.values())):
        raise UserError(
            f"`resolution` should be [height, width], `num_slots` and `num_iterations` whole numbers, got {reference}."
        )
    return replace(from_shapes(shapes, (resolution[0], resolution[1])), **counts)

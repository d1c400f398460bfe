"""Slot Attention's TensorFlow checkpoints: which array goes where, and which numbers made them.

Optimisers kept their moments in three ways: beside each weight (Keras up to 2.10, the published checkpoints), as one
numbered list (2.11 to 2.15), and, in Keras 3, as a numbered list beside another that holds the weights themselves.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchslots.convert import layouts, tensorflow_checkpoint
from torchslots.convert.layouts import Arrays, Leaf
from torchslots.convert.tensorflow_checkpoint import VALUE, TensorflowCheckpoint
from torchslots.errors import UserError
from torchslots.model import ObjectCentricModel
from torchslots.recipes.slot_attention import PictureDecoder, PropertyHead, SlotAttentionConfig, build
from torchslots.training.recipe import ModelConfig

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


def names(task: str, num_encoder: int = 4, num_decoder: int = _DECODER_LAYERS) -> list[str]:
    """All weights in the order in which Keras lists them.

    Args:
        task: `object_discovery` or `set_prediction`.
        num_encoder, num_decoder: convolutions of each.
    """
    discovery = task == "object_discovery"
    return [
        *_layers("encoder_cnn", num_encoder),
        *(_layers("decoder_cnn", num_decoder) if discovery else []),
        *_pair("encoder_pos/dense"),
        *(_pair("decoder_pos/dense") if discovery else []),
        *_pair("layer_norm", ("gamma", "beta")),
        *_layers("mlp", 2),
        *(f"slot_attention/slots_{what}" for what in ("mu", "log_sigma")),
        *(name for part in ("inputs", "slots", "mlp") for name in _norm(f"slot_attention/norm_{part}")),
        *(f"slot_attention/project_{part}/kernel" for part in "qkv"),
        *(f"slot_attention/gru/{part}" for part in ("kernel", "recurrent_kernel", "bias")),
        *_layers("slot_attention/mlp", 2),
        *([] if discovery else _layers("mlp_classifier", 2)),
    ]


def _pair(path: str, parts: tuple[str, str] = ("kernel", "bias")) -> list[str]:
    return [f"{path}/{part}" for part in parts]


def _norm(path: str) -> list[str]:
    return _pair(path, ("gamma", "beta"))


def _layers(path: str, count: int) -> list[str]:
    return [name for i in range(count) for name in _pair(f"{path}/layer_with_weights-{i}")]


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
    return names(task_of(keys), _count(keys, "encoder_cnn"), _count(keys, "decoder_cnn"))


def _step(checkpoint: TensorflowCheckpoint) -> int | None:
    for path in ("optimizer/iter", "optimizer/_iterations", "optimizer/iterations", "global_step"):
        if path + VALUE in checkpoint.entries:
            return int(checkpoint.array(path + VALUE))
    return None


def task_of(params: Arrays | dict[str, str]) -> str:
    """`object_discovery` or `set_prediction`."""
    return "object_discovery" if any(path.startswith("decoder_cnn/") for path in params) else "set_prediction"


def _count(params: Arrays | dict[str, str], path: str) -> int:
    return sum(name.startswith(f"{path}/") and name.endswith("/kernel") for name in params)


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
    wanted = set(names(task, _count(params, "encoder_cnn"), _count(params, "decoder_cnn")))
    odd = sorted(wanted - set(params)), sorted(set(params) - wanted)
    if any(odd):
        raise UserError(
            f"{where} is not of Slot Attention's {task.replace('_', ' ')} as published: missing "
            f"{', '.join(odd[0][:3]) or 'nothing'}, left over {', '.join(odd[1][:3]) or 'nothing'}."
        )
    published = SlotAttentionConfig()
    if task == "set_prediction":
        published = replace(published, strides=_PREDICTION_STRIDES, num_slots=10, decoder=PropertyHead())
    if like is not None and isinstance(like.decoder, PropertyHead) != (task == "set_prediction"):
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
    decoder: PictureDecoder | PropertyHead
    if isinstance(config.decoder, PropertyHead):
        widths = [params[f"mlp_classifier/layer_with_weights-{i}/bias"].size for i in (0, 1)]
        decoder = PropertyHead(*widths)
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


def params_of(params: Arrays, path: str) -> list[str]:
    """Kernels of a stack of layers, in order."""
    return [f"{path}/layer_with_weights-{i}/kernel" for i in range(_count(params, path))]


def _picture_decoder(numbers: PictureDecoder, resolution: tuple[int, int], params: Arrays) -> PictureDecoder:
    """All but the last layer; the published strides, all 2 but the last, unless the numbers fit."""
    channels = tuple(params[name].shape[-2] for name in params_of(params, "decoder_cnn")[:-1])
    strides = numbers.strides
    if len(strides) != len(channels):
        strides = (*(_DECODER_STRIDE for _ in channels[1:]), 1)
    scale = int(np.prod(strides))
    return replace(
        numbers, channels=channels, strides=strides, grid=(resolution[0] // scale, resolution[1] // scale)
    )


# ------------------------------------------------------------------------------------------------ layouts


def leaves(config: SlotAttentionConfig) -> list[Leaf]:
    """Every array, after `apart`."""
    encoder, corrector = "slot_encoder.encoder", "slot_encoder.corrector"
    theirs = "slot_attention"
    found = [
        *_convolutions("encoder_cnn", f"{encoder}.backbone", [False] * len(config.channels), first=1),
        *layouts.dense("encoder_pos/dense", f"{encoder}.position.project"),
        *_layer_norm("layer_norm", f"{encoder}.transform.0"),
        *_perceptron("mlp", f"{encoder}.transform", first=1),
        *(_vector(f"{theirs}/slots_{what}", f"slot_encoder.initializer.{name}") for what, name in _SLOTS),
        *_layer_norm(f"{theirs}/norm_inputs", f"{corrector}.norm_inputs"),
        *_layer_norm(f"{theirs}/norm_slots", f"{corrector}.norm_slots"),
        *_layer_norm(f"{theirs}/norm_mlp", f"{corrector}.mlp.0"),
        *layouts.dense(f"{theirs}/project_q", f"{corrector}.query", bias=False),
        *layouts.dense(f"{theirs}/project_k", f"{corrector}.key", bias=False),
        *layouts.dense(f"{theirs}/project_v", f"{corrector}.value", bias=False),
        *_gru(f"{theirs}/gru", f"{corrector}.gru"),
        *_perceptron(f"{theirs}/mlp", f"{corrector}.mlp", first=1),
    ]
    if isinstance(config.decoder, PropertyHead):
        return [*found, *_perceptron("mlp_classifier", "decoder.mlp", first=0)]
    last = f"decoder_cnn/layer_with_weights-{len(config.decoder.channels)}"
    return [
        *found,
        *layouts.dense("decoder_pos/dense", "decoder.position.project"),
        *_convolutions("decoder_cnn", "decoder.backbone", [stride > 1 for stride in config.decoder.strides]),
        *_mirrored(f"{last}/colours", "decoder.heads.video"),
        *_mirrored(f"{last}/mask", "decoder.mask_head"),
    ]


_Rule = Callable[[np.ndarray], np.ndarray]
_SLOTS = (("mu", "mean"), ("log_sigma", "log_sigma"))


def _convolutions(path: str, name: str, transposed: list[bool], first: int = 0) -> list[Leaf]:
    """A stack with ReLU behind each layer. Keras' decoder is transposed throughout; at stride 1 that is a convolution
    with the mirrored kernel."""
    found = []
    for i, is_transposed in enumerate(transposed):
        theirs, ours = f"{path}/layer_with_weights-{i}", f"{name}.{first + 2 * i}"
        plain = _mirrored if path == "decoder_cnn" else layouts.conv
        found += _transposed(theirs, ours) if is_transposed else plain(theirs, ours)
    return found


def _transposed(path: str, name: str) -> list[Leaf]:
    """Kernel (h, w, out, in), which both sides read as the gradient of a convolution, to weight (in, out, h, w)."""
    return _kernel(path, name, lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0))


def _mirrored(path: str, name: str) -> list[Leaf]:
    """Transposed kernel (h, w, out, in) at stride 1 to the weight (out, in, h, w) of the same plain convolution."""
    return _kernel(
        path,
        name,
        lambda a: a[::-1, ::-1].transpose(2, 3, 0, 1),
        lambda a: a.transpose(2, 3, 0, 1)[::-1, ::-1],
    )


def _kernel(path: str, name: str, read: _Rule, write: _Rule) -> list[Leaf]:
    return [
        Leaf(f"{path}/kernel", f"{name}.weight", read, write),
        Leaf(f"{path}/bias", f"{name}.bias", np.array, np.array),
    ]


def _layer_norm(path: str, name: str) -> list[Leaf]:
    return [
        Leaf(f"{path}/gamma", f"{name}.weight", np.array, np.array),
        Leaf(f"{path}/beta", f"{name}.bias", np.array, np.array),
    ]


def _vector(path: str, name: str) -> Leaf:
    return Leaf(path, name, lambda a: a.reshape(-1), lambda a: a.reshape(1, 1, -1))


def _perceptron(path: str, name: str, first: int) -> list[Leaf]:
    return [
        leaf
        for i in range(2)
        for leaf in layouts.dense(f"{path}/layer_with_weights-{i}", f"{name}.{first + 2 * i}")
    ]


def _gru(path: str, name: str) -> list[Leaf]:
    """Gates in Keras' order update, reset, candidate to torch's reset, update, candidate; `apart` split the bias."""
    parts = {
        "kernel": "weight_ih",
        "recurrent_kernel": "weight_hh",
        "bias/input": "bias_ih",
        "bias/hidden": "bias_hh",
    }
    return [
        Leaf(f"{path}/{theirs}", f"{name}.{ours}", lambda a: _swap_gates(a.T), lambda a: _swap_gates(a).T)
        for theirs, ours in parts.items()
    ]


def _swap_gates(array: np.ndarray) -> np.ndarray:
    """Exchange the first two of three gates; its own inverse."""
    first, second, third = np.split(array, 3)
    return np.concatenate([second, first, third])


def apart(params: Arrays) -> Arrays:
    """Two arrays that hold what are two tensors here, cut in two: the decoder's last layer into colours and mask score,
    the recurrent unit's bias into its rows."""
    found = dict(params)
    for path in ("kernel", "bias"):
        last = f"decoder_cnn/layer_with_weights-{_count(params, 'decoder_cnn') - 1}/"
        if last + path in found:
            whole = found.pop(last + path)
            cut = [whole.shape[-2 if path == "kernel" else -1] - 1]
            parts = np.split(whole, cut, axis=-2 if path == "kernel" else -1)
            found[f"{last}colours/{path}"], found[f"{last}mask/{path}"] = parts
    if "slot_attention/gru/bias" in found:
        rows = found.pop("slot_attention/gru/bias")
        found["slot_attention/gru/bias/input"], found["slot_attention/gru/bias/hidden"] = rows
    return found


def together(arrays: Arrays) -> Arrays:
    """What `apart` cut, whole again."""
    found = dict(arrays)
    for name in [name for name in arrays if "/colours/" in name]:
        parts = [found.pop(name), found.pop(name.replace("/colours/", "/mask/"))]
        axis = -2 if name.endswith("kernel") else -1
        found[name.replace("/colours/", "/")] = np.concatenate(parts, axis)
    if "slot_attention/gru/bias/input" in found:
        rows = [found.pop(f"slot_attention/gru/bias/{part}") for part in ("input", "hidden")]
        found["slot_attention/gru/bias"] = np.stack(rows)
    return found


def to_ours(config: SlotAttentionConfig, theirs: Arrays, where: str) -> dict[str, Tensor]:
    """Our tensors (weights or moments) from the original's arrays."""
    return layouts.to_ours(leaves(config), apart(theirs), where)


def to_theirs(config: SlotAttentionConfig, ours: dict[str, Tensor]) -> Arrays:
    """The original's arrays from our tensors (weights, gradients or moments)."""
    return together(layouts.to_theirs(leaves(config), ours))


def optimizer_tensors(checkpoint: SlotAttentionCheckpoint, config: SlotAttentionConfig) -> dict[str, Tensor]:
    """Adam's moments and step, in the form that `training.optim.load_optimizer` takes; empty where there are none."""
    if not checkpoint.first_moments:
        return {}
    where = str(checkpoint.path)
    found: dict[str, Tensor] = {}
    for what, arrays in (
        ("exp_avg", checkpoint.first_moments),
        ("exp_avg_sq", checkpoint.second_moments),
    ):
        moments = to_ours(config, arrays, where)
        found |= {f"{what}/{name}": value for name, value in moments.items()}
        found |= {f"step/{name}": torch.tensor(float(checkpoint.step or 0)) for name in moments}
    return found


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


def model_of(checkpoint: SlotAttentionCheckpoint, like: ModelConfig | None = None) -> ObjectCentricModel:
    """The model with the checkpoint's weights; its numbers are `model.config`.

    Args:
        like: numbers of the recipe that was named; None: the published ones.

    Raises:
        UserError: a recipe of another system or task, or arrays that do not fit each other.
    """
    config = numbers(checkpoint, like)
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

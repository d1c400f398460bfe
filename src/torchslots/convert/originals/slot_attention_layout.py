"""Slot Attention's weights in Keras: their names, order and layout, and the way to ours and back."""

from collections.abc import Collection

import numpy as np

from torchslots.convert import layouts
from torchslots.convert.layouts import WeightMap
from torchslots.recipes.slot_attention import SetPredictionConfig, SlotAttentionConfig


def names(task: str, num_encoder: int = 4, num_decoder: int = 6) -> list[str]:
    """All weights in the order in which Keras lists them.

    Args:
        task: `object_discovery` or `set_prediction`.
        num_encoder, num_decoder: convolutions.
    """
    discovery = task == "object_discovery"
    return [
        *_layers("encoder_cnn", num_encoder),
        *(_layers("decoder_cnn", num_decoder) if discovery else []),
        *_pair("encoder_pos/dense"),
        *(_pair("decoder_pos/dense") if discovery else []),
        *_norm("layer_norm"),
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


def task_of(params: Collection[str]) -> str:
    """`object_discovery` or `set_prediction`."""
    return "object_discovery" if any(path.startswith("decoder_cnn/") for path in params) else "set_prediction"


def count_layers(params: Collection[str], path: str) -> int:
    """Number of layers with a kernel in a stack."""
    return sum(name.startswith(f"{path}/") and name.endswith("/kernel") for name in params)


def params_of(params: Collection[str], path: str) -> list[str]:
    """Kernels of a stack of layers, in order."""
    return [f"{path}/layer_with_weights-{i}/kernel" for i in range(count_layers(params, path))]


def leaves(config: SlotAttentionConfig) -> list[WeightMap]:
    """Every array of the checkpoint; the decoder's last layer holds colours and, last, mask score."""
    encoder, corrector = "slot_encoder.encoder", "slot_encoder.corrector"
    theirs = "slot_attention"
    found = [
        *_convolutions("encoder_cnn", f"{encoder}.backbone", [False] * len(config.channels), first=1),
        *layouts.dense("encoder_pos/dense", f"{encoder}.position.project"),
        *_layer_norm("layer_norm", f"{encoder}.transform.0"),
        *_perceptron("mlp", f"{encoder}.transform", first=1),
        *layouts.gaussian(f"{theirs}/slots_mu", f"{theirs}/slots_log_sigma", "slot_encoder.initializer"),
        *_layer_norm(f"{theirs}/norm_inputs", f"{corrector}.norm_inputs"),
        *_layer_norm(f"{theirs}/norm_slots", f"{corrector}.norm_slots"),
        *_layer_norm(f"{theirs}/norm_mlp", f"{corrector}.mlp.0"),
        *layouts.dense(f"{theirs}/project_q", f"{corrector}.query", bias=False),
        *layouts.dense(f"{theirs}/project_k", f"{corrector}.key", bias=False),
        *layouts.dense(f"{theirs}/project_v", f"{corrector}.value", bias=False),
        *_gru(f"{theirs}/gru", f"{corrector}.gru"),
        *_perceptron(f"{theirs}/mlp", f"{corrector}.mlp", first=1),
    ]
    if isinstance(config.decoder, SetPredictionConfig):
        return [*found, *_perceptron("mlp_classifier", "decoder.mlp", first=0)]
    last = f"decoder_cnn/layer_with_weights-{len(config.decoder.channels)}"
    return [
        *found,
        *layouts.dense("decoder_pos/dense", "decoder.position.project"),
        *_convolutions("decoder_cnn", "decoder.backbone", [stride > 1 for stride in config.decoder.strides]),
        *_mirrored(last, "decoder.heads.video", slice(None, -1)),
        *_mirrored(last, "decoder.mask_head", slice(-1, None)),
    ]


def _convolutions(path: str, name: str, transposed: list[bool], first: int = 0) -> list[WeightMap]:
    """A stack with ReLU behind each layer. All layers of Keras' decoder are transposed; with stride 1 such a layer is a
    convolution with the mirrored kernel."""
    found = []
    for i, is_transposed in enumerate(transposed):
        # A strided transposed kernel (h, w, out, in) becomes (in, out, h, w): the same axes as a convolution's.
        rule = _mirrored if path == "decoder_cnn" and not is_transposed else layouts.conv
        found += rule(f"{path}/layer_with_weights-{i}", f"{name}.{first + 2 * i}")
    return found


def _mirrored(path: str, name: str, out: slice = slice(None)) -> list[WeightMap]:
    """Transposed kernel (h, w, out, in) at stride 1 to the weight (out, in, h, w) of the same plain convolution.

    Args:
        out: output channels of the kernel that are ours.
    """
    return [
        WeightMap(
            f"{path}/kernel",
            f"{name}.weight",
            lambda a: a[::-1, ::-1, out].transpose(2, 3, 0, 1),
            lambda a: a.transpose(2, 3, 0, 1)[::-1, ::-1],
            axis=2,
        ),
        WeightMap(f"{path}/bias", f"{name}.bias", lambda a: a[out]),
    ]


def _layer_norm(path: str, name: str) -> list[WeightMap]:
    return [
        WeightMap(f"{path}/gamma", f"{name}.weight"),
        WeightMap(f"{path}/beta", f"{name}.bias"),
    ]


def _perceptron(path: str, name: str, first: int) -> list[WeightMap]:
    return [
        leaf
        for i in range(2)
        for leaf in layouts.dense(f"{path}/layer_with_weights-{i}", f"{name}.{first + 2 * i}")
    ]


def _gru(path: str, name: str) -> list[WeightMap]:
    """Gates in Keras' order update, reset, candidate to torch's reset, update, candidate; its bias has two rows."""
    parts = {"kernel": "weight_ih", "recurrent_kernel": "weight_hh"}
    kernels = [
        WeightMap(
            f"{path}/{theirs}", f"{name}.{ours}", lambda a: _swap_gates(a.T), lambda a: _swap_gates(a).T
        )
        for theirs, ours in parts.items()
    ]
    return [*kernels, _bias_row(path, f"{name}.bias_ih", 0), _bias_row(path, f"{name}.bias_hh", 1)]


def _bias_row(path: str, name: str, row: int) -> WeightMap:
    return WeightMap(f"{path}/bias", name, lambda a: _swap_gates(a[row]), lambda a: _swap_gates(a)[None])


def _swap_gates(array: np.ndarray) -> np.ndarray:
    """Exchange the first two of three gates; its own inverse."""
    first, second, third = np.split(array, 3)
    return np.concatenate([second, first, third])

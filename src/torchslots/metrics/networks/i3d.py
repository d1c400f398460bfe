"""I3D (Carreira and Zisserman, 2017), RGB, 400 classes of Kinetics: the network of the Fréchet video distance.

Equal to the graph of the TensorFlow Hub module `deepmind/i3d-kinetics-400/1`: "SAME" padding, which depends on the
size and is larger at the end; batch norm without scale, epsilon 1e-3; logits averaged over time before the softmax.
"""

import re
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchslots.metrics.networks.stages import Join, chain
from torchslots.metrics.networks.weights import feature_weights, load_public

SIZE = 224
"""Height and width in pixels to which frames are resized."""
MIN_FRAMES = 9
"""Shorter clips have fewer than two time steps at the last pooling, which averages two."""
_EPS = 1e-3
_MIXED = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
"""Channels: branch 0; branch 1 inside and out; branch 2 inside and out; branch 3."""


class PadSame(nn.Module):
    """Zeros around a clip so that an operation gives ceil(size / stride) positions, as TensorFlow's "SAME".

    Before a maximum, where TensorFlow ignores padding, zeros are equivalent: all features are at least 0.
    """

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, features: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C t h w"]:
        padding: list[int] = []
        for size, kernel, stride in zip(features.shape[2:], self.kernel, self.stride):
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding = [missing // 2, missing - missing // 2, *padding]
        return F.pad(features, padding)


class I3D(nn.Module):
    """Clips in [-1, 1] to 400 logits; frames are 224x224 in the original, other sizes are averaged over too."""

    num_features = 400

    def __init__(self, features: nn.Sequential, logits: nn.Module) -> None:
        super().__init__()
        self.features, self.logits = features, logits

    def forward(self, clips: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B 400"]:
        features = self.features(clips)
        window = (2, min(7, features.shape[3]), min(7, features.shape[4]))
        return self.logits(F.avg_pool3d(features, window, stride=1)).mean((2, 3, 4))


def i3d() -> I3D:
    """The network without weights; its parameters have the public file's names, see `own_name`."""
    layers: dict[str, nn.Module] = {
        "Conv3d_1a_7x7": _unit(3, 64, 7, stride=2),
        "pool2": _pool((1, 3, 3), (1, 2, 2)),
        "Conv3d_2b_1x1": _unit(64, 64, 1),
        "Conv3d_2c_3x3": _unit(64, 192, 3),
    }
    pools = {
        "3b": _pool((1, 3, 3), (1, 2, 2)),
        "4b": _pool((3,) * 3, (2,) * 3),
        "5b": _pool((2,) * 3, (2,) * 3),
    }
    width = 192
    for name, channels in _MIXED.items():
        if name in pools:
            layers[f"pool{name}"] = pools[name]
        layers[f"Mixed_{name}"] = _mixed(width, channels)
        width = channels[0] + channels[2] + channels[4] + channels[5]
    return I3D(chain(**layers), chain(conv3d=nn.Conv3d(width, I3D.num_features, 1)))


def load_i3d(file: Path | str | None = None, *, download: bool = True) -> I3D:
    """The network with its published weights.

    Raises:
        UserError: as `feature_weights`, whose other arguments these are.
    """
    network, state = i3d(), feature_weights("i3d", file, download=download)
    load_public(network, state, "the file of the I3D network", own_name)
    return network


def own_name(public: str) -> str:
    """`Mixed_3b.b1a.conv3d.weight` is step 0 of branch `b1` here; branch 3 is a pooling and a unit."""
    named = re.sub(r"\.b([12])([ab])\.", lambda m: f".b{m[1]}.{'ab'.index(m[2])}.", public)
    named = re.sub(r"\.b3b\.", ".b3.unit.", named)
    return named if named.startswith("logits") else f"features.{named}"


def _unit(width: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return chain(
        pad=PadSame((kernel,) * 3, (stride,) * 3),
        conv3d=nn.Conv3d(width, channels, kernel, stride, bias=False),
        bn=nn.BatchNorm3d(channels, eps=_EPS),
        relu=nn.ReLU(),
    )


def _pool(kernel: tuple[int, ...], stride: tuple[int, ...]) -> nn.Sequential:
    return nn.Sequential(PadSame(kernel, stride), nn.MaxPool3d(kernel, stride))


def _mixed(width: int, channels: tuple[int, int, int, int, int, int]) -> Join:
    alone, inner_1, outer_1, inner_2, outer_2, pooled = channels
    return Join(
        {
            "b0": _unit(width, alone, 1),
            "b1": nn.Sequential(_unit(width, inner_1, 1), _unit(inner_1, outer_1, 3)),
            "b2": nn.Sequential(_unit(width, inner_2, 1), _unit(inner_2, outer_2, 3)),
            "b3": chain(pool=_pool((3,) * 3, (1,) * 3), unit=_unit(width, pooled, 1)),
        }
    )

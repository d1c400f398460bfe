"""Inception-v3 in the form that defines the Fréchet inception distance.

It is the network of TensorFlow's archive of December 2015, which differs from the usual Inception-v3 (Szegedy et al.,
2016) in three ways: averages do not count padding, the last block takes maxima in place of averages, and the classifier
has 1008 classes. Only the 2048 features after the last pooling ("pool3") are computed.
"""

import re
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchslots.metrics.networks.stages import Join, chain
from torchslots.metrics.networks.weights import feature_weights, load_public

SIZE = 299
"""Height and width in pixels to which images are resized."""
_EPS = 1e-3
_TALL, _WIDE = (7, 1), (1, 7)


class Inception(nn.Sequential):
    """Images in [0, 1] of any size to 2048 features.

    They are resized by bilinear interpolation between pixel centres, without antialiasing, as in pytorch-fid; other
    pixel centres in TensorFlow 1 and torch-fidelity change the distance slightly.
    """

    num_features = 2048

    def forward(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 2048"]:
        resized = F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False)
        return super().forward(resized * 2 - 1).mean((2, 3))


def inception() -> Inception:
    """The network without weights; its modules have the public file's names, see `own_name`."""
    layers: dict[str, nn.Module] = {
        "Conv2d_1a_3x3": _unit(3, 32, 3, stride=2),
        "Conv2d_2a_3x3": _unit(32, 32, 3),
        "Conv2d_2b_3x3": _unit(32, 64, 3, padding=1),
        "pool1": nn.MaxPool2d(3, 2),
        "Conv2d_3b_1x1": _unit(64, 80, 1),
        "Conv2d_4a_3x3": _unit(80, 192, 3),
        "pool2": nn.MaxPool2d(3, 2),
        "Mixed_5b": _block_a(192, 32),
        "Mixed_5c": _block_a(256, 64),
        "Mixed_5d": _block_a(288, 64),
        "Mixed_6a": _block_b(288),
        "Mixed_6b": _block_c(768, 128),
        "Mixed_6c": _block_c(768, 160),
        "Mixed_6d": _block_c(768, 160),
        "Mixed_6e": _block_c(768, 192),
        "Mixed_7a": _block_d(768),
        "Mixed_7b": _block_e(1280, _average()),
        "Mixed_7c": _block_e(2048, nn.MaxPool2d(3, 1, padding=1)),
    }
    network = Inception()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network


def load_inception(file: Path | str | None = None, *, download: bool = True) -> Inception:
    """The network with its published weights.

    Raises:
        UserError: as `feature_weights`, whose other arguments these are.
    """
    network = inception()
    state = feature_weights("inception", file, download=download)
    load_public(network, state, "the file of the Inception network", own_name, unused=("fc.",))
    return network


def own_name(public: str) -> str:
    """The public file numbers the steps of a branch from 1 (`branch5x5_2.conv.weight`), a Sequential from 0."""
    numbered = re.sub(r"(branch\w+?)_(\d)([ab]?)\.", _from_zero, public)
    return re.sub(r"branch_pool\.(conv|bn)", r"branch_pool.unit.\1", numbered)


def _from_zero(match: re.Match[str]) -> str:
    branch, step, fork = match.groups()
    return f"{branch}.{int(step) - 1}." + (f"{fork}." if fork else "")


def _unit(width: int, channels: int, kernel: int | tuple[int, int], **options: Any) -> nn.Sequential:
    convolution = nn.Conv2d(width, channels, kernel, bias=False, **options)
    return chain(conv=convolution, bn=nn.BatchNorm2d(channels, eps=_EPS), relu=nn.ReLU())


def _same(width: int, channels: int, kernel: int | tuple[int, int]) -> nn.Sequential:
    """A unit that keeps the size."""
    padding = tuple(side // 2 for side in kernel) if isinstance(kernel, tuple) else kernel // 2
    return _unit(width, channels, kernel, padding=padding)


def _average() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)


def _pooled(width: int, channels: int, pool: nn.Module) -> nn.Sequential:
    return chain(pool=pool, unit=_unit(width, channels, 1))


def _block_a(width: int, pooled: int) -> Join:
    return Join(
        {
            "branch1x1": _unit(width, 64, 1),
            "branch5x5": nn.Sequential(_unit(width, 48, 1), _same(48, 64, 5)),
            "branch3x3dbl": nn.Sequential(_unit(width, 64, 1), _same(64, 96, 3), _same(96, 96, 3)),
            "branch_pool": _pooled(width, pooled, _average()),
        }
    )


def _block_b(width: int) -> Join:
    double = nn.Sequential(_unit(width, 64, 1), _same(64, 96, 3), _unit(96, 96, 3, stride=2))
    return Join(
        {"branch3x3": _unit(width, 384, 3, stride=2), "branch3x3dbl": double, "pool": nn.MaxPool2d(3, 2)}
    )


def _block_c(width: int, inner: int) -> Join:
    single = nn.Sequential(_unit(width, inner, 1), _same(inner, inner, _WIDE), _same(inner, 192, _TALL))
    double = nn.Sequential(
        _unit(width, inner, 1),
        *(_same(inner, inner, _TALL), _same(inner, inner, _WIDE)),
        *(_same(inner, inner, _TALL), _same(inner, 192, _WIDE)),
    )
    return Join(
        {
            "branch1x1": _unit(width, 192, 1),
            "branch7x7": single,
            "branch7x7dbl": double,
            "branch_pool": _pooled(width, 192, _average()),
        }
    )


def _block_d(width: int) -> Join:
    single = nn.Sequential(_unit(width, 192, 1), _unit(192, 320, 3, stride=2))
    crossed = nn.Sequential(
        _unit(width, 192, 1), _same(192, 192, _WIDE), _same(192, 192, _TALL), _unit(192, 192, 3, stride=2)
    )
    return Join({"branch3x3": single, "branch7x7x3": crossed, "pool": nn.MaxPool2d(3, 2)})


def _block_e(width: int, pool: nn.Module) -> Join:
    return Join(
        {
            "branch1x1": _unit(width, 320, 1),
            "branch3x3": nn.Sequential(_unit(width, 384, 1), _fork()),
            "branch3x3dbl": nn.Sequential(_unit(width, 448, 1), _same(448, 384, 3), _fork()),
            "branch_pool": _pooled(width, 192, pool),
        }
    )


def _fork() -> Join:
    return Join({"a": _same(384, 384, (1, 3)), "b": _same(384, 384, (3, 1))})

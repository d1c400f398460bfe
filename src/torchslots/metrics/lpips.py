"""LPIPS v0.1 (Zhang et al., 2018): perceptual distance of two images from features of VGG16 or AlexNet.

Features of five depths are normalised at each pixel. Their squared differences are weighted by channel, with weights
learned from human comparisons, averaged over pixels and summed over depths. 0: equal images.
"""

import re
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchslots.metrics.networks.stages import Stages, alexnet, vgg16
from torchslots.metrics.networks.weights import State, feature_weights, load_public

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPS = 1e-10
_NETWORKS = {"vgg": (vgg16, "vgg16"), "alex": (alexnet, "alexnet")}


class Lpips(nn.Module):
    """Distance of each pair of images in [-1, 1]; trunk and heads are frozen, images get gradients.

    Args:
        trunk: the network that computes features.
        dropout: share of channels and pixels that are dropped in training mode; 0.5 in the original, whose training of
            VQ-VAEs leaves it on by accident (`train()` of the enclosing module reaches the metric).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Stages, dropout: float = 0.0) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in trunk.widths)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def depths(self, x: Float[Tensor, "n 3 H W"], y: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n D"]:
        """Distance of each depth, the finest first."""
        pairs = zip(self._features(x), self._features(y), self.heads)
        parts = [head(self.dropout((a - b).square())).mean((1, 2, 3)) for a, b, head in pairs]
        return torch.stack(parts, dim=1)

    def forward(self, x: Float[Tensor, "n 3 H W"], y: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n"]:
        return self.depths(x, y).sum(1)

    def _features(self, images: Float[Tensor, "n 3 H W"]) -> list[Tensor]:
        return [_normalised(features) for features in self.trunk((images - self.shift) / self.scale)]


def _normalised(features: Float[Tensor, "n C h w"]) -> Float[Tensor, "n C h w"]:
    """Features of length one at each pixel; pixels of length 0 bypass the square root, whose gradient is not finite."""
    squares = features.square().sum(1, keepdim=True)
    length = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
    return features / (length + _EPS)


def load_lpips(
    network: Literal["vgg", "alex"],
    trunk: Path | str | None = None,
    heads: Path | str | None = None,
    *,
    dropout: float = 0.0,
    download: bool = True,
) -> Lpips:
    """LPIPS with the published weights.

    Args:
        network: VGG16 or AlexNet.
        trunk: torchvision's file of the network; None: see `feature_weights`.
        heads: LPIPS's own file; None: see `feature_weights`.
        dropout: see `Lpips`.
        download: whether missing files may be downloaded.

    Raises:
        MissingWeights: a file is missing.
        UserError: a file that is not the published one.
    """
    build, name = _NETWORKS[network]
    trunk_state = feature_weights(name, trunk, download=download)
    head_state = feature_weights(f"lpips_{network}", heads, download=download)
    return with_weights(Lpips(build(), dropout), trunk_state, head_state)


def untrained_lpips(network: Literal["vgg", "alex"], *, dropout: float = 0.0) -> Lpips:
    """LPIPS with random weights: its distances mean nothing, its time and memory are those of the published one."""
    return Lpips(_NETWORKS[network][0](), dropout)


def with_weights(metric: Lpips, trunk: State, heads: State) -> Lpips:
    """LPIPS with weights by their public names: torchvision's for the trunk, the original's for the heads.

    Raises:
        UserError: tensors are missing, left over or of another shape.
    """
    load_public(metric.trunk, trunk, "the file of LPIPS's network", unused=("classifier.",))
    # `lin3.model.1.weight` (`model.0` is the dropout) to `3.weight`
    own_name = partial(re.sub, r"lin(\d)\.model\.\d\.", r"\1.")
    load_public(metric.heads, heads, "the file of LPIPS's heads", own_name)
    return metric

"""LPIPS v0.1 (Zhang et al., 2018): perceptual distance of two images from features of VGG16 or AlexNet.

Features of five depths are normalised at each pixel; their squared differences are weighted by channel with weights
learned from human comparisons, averaged over pixels and summed over depths. 0 is the same image.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchslots.io.errors import UserError
from torchslots.metrics.networks.stages import Stages, alexnet, vgg16
from torchslots.metrics.networks.weights import State, feature_weights, load_public

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPS = 1e-10
_NETWORKS = {"vgg": (vgg16, "vgg16"), "alex": (alexnet, "alexnet")}


class Lpips(nn.Module):
    """Distance of images in [-1, 1], one figure per pair; trunk and heads are frozen, images get gradients.

    Args:
        trunk: the network that gives features.
        dropout: share of channels and pixels that are left out in training mode. 0 here; 0.5 in the original, whose
            training of VQ-VAEs leaves it on by accident (an enclosing module's `train()` reaches the metric).
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
    """Length one at each pixel; the square root has no slope at 0, so pixels without any feature go around it."""
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
        UserError: as `feature_weights`.
    """
    build, name = _NETWORKS[network]
    trunk_state = feature_weights(name, trunk, download=download)
    head_state = feature_weights(f"lpips_{network}", heads, download=download)
    return _loaded(Lpips(build(), dropout), trunk_state, head_state)


def lpips_from_state(state: Mapping[str, Tensor], dropout: float = 0.0) -> Lpips:
    """LPIPS from the state dict of the original program, or of one that holds it, as its VQ-VAE checkpoints do.

    Names end in `net.slice1.0.weight` or `lin0.model.1.weight`; whatever stands in front, and all other tensors, are
    left out. The network is VGG16 or AlexNet, whichever the names are of.

    Raises:
        UserError: tensors are missing or of another shape.
    """
    first = "net.slice1.0.weight"
    prefix = next((name.removesuffix(first) for name in state if name.endswith(first)), None)
    if prefix is None:
        raise UserError(
            "There is no LPIPS in this checkpoint (no `net.slice1.0.weight`). Checkpoints without "
            "`loss.perceptual_loss` have lost it: use the published files."
        )
    inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    trunk = {
        re.sub(r"net\.slice\d\.", "features.", name): value
        for name, value in inner.items()
        if name.startswith("net.slice")
    }
    heads = {name: value for name, value in inner.items() if re.match(r"lin\d\.", name)}
    return _loaded(Lpips(vgg16() if "features.2.weight" in trunk else alexnet(), dropout), trunk, heads)


def _loaded(metric: Lpips, trunk: State, heads: State) -> Lpips:
    load_public(metric.trunk, trunk, "the file of LPIPS's network", unused=("classifier.",))
    # `lin3.model.1.weight` (`model.0` is the dropout) to `3.weight`
    own_name = partial(re.sub, r"lin(\d)\.model\.\d\.", r"\1.")
    load_public(metric.heads, heads, "the file of LPIPS's heads", own_name)
    return metric

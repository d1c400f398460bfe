"""Weight initialisation as in torch and Keras, for systems that were written in them."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from torchslots.models.layers.blocks import GRUCell
from torchslots.models.layers.conv import ConvTranspose


def start_as_torch(module: nn.Module) -> None:
    """Uniform kernels and biases within 1 / sqrt(fan_in), recurrent weights within 1 / sqrt(hidden size).

    Not for torch's transformer layers, which are initialised differently.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            part.reset_parameters()
        elif isinstance(part, ConvTranspose):
            _within(part.weight[0].numel(), part.weight, part.bias)
        elif isinstance(part, GRUCell):
            _within(part.hidden_size, *part.parameters())


@torch.no_grad()
def _within(fan_in: int, *tensors: Tensor | None) -> None:
    """Uniform within 1 / sqrt(fan_in); torch's fan-in of a transposed convolution is outputs times kernel."""
    bound = 1 / math.sqrt(fan_in)
    for tensor in tensors:
        if tensor is not None:
            tensor.uniform_(-bound, bound)


def start_spread(network: nn.Module) -> None:
    """Normal kernels with variance 2 / fan_in and zero biases, which preserve variance through ReLUs (He et al. 2015,
    section 2.2); torch's default divides it by six in each layer."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def start_residual(network: nn.Module) -> None:
    """Normal kernels with variance 2 / fan_out and norms that are the identity, as in torchvision's ResNets (He et al.
    2015)."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.GroupNorm):
            part.reset_parameters()


def start_as_keras(model: nn.Module) -> None:
    """Glorot-uniform kernels, zero biases, and recurrent kernels whose three gates are one orthogonal matrix."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, ConvTranspose)):
            start_together([module])
        elif isinstance(module, GRUCell):
            nn.init.xavier_uniform_(module.weight_ih)
            nn.init.orthogonal_(module.weight_hh)


@torch.no_grad()
def start_together(layers: Sequence[nn.Module]) -> None:
    """Glorot-uniform kernels and zero biases, for layers that together are one layer in the original."""
    weights = [cast(Tensor, layer.weight) for layer in layers]
    joined = torch.empty(sum(len(weight) for weight in weights), *weights[0].shape[1:])
    nn.init.xavier_uniform_(joined)
    for layer, weight, part in zip(layers, weights, joined.split([len(weight) for weight in weights])):
        weight.copy_(part)
        if isinstance(layer.bias, Tensor):
            layer.bias.zero_()

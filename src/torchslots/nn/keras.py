"""Fresh weights as Keras draws them."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from torchslots.nn.blocks import GRUCell
from torchslots.nn.cnn import ConvTranspose


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
    """Glorot-uniform kernels for layers that the original keeps as one: they share the bounds of the whole."""
    weights = [cast(Tensor, layer.weight) for layer in layers]
    joined = torch.empty(sum(len(weight) for weight in weights), *weights[0].shape[1:])
    nn.init.xavier_uniform_(joined)
    for layer, weight, part in zip(layers, weights, joined.split([len(weight) for weight in weights])):
        weight.copy_(part)
        if isinstance(layer.bias, Tensor):
            layer.bias.zero_()

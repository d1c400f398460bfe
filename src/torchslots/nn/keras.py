"""Fresh weights as Keras draws them."""

import torch
from torch import nn

from torchslots.nn.blocks import GRUCell


def start_as_keras(model: nn.Module) -> None:
    """Glorot-uniform kernels and zero biases everywhere; orthogonal recurrent kernels, all three gates as one matrix."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            start_together([module])
        elif isinstance(module, GRUCell):
            nn.init.xavier_uniform_(module.weight_ih)
            nn.init.orthogonal_(module.weight_hh)


@torch.no_grad()
def start_together(layers: list[nn.Linear | nn.Conv2d | nn.ConvTranspose2d]) -> None:
    """Glorot-uniform kernels for layers that the original keeps as one: they share the bounds of the whole."""
    joined = torch.empty(sum(layer.weight.shape[0] for layer in layers), *layers[0].weight.shape[1:])
    nn.init.xavier_uniform_(joined)
    for layer, part in zip(layers, joined.split([layer.weight.shape[0] for layer in layers])):
        layer.weight.copy_(part)
        if layer.bias is not None:
            layer.bias.zero_()

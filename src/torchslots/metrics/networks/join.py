"""Branches side by side, as Inception networks have them."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


class Join(nn.ModuleDict):
    """Named branches on the same input, their outputs put together along the channels in the order of the names."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([branch(features) for branch in self.values()], dim=1)


def chain(**layers: nn.Module) -> nn.Sequential:
    """Layers in a row, by name."""
    return nn.Sequential(OrderedDict(layers))

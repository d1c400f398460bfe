"""Weight initialisation of flax."""

import math

import torch
from torch import Tensor, nn

# Standard deviation of a standard normal cut off at two.
_TRUNCATED_STD = 0.87962566103423978


def lecun_normal_(weight: Tensor, fan_in: int) -> Tensor:
    """Normal with variance 1 / fan_in, truncated at two standard deviations (flax's default kernel)."""
    std = math.sqrt(1.0 / fan_in) / _TRUNCATED_STD
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def dense(input_size: int, output_size: int, bias: bool = True) -> nn.Linear:
    """A linear layer with LeCun-normal weights and zero bias."""
    layer = nn.Linear(input_size, output_size, bias=bias)
    with torch.no_grad():
        lecun_normal_(layer.weight, input_size)
        if bias:
            nn.init.zeros_(layer.bias)
    return layer

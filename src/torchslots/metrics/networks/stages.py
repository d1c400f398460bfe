"""VGG16 and AlexNet up to their last convolution, with the activations that LPIPS compares.

The parameters are `features.N.weight` and `features.N.bias`, as in torchvision's files. The classifier and the last
pooling are not used and left out.
"""

from collections import OrderedDict
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Stages(nn.Module):
    """Convolutions that return the outputs of some of their layers.

    Args:
        taps: indices of the layers whose output is returned, ascending; the last is the last layer.
        widths: channels of each output.
    """

    def __init__(self, features: nn.Sequential, taps: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        self.features, self.taps, self.widths = features, taps, widths

    def forward(self, images: Float[Tensor, "n 3 H W"]) -> list[Tensor]:
        """Activations after the ReLU, [n, C, h, w], from the finest to the coarsest."""
        outputs = []
        for first, last in pairwise((-1, *self.taps)):
            images = self.features[first + 1 : last + 1](images)
            outputs.append(images)
        return outputs


def vgg16() -> Stages:
    """VGG16 (Simonyan and Zisserman, 2015, configuration D), the last ReLU of each of its five blocks."""
    layers: list[nn.Module] = []
    taps, width = [], 3
    for block in _VGG16:
        layers += [nn.MaxPool2d(2)] if layers else []
        for channels in block:
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
            width = channels
        taps.append(len(layers) - 1)
    return Stages(nn.Sequential(*layers), tuple(taps), tuple(block[-1] for block in _VGG16))


def alexnet() -> Stages:
    """AlexNet in the one-column form of Krizhevsky (2014), all five ReLUs."""
    features = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )
    return Stages(features, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256))


class Join(nn.ModuleDict):
    """Named branches on the same input; outputs are concatenated along the channels, in the order of the names."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([branch(features) for branch in self.values()], dim=1)


def chain(**layers: nn.Module) -> nn.Sequential:
    """Layers in a row, by name."""
    return nn.Sequential(OrderedDict(layers))

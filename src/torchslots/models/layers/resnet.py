"""ResNets with group norm for small images."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from torchslots.models.layers.blocks import NORM_EPS
from torchslots.models.layers.conv import Conv

_GROUPS = 32


class _Norm(nn.GroupNorm):
    """Group norm on contiguous memory: torch's channels-last CPU kernel is ten times less accurate."""

    def __init__(self, size: int, eps: float):
        super().__init__(_GROUPS, size, eps=eps)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return super().forward(input.contiguous())


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016); the shortcut is projected where the shape changes.

    The last norm starts at zero, so that a new block is the identity before its ReLU.
    """

    def __init__(
        self,
        input_size: int,
        size: int,
        stride: int,
        *,
        norm_eps: float = NORM_EPS,
        centered: bool = False,
    ):
        super().__init__()
        self.conv1 = Conv(input_size, size, 3, stride, bias=False, centered=centered)
        self.norm1 = _Norm(size, norm_eps)
        self.conv2, self.norm2 = Conv(size, size, 3, bias=False), _Norm(size, norm_eps)
        nn.init.zeros_(self.norm2.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or input_size != size:
            self.shortcut = nn.Sequential(
                Conv(input_size, size, 1, stride, bias=False, centered=centered), _Norm(size, norm_eps)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O h w"]:
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.shortcut(x) + self.norm2(self.conv2(y)))


class ResNet(nn.Module):
    """Stem and stages at 1, 1/2, 1/4, 1/8 of the resolution, without pooling or head.

    The stem is one 3x3 convolution with norm and, unlike the usual ResNet, neither ReLU nor max-pooling.

    Args:
        stage_sizes: blocks in each stage; the channels double from one stage to the next.
        width: channels of the first stage; a multiple of 32, the number of norm groups.
        norm_eps: epsilon of the norms.
        activate_stem: add the usual ReLU after the stem.
        centered: torch's padding in place of SAME.

    Raises:
        ValueError: a width that is not a multiple of 32.
    """

    def __init__(
        self,
        stage_sizes: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        *,
        norm_eps: float = NORM_EPS,
        activate_stem: bool = False,
        centered: bool = False,
    ):
        super().__init__()
        if width % _GROUPS:
            raise ValueError(f"ResNet width {width} must be a multiple of the {_GROUPS} groups of its norms.")
        activation = [nn.ReLU(inplace=True)] if activate_stem else []
        self.stem = nn.Sequential(Conv(3, width, 3, bias=False), _Norm(width, norm_eps), *activation)
        self.stages = nn.ModuleList()
        size = width
        for i, num_blocks in enumerate(stage_sizes):
            blocks = []
            for j in range(num_blocks):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(BasicBlock(size, width * 2**i, stride, norm_eps=norm_eps, centered=centered))
                size = width * 2**i
            self.stages.append(nn.Sequential(*blocks))
        self.output_size = size

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x

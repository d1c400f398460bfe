"""Convolutions with the padding of TensorFlow and JAX ("SAME"), which torch's symmetric padding cannot express."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.nn.init import lecun_normal_


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis so that a strided convolution gives ceil(length / stride) outputs."""
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def pad_same(
    x: Float[Tensor, "B C H W"], kernel: int, stride: int, value: float = 0.0
) -> Float[Tensor, "B C h w"]:
    """Pad height and width as `same_padding` says."""
    before_h, after_h = same_padding(x.shape[-2], kernel, stride)
    before_w, after_w = same_padding(x.shape[-1], kernel, stride)
    return F.pad(x, (before_w, after_w, before_h, after_h), value=value)


class Conv(nn.Conv2d):
    """Square convolution with SAME padding: one more zero behind than in front where they cannot be equal."""

    def __init__(self, input_size: int, output_size: int, kernel: int, stride: int = 1, bias: bool = True):
        symmetric = stride == 1 and kernel % 2 == 1
        super().__init__(
            input_size, output_size, kernel, stride, padding=kernel // 2 if symmetric else 0, bias=bias
        )
        self.pads = not symmetric
        _start(self, kernel * kernel * input_size)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O h w"]:
        if self.pads:
            input = pad_same(input, self.kernel_size[0], self.stride[0])
        return super().forward(input)


class ConvTranspose(nn.ConvTranspose2d):
    """Square transposed convolution with JAX's SAME padding; the output is exactly `stride` times as large.

    JAX correlates the zero-stuffed input with the kernel as it is, `low` zeros in front; torch gives the full result
    of length (n - 1) * stride + kernel, from which `kernel - 1 - low` rows are cut in front and the rest behind.
    The common `padding=2, output_padding=1` for 5x5 at stride 2 has the same size and is shifted by one pixel.
    """

    def __init__(self, input_size: int, output_size: int, kernel: int, stride: int = 1, bias: bool = True):
        both = kernel + stride - 2
        low = kernel - 1 if stride > kernel - 1 else -(-both // 2)
        cut = (kernel - 1 - low, kernel - 1 - (both - low))
        padding = max(min(cut), 0)
        super().__init__(input_size, output_size, kernel, stride, padding=padding, bias=bias)
        self.cut = (cut[0] - padding, cut[1] - padding)
        _start(self, kernel * kernel * input_size)

    def forward(
        self, input: Float[Tensor, "B C H W"], output_size: list[int] | None = None
    ) -> Float[Tensor, "B O h w"]:
        full = super().forward(input, output_size)
        front, back = self.cut
        return F.pad(full, (-front, -back, -front, -back)) if any(self.cut) else full


def _start(conv: nn.Conv2d | nn.ConvTranspose2d, fan_in: int) -> None:
    """LeCun-normal weights in channels-last memory, in which convolutions are fastest; zero bias."""
    with torch.no_grad():
        lecun_normal_(conv.weight, fan_in)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)


def cnn(
    input_size: int,
    channels: Sequence[int],
    strides: Sequence[int],
    *,
    kernel: int = 5,
    transposed: Sequence[bool] | None = None,
    activate_last: bool = True,
) -> nn.Sequential:
    """Convolutions with ReLU between them and, unless `activate_last` is off, behind the last (SAVi, appendix A)."""
    sizes = [input_size, *channels]
    layers: list[nn.Module] = []
    for i, stride in enumerate(strides):
        kind = ConvTranspose if transposed and transposed[i] else Conv
        layers += [kind(sizes[i], sizes[i + 1], kernel, stride), nn.ReLU(inplace=True)]
    return nn.Sequential(*(layers if activate_last else layers[:-1]))

"""Convolutions with the padding of TensorFlow and JAX ("SAME") or with torch's symmetric one."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.models.layers.init import lecun_normal_


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis so that a strided convolution gives ceil(length / stride) outputs."""
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def pad_same(
    x: Float[Tensor, "B C H W"], kernel: int, stride: int, value: float = 0.0
) -> Float[Tensor, "B C h w"]:
    """Pad height and width by `same_padding`."""
    before_h, after_h = same_padding(x.shape[-2], kernel, stride)
    before_w, after_w = same_padding(x.shape[-1], kernel, stride)
    return F.pad(x, (before_w, after_w, before_h, after_h), value=value)


class Conv(nn.Conv2d):
    """Square convolution with SAME padding: odd padding has one zero more after than before.

    Args:
        centered: pad `kernel // 2` zeros on every side, as torch models do; equal for odd kernels at stride 1.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        kernel: int,
        stride: int = 1,
        bias: bool = True,
        centered: bool = False,
    ):
        symmetric = centered or (stride == 1 and kernel % 2 == 1)
        super().__init__(
            input_size, output_size, kernel, stride, padding=kernel // 2 if symmetric else 0, bias=bias
        )
        self.pads = not symmetric
        before, after = (kernel - 1) // 2, kernel // 2
        whole = stride == 1 and (before == after or not symmetric)
        self.reach: tuple[int, int] | None = (before, after) if whole else None
        """Input cells before and after a cell on which its output depends; None: the output has another size."""
        _start(self, kernel * kernel * input_size)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O h w"]:
        if self.pads:
            input = pad_same(input, self.kernel_size[0], self.stride[0])
        return super().forward(input)


class ConvTranspose(nn.Module):
    """Square transposed convolution with the padding of JAX and TensorFlow (SAME): exactly `stride` times as large.

    The input, with `stride - 1` zeros between its pixels, is correlated with the kernel (JAX). Torch's transposed
    convolution gives the same in (n - 1) * stride + kernel rows, of which the first `front` are cut; its usual
    `padding=2, output_padding=1` for 5x5 at stride 2 is shifted by one pixel.

    It is computed in sub-pixel form: one convolution gives the stride x stride outputs of each input as channels. On
    the CPU that is several times faster than torch's transposed convolution, most of all in bf16.

    The weight has the layout of `torch.nn.ConvTranspose2d`: [in, out, kernel, kernel].

    Args:
        centered: cut as torch does with `padding=kernel // 2, output_padding=stride - 1`; the kernel must be odd.
    """

    taps: Tensor

    def __init__(
        self,
        input_size: int,
        output_size: int,
        kernel: int,
        stride: int = 1,
        bias: bool = True,
        centered: bool = False,
    ):
        super().__init__()
        self.stride, self.output_size = stride, output_size
        front = kernel // 2 if centered else _same_front(kernel, stride)
        taps, self.pads = _subpixel_taps(kernel, stride, front)
        self.reach = self.pads
        """Input cells before and after a cell on which its outputs depend."""
        self.register_buffer("taps", taps, persistent=False)
        self.weight = nn.Parameter(torch.empty(input_size, output_size, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(output_size)) if bias else None
        _start(self, kernel * kernel * input_size)

    def _kernel(self) -> Float[Tensor, "SSO I t t"]:
        """The weight's taps in the order of the outputs they contribute to; a zero tap fills gaps."""
        padded = F.pad(self.weight, (0, 1, 0, 1))
        picked = padded[:, :, self.taps][:, :, :, :, self.taps]
        kernel = picked.permute(2, 4, 1, 0, 3, 5).flatten(0, 2)
        return kernel.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O h w"]:
        stride, bias = self.stride, None if self.bias is None else self.bias.repeat(self.stride**2)
        front, back = self.pads
        if front == back:
            y = F.conv2d(x, self._kernel(), bias, padding=front)
        else:
            y = F.conv2d(F.pad(x, (front, back, front, back)), self._kernel(), bias)
        if stride == 1:
            return y
        batch, _, height, width = y.shape
        cells = y.permute(0, 2, 3, 1).reshape(batch, height, width, stride, stride, self.output_size)
        image = cells.transpose(2, 3).reshape(batch, height * stride, width * stride, self.output_size)
        return image.permute(0, 3, 1, 2)


def _same_front(kernel: int, stride: int) -> int:
    """Rows that SAME padding cuts at the start of a transposed convolution."""
    return kernel - 1 - (kernel - 1 if stride > kernel - 1 else -(-(kernel + stride - 2) // 2))


def _subpixel_taps(kernel: int, stride: int, front: int) -> tuple[Tensor, tuple[int, int]]:
    """The kernel's tap from input m + d to output stride * m + phase, as [phase, d], and the padding on each side.

    Missing taps are `kernel`.
    """
    offsets = [
        d
        for d in range(-kernel, kernel + 1)
        if any(0 <= phase + front - stride * d < kernel for phase in range(stride))
    ]
    found = [[phase + front - stride * d for d in offsets] for phase in range(stride)]
    taps = torch.tensor([[tap if 0 <= tap < kernel else kernel for tap in row] for row in found])
    return taps, (-offsets[0], offsets[-1])


def _start(conv: nn.Conv2d | ConvTranspose, fan_in: int) -> None:
    """LeCun-normal weights in channels-last memory, the fastest for convolutions; zero bias."""
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
    norm: Callable[[int], nn.Module] | None = None,
    bias: bool = True,
    centered: bool = False,
) -> nn.Sequential:
    """Convolutions with ReLU after each, after the last if `activate_last` (SAVi, appendix A).

    Args:
        norm: builds the norm after each convolution from its channels; None: no norm.
        centered: torch's padding in place of SAME.
    """
    sizes = [input_size, *channels]
    layers: list[nn.Module] = []
    for i, stride in enumerate(strides):
        kind = ConvTranspose if transposed and transposed[i] else Conv
        layers.append(kind(sizes[i], sizes[i + 1], kernel, stride, bias, centered))
        layers += [] if norm is None else [norm(sizes[i + 1])]
        # A transposed convolution returns a view; to change one in place would copy whole gradients.
        layers.append(nn.ReLU(inplace=kind is Conv))
    return nn.Sequential(*(layers if activate_last else layers[:-1]))


def over_constant(
    layers: nn.Module, constant: Float[Tensor, "n C"], shared: Float[Tensor, "1 C H W"]
) -> Float[Tensor, "n c h w"]:
    """`layers(constant + shared)`, where possible with the first convolution applied to each part by itself."""
    if isinstance(layers, nn.Sequential) and len(layers):
        first = layers[0]
        if (
            isinstance(first, Conv | ConvTranspose)
            and first.reach is not None
            and min(shared.shape[-2:]) > sum(first.reach)
        ):
            pixels = _first(first, constant, shared)
            active = len(layers) > 1 and isinstance(layers[1], nn.ReLU)
            return layers[1 + active :]((pixels.relu_() if active else pixels).permute(0, 3, 1, 2))
    whole = constant[:, :, None, None] + shared
    return layers(whole.contiguous(memory_format=torch.channels_last))


def _first(
    layer: Conv | ConvTranspose, constant: Float[Tensor, "n C"], shared: Float[Tensor, "1 C H W"]
) -> Float[Tensor, "n h w c"]:
    """The first layer's output, channels last: torch adds and sums gradients of these ten times as fast."""
    assert layer.reach is not None
    side = sum(layer.reach) + 1
    small = constant[:, :, None, None].expand(-1, -1, side, side)
    answer = layer(small.contiguous(memory_format=torch.channels_last))
    response = layer(shared.contiguous(memory_format=torch.channels_last)).to(answer.dtype)
    if layer.bias is not None:
        response = response - layer.bias[:, None, None].to(answer.dtype)
    parts = answer.shape[-1] // side
    pixels, common = (each.permute(0, 2, 3, 1).contiguous() for each in (answer, response))
    if side > 1 or parts > 1:
        rows, columns = (
            _repeating(layer.reach, length, parts, answer.device) for length in shared.shape[-2:]
        )
        pixels = pixels.index_select(1, rows).index_select(2, columns)
    return pixels + common


def _repeating(reach: Sequence[int], length: int, parts: int, device: torch.device) -> Tensor:
    """For each row of the large output the equal row of the small one; each cell has `parts` rows."""
    front, back = reach
    cells = torch.arange(length, device=device)
    small = cells.clamp(max=front) + (cells - (length - 1 - back)).clamp(min=0)
    return (small[:, None] * parts + torch.arange(parts, device=device)).flatten()

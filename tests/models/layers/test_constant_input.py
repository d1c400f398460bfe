"""Convolutions over constants plus a shared picture: the same as over their sum."""

import pytest
import torch
from torch import nn

from torchslots.models.layers.conv import Conv, ConvTranspose, cnn, over_constant
from torchslots.models.layers.reference_frames import RelativePosition
from torchslots.models.types import Pose

CASES = {
    "same": (Conv, 5, 1, False, (9, 7)),
    "pixels": (Conv, 1, 1, False, (3, 4)),
    "even": (Conv, 4, 1, False, (6, 8)),
    "strided": (Conv, 5, 2, False, (8, 8)),
    "narrow": (Conv, 5, 1, False, (4, 9)),
    "transposed": (ConvTranspose, 5, 2, False, (4, 6)),
    "centered": (ConvTranspose, 5, 2, True, (4, 6)),
    "transposed_four": (ConvTranspose, 4, 2, False, (5, 5)),
    "without_reach": (ConvTranspose, 2, 2, False, (3, 3)),
    "transposed_at_stride_one": (ConvTranspose, 3, 1, False, (5, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_values_and_gradients(name: str) -> None:
    kind, kernel, stride, centered, grid = CASES[name]
    torch.manual_seed(0)
    layers = nn.Sequential(kind(6, 5, kernel, stride, True, centered), nn.ReLU(), Conv(5, 3, 3))
    with torch.no_grad():
        layers[0].bias.normal_()
    constant, shared = torch.randn(4, 6).requires_grad_(), torch.randn(1, 6, *grid).requires_grad_()
    inputs = [constant, shared, *layers.parameters()]
    found = [over_constant(layers, constant, shared), layers(constant[:, :, None, None] + shared)]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(found[0])
    gradients = [torch.autograd.grad((each * weight).sum(), inputs) for each in found]
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_less_is_multiplied() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    layers, shared = cnn(8, [4, 4], [1, 1]), torch.randn(1, 8, 20, 20)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        over_constant(layers, torch.randn(16, 8), shared)
    with FlopCounterMode(display=False) as whole, torch.no_grad():
        layers(torch.randn(16, 8)[:, :, None, None] + shared)
    assert counter.get_total_flops() < 0.5 * whole.get_total_flops()


def test_bfloat16_stays_bfloat16() -> None:
    layers = cnn(8, [4], [2], transposed=[True])
    with torch.autocast("cpu", torch.bfloat16):
        assert over_constant(layers, torch.randn(3, 8), torch.randn(1, 8, 6, 6)).dtype == torch.bfloat16


def test_moved_frames_are_a_constant_and_what_all_share() -> None:
    torch.manual_seed(0)
    position, layers = RelativePosition((7, 6), 8), cnn(8, [4, 3], [1, 1])
    slots, where = torch.randn(5, 8).requires_grad_(), torch.rand(5, 2).requires_grad_()
    inputs = [slots, where, *position.parameters(), *layers.parameters()]
    tiled = position(slots[:, :, None, None].expand(-1, -1, 7, 6), Pose(where))
    found = [over_constant(layers, *position.taken_apart(slots, where)), layers(tiled)]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(found[0])
    for one, other in zip(*(torch.autograd.grad((each * weight).sum(), inputs) for each in found)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["same", "pixels", "transposed"])
def test_memory_stays_channels_last(name: str) -> None:
    kind, kernel, stride, centered, grid = CASES[name]
    layers = nn.Sequential(kind(6, 5, kernel, stride, True, centered), nn.ReLU())
    picture = over_constant(layers, torch.randn(4, 6), torch.randn(1, 6, *grid))
    assert picture.is_contiguous(memory_format=torch.channels_last)

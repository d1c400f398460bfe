"""Parts of models that were written in torch: its padding, its norms, its first weights."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchslots.models.layers.blocks import GRUCell, ResidualMlp, transformer
from torchslots.models.layers.conv import Conv, ConvTranspose, cnn
from torchslots.models.layers.resnet import ResNet
from torchslots.models.layers.weight_init import start_as_torch, start_residual


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_centered_convolutions_are_torchs(kernel, stride):
    torch.manual_seed(0)
    layer, picture = Conv(3, 4, kernel, stride, centered=True), torch.randn(2, 3, 9, 12)
    expected = F.conv2d(picture, layer.weight, layer.bias, stride=stride, padding=kernel // 2)
    torch.testing.assert_close(layer(picture), expected)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_centered_transposed_convolutions_are_torchs(kernel, stride):
    torch.manual_seed(0)
    layer, picture = ConvTranspose(3, 4, kernel, stride, centered=True), torch.randn(2, 3, 5, 6)
    expected = F.conv_transpose2d(
        picture, layer.weight, layer.bias, stride=stride, padding=kernel // 2, output_padding=stride - 1
    )
    assert expected.shape[-2:] == (5 * stride, 6 * stride)
    torch.testing.assert_close(layer(picture), expected, rtol=1e-5, atol=1e-5)


def test_same_padding_is_another_function_at_stride_two():
    torch.manual_seed(0)
    same, centered = ConvTranspose(2, 2, 5, 2), ConvTranspose(2, 2, 5, 2, centered=True)
    centered.load_state_dict(same.state_dict())
    picture = torch.randn(1, 2, 4, 4)
    assert not torch.allclose(same(picture), centered(picture))


def test_norms_lie_between_convolutions_and_relu():
    layers = cnn(3, [4, 8], [1, 1], norm=nn.BatchNorm2d, bias=False, activate_last=False)
    kinds = [Conv, nn.BatchNorm2d, nn.ReLU, Conv, nn.BatchNorm2d]
    assert [type(layer) for layer in layers] == kinds
    assert all(layer.bias is None for layer in layers if isinstance(layer, Conv))


def test_a_residual_network_starts_as_torchs_vision_models_do():
    torch.manual_seed(0)
    network = ResNet((2, 2, 2), norm_eps=1e-5, activate_stem=True, centered=True)
    start_residual(network)
    kernel = dict(network.named_parameters())["stages.2.1.conv2.weight"]
    assert kernel.std().item() == pytest.approx(math.sqrt(2 / (256 * 9)), rel=0.02)
    norms = [part for part in network.modules() if isinstance(part, nn.GroupNorm)]
    assert all(bool((norm.weight == 1).all()) and norm.eps == 1e-5 for norm in norms)
    assert network(torch.randn(1, 3, 16, 24)).shape == (1, 256, 4, 6)
    assert bool((network.stem(torch.randn(1, 3, 16, 24)) >= 0).all())


def test_fresh_weights_keep_torchs_bounds():
    torch.manual_seed(0)
    parts = nn.ModuleDict(
        {
            "dense": nn.Linear(64, 32),
            "plain": Conv(16, 8, 5),
            "transposed": ConvTranspose(8, 16, 5, 2),
            "unit": GRUCell(8, 64, full_bias=True),
        }
    )
    start_as_torch(parts)
    fan_in = {"dense": 64, "plain": 16 * 25, "transposed": 16 * 25, "unit": 64}
    for name, part in parts.items():
        bound = 1 / math.sqrt(fan_in[name])
        for value in part.parameters():
            assert 0.5 * bound < value.abs().max().item() <= bound, name
    reference = nn.ConvTranspose2d(8, 16, 5)
    assert reference.weight.abs().max().item() <= 1 / math.sqrt(fan_in["transposed"])


@pytest.mark.parametrize("norm_first", [True, False])
def test_transformers_have_no_norm_behind_the_last_layer(norm_first):
    torch.manual_seed(0)
    block = transformer(8, num_layers=2, num_heads=2, mlp_size=16, dropout=0.1, norm_first=norm_first)
    slots = torch.randn(3, 5, 8)
    assert block.norm is None and len(block.layers) == 2
    assert not torch.equal(block.train()(slots), block(slots)), "dropout"
    with_gradient = block.eval()(slots)
    with torch.no_grad():
        torch.testing.assert_close(block(slots), with_gradient)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(block(slots[:, order]), with_gradient[:, order])


def test_a_residual_perceptron_adds_to_its_input_or_to_what_is_normed():
    torch.manual_seed(0)
    block, slots = ResidualMlp(8, 16, from_norm=False), 3 * torch.randn(2, 4, 8)
    change = block.mlp(block.norm(slots))
    torch.testing.assert_close(block(slots), slots + change)
    block.from_norm = True
    torch.testing.assert_close(block(slots), block.norm(slots) + change)

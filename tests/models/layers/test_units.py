"""Single modules against recordings of the original's: outputs 1e-5, gradients 1e-4, both relative."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchslots.convert import layouts
from torchslots.convert.layouts import Arrays, WeightMap
from torchslots.models.layers.blocks import GRUCell, PostNormBlock, PreNormBlock, mlp
from torchslots.models.layers.conv import Conv, ConvTranspose, cnn, same_padding
from torchslots.models.layers.position import PositionEmbedding
from torchslots.models.slots.attention import SlotAttention
from torchslots.models.slots.initializers import FromBoxes
from torchslots.models.types import Conditioning, State


class Unit(NamedTuple):
    """A recorded module."""

    inputs: list[Tensor]
    out: np.ndarray
    weights: Arrays
    gradients: Arrays
    grad_input: np.ndarray
    projection: Tensor


def read(golden: Path, name: str) -> Unit:
    with np.load(golden / "savi_units" / f"{name}.npz") as arrays:
        found = dict(arrays)
    below = lambda start: {k.removeprefix(start): v for k, v in found.items() if k.startswith(start)}  # noqa: E731
    inputs = [torch.from_numpy(array).requires_grad_() for _, array in sorted(below("in/").items())]
    projection = torch.from_numpy(found["grad_proj"])
    return Unit(
        inputs, found["out"], below("params/"), below("grad_params/"), found["grad_input"], projection
    )


def check(
    module: nn.Module,
    leaves: list[WeightMap],
    unit: Unit,
    out: Tensor,
    source: Tensor,
    zero: tuple[str, ...] = (),
) -> None:
    """Output, the gradient of its product with the recorded projection, for the input and every weight."""
    assert relative(out, unit.out) < 1e-5
    (out * unit.projection).sum().backward()
    assert source.grad is not None and relative(source.grad, unit.grad_input) < 1e-4
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    ours = layouts.to_theirs(leaves, gradients)
    checked = set(unit.gradients) - {path for path in unit.gradients if path.endswith("pos_embedding")}
    assert set(ours) == checked
    for path in checked:
        if path in zero:
            assert np.linalg.norm(ours[path]) < 1e-4
        else:
            assert relative(ours[path], unit.gradients[path]) < 1e-4, path


def relative(ours: Tensor | np.ndarray, recorded: np.ndarray) -> float:
    array = ours.detach().numpy() if isinstance(ours, Tensor) else ours
    assert array.shape == recorded.shape
    return float(np.linalg.norm(array - recorded) / np.linalg.norm(recorded))


def load(module: nn.Module, leaves: list[WeightMap], unit: Unit) -> None:
    module.load_state_dict(layouts.to_ours(leaves, unit.weights, "unit"))


@pytest.mark.parametrize(
    ("name", "kernel", "stride", "transposed"),
    [
        (f"CNN_conv{kernel}_s{stride}_{size}", kernel, stride, False)
        for kernel, stride in ((5, 2), (3, 2), (4, 1))
        for size in ("12x16", "13x11")
    ]
    + [
        ("CNN_convT5_s2_12x16", 5, 2, True),
        ("CNN_convT5_s2_13x11", 5, 2, True),
        ("CNN_convT5_s1", 5, 1, True),
        ("CNN_convT4_s2", 4, 2, True),
        ("CNN_convT3_s2", 3, 2, True),
        ("CNN_convT3_s3", 3, 3, True),
    ],
)
def test_convolutions(golden: Path, name: str, kernel: int, stride: int, transposed: bool) -> None:
    unit = read(golden, name)
    module = cnn(3, [6], [stride], kernel=kernel, transposed=[transposed])
    rule = layouts.conv_transpose if transposed else layouts.conv
    leaves = rule("conv_0", "0")
    load(module, leaves, unit)
    out = module(unit.inputs[0].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    check(module, leaves, unit, out, unit.inputs[0])


def test_gru(golden: Path) -> None:
    unit = read(golden, "GRU")
    module, leaves = GRUCell(24, 16), layouts.gru("GRUCell_0", "cell")
    leaves = [
        WeightMap(leaf.path, leaf.name.removeprefix("cell."), leaf.read, leaf.write, leaf.part)
        for leaf in leaves
    ]
    load(module, leaves, unit)
    state, inputs = unit.inputs
    check(module, leaves, unit, module(inputs, state), state)


def test_gru_with_all_biases_is_torchs() -> None:
    ours, torchs = GRUCell(5, 4, full_bias=True), nn.GRUCell(5, 4)
    torchs.load_state_dict(ours.state_dict())
    x, h = torch.randn(3, 2, 5), torch.randn(3, 2, 4)
    assert torch.equal(ours(x, h).flatten(0, 1), torchs(x.flatten(0, 1), h.flatten(0, 1)))


@pytest.mark.parametrize(("name", "kind"), [("self_post", PostNormBlock), ("self_pre", PreNormBlock)])
def test_transformer_blocks(golden: Path, name: str, kind: type[nn.Module]) -> None:
    unit = read(golden, f"TransformerBlock_{name}")
    module = kind(16, num_heads=4, qkv_size=24, mlp_size=20)
    leaves = [
        *layouts.attention("MultiHeadDotProductAttention_0", "attention", 4),
        *layouts.norm("LayerNorm_0", "norm_attention"),
        *layouts.perceptron("MLP_0", "mlp"),
        *layouts.norm("LayerNorm_1", "norm_mlp"),
    ]
    load(module, leaves, unit)
    check(
        module,
        leaves,
        unit,
        module(unit.inputs[0]),
        unit.inputs[0],
        zero=("MultiHeadDotProductAttention_0/key/bias",),
    )


@pytest.mark.parametrize(("name", "pre_norm"), [("MLP_None_nores", False), ("MLP_pre_nores", True)])
def test_perceptrons(golden: Path, name: str, pre_norm: bool) -> None:
    unit = read(golden, name)
    module = mlp(16, [20], 16, pre_norm=pre_norm)
    leaves = [
        WeightMap(leaf.path.removeprefix("m/"), leaf.name.removeprefix("m."), leaf.read, leaf.write)
        for leaf in layouts.perceptron("m", "m", pre_norm=pre_norm)
    ]
    load(module, leaves, unit)
    check(module, leaves, unit, module(unit.inputs[0]), unit.inputs[0])


def test_position_embedding(golden: Path) -> None:
    unit = read(golden, "PositionEmbedding_linear_project_add")
    module = PositionEmbedding((5, 7), 6)
    grid = module.grid.clone()
    leaves = [
        WeightMap(leaf.path.removeprefix("p/"), leaf.name.removeprefix("p."), leaf.read, leaf.write)
        for leaf in layouts.position("p", "p")
    ]
    load(module, leaves, unit)
    out = module(unit.inputs[0].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    check(module, leaves, unit, out, unit.inputs[0])
    assert grid[0, 0].tolist() == [-1, -1] and grid[-1, 0].tolist() == [1, -1]


@pytest.mark.parametrize(
    ("name", "rounds", "heads", "mlp_size"),
    [
        ("it1_h1_nomlp", 1, 1, None),
        ("it2_h1_nomlp", 2, 1, None),
        ("it3_h1_mlp", 3, 1, 20),
        ("it2_h4_mlp", 2, 4, 20),
    ],
)
def test_slot_attention(golden: Path, name: str, rounds: int, heads: int, mlp_size: int | None) -> None:
    unit = read(golden, f"SlotAttention_{name}")
    slots, tokens = unit.inputs
    module = SlotAttention(
        10, slots.shape[-1], qkv_size=24, num_iterations=rounds, num_heads=heads, mlp_size=mlp_size
    )
    leaves = [
        *layouts.norm("LayerNorm_0", "norm_slots"),
        *layouts.norm("LayerNorm_1", "norm_inputs"),
        *(
            leaf
            for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value"))
            for leaf in layouts.heads_in(f"general_dense_{theirs}_0", ours, heads, bias=False)
        ),
        *layouts.gru("GRU_0/GRUCell_0", "gru"),
    ]
    if heads > 1:
        leaves += layouts.heads_out("InvertedDotProductAttention_0/DenseGeneral_0", "merge", heads)
    if mlp_size:
        leaves += layouts.perceptron("MLP_0", "mlp", pre_norm=True)
    load(module, leaves, unit)
    group = module(State(slots), module.project(tokens))
    assert torch.allclose(group.attn.sum(1), torch.ones(2, 30), atol=1e-6)
    check(module, leaves, unit, group.slots, slots, zero=("LayerNorm_0/bias",))


@pytest.mark.parametrize("centers", [False, True])
def test_slots_from_boxes(golden: Path, centers: bool) -> None:
    unit = read(golden, f"CoordinateEncoderStateInit_bg1_com{int(centers)}_val0")
    module = FromBoxes(16, hidden_size=20, centers=centers)
    leaves = layouts.perceptron("MLP_0", "mlp")
    load(module, leaves, unit)
    boxes = unit.inputs[0]
    state = module(Conditioning(2, torch.device("cpu"), boxes=boxes[:, 0]))
    check(module, leaves, unit, state.slots, boxes)


@pytest.mark.parametrize(
    ("length", "kernel", "stride", "padding"),
    [(64, 5, 1, (2, 2)), (64, 5, 2, (1, 2)), (64, 3, 2, (0, 1)), (64, 1, 2, (0, 0)), (13, 5, 2, (2, 2))],
)
def test_same_padding(length: int, kernel: int, stride: int, padding: tuple[int, int]) -> None:
    assert same_padding(length, kernel, stride) == padding
    assert Conv(1, 1, kernel, stride)(torch.zeros(1, 1, length, length)).shape[-1] == -(-length // stride)


@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_transposed_convolutions_enlarge_exactly(kernel: int, stride: int) -> None:
    assert ConvTranspose(1, 1, kernel, stride)(torch.zeros(1, 1, 7, 9)).shape[-2:] == (7 * stride, 9 * stride)

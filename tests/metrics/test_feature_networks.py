"""The feature networks equal the public programs: torch-fidelity's Inception-v3 (the same network as pytorch-fid's) and
pytorch-i3d, run on weights that follow from their names."""

import ast
import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metrics.public_weights import public_weights
from recorded import GOLDEN
from torchslots.io.errors import UserError
from torchslots.metrics.networks import i3d, inception
from torchslots.metrics.networks.i3d import PadSame
from torchslots.metrics.networks.stages import alexnet, vgg16
from torchslots.metrics.networks.weights import FILES, load_public
from torchslots.metrics.reconstruction import (
    DEFINITIONS,
    NETWORK_METRICS,
    ReconstructionScores,
    load_networks,
)

_RECORDED = np.load(GOLDEN / "sd_metrics/feature_networks.npz")


def _public(network: str) -> dict[str, torch.Tensor]:
    shapes = zip(_RECORDED[f"{network}/names"], _RECORDED[f"{network}/shapes"])
    sizes = {str(name): ast.literal_eval(str(shape)) for name, shape in shapes}
    return public_weights({name: size for name, size in sizes.items() if not name.endswith("_tracked")})


@pytest.fixture(scope="module")
def loaded_i3d() -> nn.Module:
    network = i3d.i3d()
    load_public(network, _public("i3d"), "the recording", i3d.own_name)
    return network


@pytest.fixture(scope="module")
def loaded_inception() -> nn.Module:
    network = inception.inception()
    load_public(network, _public("inception"), "the recording", inception.own_name, unused=("fc.",))
    return network


def _uniform(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).rand(*shape).astype(np.float32))


@torch.no_grad()
def test_inception_equals_recorded(loaded_inception):
    features = loaded_inception(_uniform(3, 2, 3, 40, 52))
    np.testing.assert_allclose(features, _RECORDED["inception/features"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_inception_pools_as_the_published_one(loaded_inception):
    """The last block takes maxima, the others averages that leave padding out."""
    last, before = loaded_inception.Mixed_7c.branch_pool.pool, loaded_inception.Mixed_7b.branch_pool.pool
    ones = torch.ones(1, 1, 3, 3)
    assert (before(ones) == 1).all() and before(-torch.eye(3)[None, None])[0, 0, 0, 0] == -0.5
    assert last(-torch.eye(3)[None, None])[0, 0, 1, 1] == 0


@torch.no_grad()
def test_i3d_equals_recorded(loaded_i3d):
    clip = _uniform(6, 1, 3, 16, 28, 28) * 2 - 1
    large = F.interpolate(clip, (16, 224, 224), mode="trilinear", align_corners=False)
    np.testing.assert_allclose(loaded_i3d(large), _RECORDED["i3d/logits"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_i3d_pads_odd_sizes_as_recorded(loaded_i3d):
    features = loaded_i3d.features(_uniform(4, 1, 3, 11, 45, 39) * 2 - 1)
    np.testing.assert_allclose(features.mean(1), _RECORDED["i3d/odd_features"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (2, 2), (1, 1)])
def test_same_padding_by_its_definition(size: int, kernel: int, stride: int):
    """ceil(size / stride) windows; the first begins before the picture by half of what is missing, rounded down."""
    numbers = torch.arange(1.0, size + 1).view(1, 1, size, 1, 1)
    padded = PadSame((kernel, 1, 1), (stride, 1, 1))(numbers).flatten()
    windows = padded.unfold(0, kernel, stride)
    assert len(windows) == -(-size // stride)
    missing = len(padded) - size
    assert padded[: missing // 2].eq(0).all() and padded[missing // 2] == 1
    assert len(padded) == max((len(windows) - 1) * stride + kernel, size)


def test_sizes_of_networks():
    """Parameters of torchvision's feature layers, and of the two recorded programs."""
    counts = {
        build: sum(parameter.numel() for parameter in build().parameters())
        for build in (vgg16, alexnet, inception.inception, i3d.i3d)
    }
    shapes = {
        network: [ast.literal_eval(str(shape)) for shape in _RECORDED[f"{network}/shapes"]]
        for network in ("inception", "i3d")
    }
    names = {network: _RECORDED[f"{network}/names"] for network in shapes}
    recorded = {
        network: sum(
            int(np.prod(shape))
            for name, shape in zip(names[network], shapes[network])
            if name.endswith((".weight", ".bias")) and not name.startswith("fc.")
        )
        for network in shapes
    }
    assert counts[vgg16] == 14_714_688 and counts[alexnet] == 2_469_696
    assert counts[inception.inception] == recorded["inception"] and counts[i3d.i3d] == recorded["i3d"]


def test_stages_hand_out_rectified_features():
    pictures = torch.randn(1, 3, 70, 66)
    for network, sides in ((vgg16(), [(70, 66), (35, 33), (17, 16), (8, 8), (4, 4)]), (alexnet(), None)):
        outputs = network(pictures)
        assert [output.shape[1] for output in outputs] == list(network.widths)
        assert all((output >= 0).all() for output in outputs)
        assert sides is None or [tuple(output.shape[2:]) for output in outputs] == sides


@pytest.mark.slow
@torch.no_grad()
def test_all_figures_from_files_in_the_cache(tmp_path, monkeypatch):
    """Files with the public names and shapes, from disk to figures."""
    monkeypatch.setenv("TORCHSLOTS_FEATURES", str(tmp_path))
    shapes = {
        name: {key: tuple(value.shape) for key, value in build().state_dict().items()}
        | {"classifier.1.weight": (5, 4)}
        for name, build in (("vgg16", vgg16), ("alexnet", alexnet))
    }
    states = {name: public_weights(sizes) for name, sizes in shapes.items()}
    for name, widths in (("vgg", vgg16().widths), ("alex", alexnet().widths)):
        heads = {f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate(widths)}
        states[f"lpips_{name}"] = public_weights(heads)
    for name, state in (states | {name: _public(name) for name in ("inception", "i3d")}).items():
        torch.save(state, tmp_path / FILES[name].file)
        digest = hashlib.sha256((tmp_path / FILES[name].file).read_bytes()).hexdigest()
        monkeypatch.setitem(FILES, name, replace(FILES[name], sha256=digest, git_id=""))
    networks, notes = load_networks()
    assert set(networks) == set(NETWORK_METRICS) and notes == []
    scores = ReconstructionScores(networks)
    real = _uniform(0, 2, 16, 3, 32, 32)
    scores.add((real + _uniform(1, 2, 16, 3, 32, 32) * 0.1), real)
    scores.finish(["a", "b"])
    figures, notes = scores.compute()
    assert set(figures) == set(DEFINITIONS) and notes == []
    assert all(value > 0 for value in figures.values())


def test_a_file_is_read_strictly_both_ways():
    state = _public("i3d")
    network = i3d.i3d()
    with pytest.raises(UserError, match=r"1 missing \(features\.Conv3d_2b_1x1\.bn\.bias\)"):
        missing = {name: value for name, value in state.items() if name != "Conv3d_2b_1x1.bn.bias"}
        load_public(network, missing, "f", i3d.own_name)
    with pytest.raises(UserError, match=r"1 unexpected \(features\.extra\)"):
        load_public(network, state | {"extra": torch.zeros(1)}, "f", i3d.own_name)
    with pytest.raises(UserError, match=r"\[600\] stored, \[400\] wanted"):
        load_public(network, state | {"logits.conv3d.bias": torch.zeros(600)}, "f", i3d.own_name)

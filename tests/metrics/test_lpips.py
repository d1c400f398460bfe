"""LPIPS equals the original program on weights that follow from their names."""

import numpy as np
import pytest
import torch

from fidelity.lpips_state import lpips_from_state
from metrics.public_weights import public_weights
from recorded import GOLDEN
from torchslots.io.errors import UserError
from torchslots.metrics.lpips import Lpips
from torchslots.metrics.networks.stages import alexnet, vgg16
from torchslots.metrics.networks.weights import feature_folder, feature_weights

_FOLDER = GOLDEN / "sd_metrics"
_PICTURES = np.load(_FOLDER / "lpips_hash_vgg.npz")
_RECORDED = np.load(_FOLDER / "lpips_hash_heads.npz")
_TRUNKS = {"vgg": vgg16, "alex": alexnet}


def _state(network: str) -> dict[str, torch.Tensor]:
    """The original's state dict, by its own names: `lins.N` are the same heads once more."""
    trunk = _TRUNKS[network]()
    shapes = {}
    for name in map(str, _RECORDED[f"{network}/names"]):
        if name.startswith("net."):
            shapes[name] = tuple(trunk.get_parameter(f"features.{name.split('.', 2)[2]}").shape)
        elif name.startswith("lin"):
            shapes[name] = (1, trunk.widths[int(name.replace("lins.", "lin")[3])], 1, 1)
    return public_weights(shapes)


@pytest.fixture(scope="module", params=["vgg", "alex"])
def case(request) -> tuple[str, Lpips]:
    return request.param, lpips_from_state(_state(request.param))


def _pictures() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(_PICTURES["x"]), torch.from_numpy(_PICTURES["y"])


def test_distance_depths_and_gradient_equal_recorded(case):
    name, metric = case
    x, y = _pictures()
    x.requires_grad_()
    depths = metric.depths(x, y)
    np.testing.assert_allclose(depths.detach(), _RECORDED[f"{name}/depths"], rtol=1e-5)
    distance = metric(x, y)
    np.testing.assert_allclose(distance.detach(), _RECORDED[f"{name}/distance"], rtol=1e-5)
    (gradient,) = torch.autograd.grad(distance.mean(), x)
    assert gradient.norm().item() == pytest.approx(float(_RECORDED[f"{name}/grad_norm"]), rel=1e-4)


def test_dropout_of_the_original_in_training_mode():
    metric = lpips_from_state(_state("alex"), dropout=0.5)
    x, y = _pictures()
    np.testing.assert_allclose(metric(x, y), _RECORDED["alex/distance"], rtol=1e-5)
    metric.train()
    torch.manual_seed(5)
    np.testing.assert_allclose(metric(x, y), _RECORDED["alex/with_dropout_seed_5"], rtol=1e-5)


def test_recorded_case_with_the_published_heads():
    """The heads are a public file of 7 KB that is no part of this repository."""
    if not (feature_folder() / "lpips-v0.1-vgg.pth").is_file():
        pytest.skip("lpips-v0.1-vgg.pth is not in the cache; feature_weights('lpips_vgg') brings it")
    heads = feature_weights("lpips_vgg", download=False)
    metric = lpips_from_state(
        {name: v for name, v in _state("vgg").items() if name.startswith("net")} | heads
    )
    x, y = _pictures()
    x.requires_grad_()
    recorded = np.stack([_PICTURES[f"layer{i}"].ravel() for i in range(5)], axis=1)
    np.testing.assert_allclose(metric.depths(x, y).detach(), recorded, rtol=1e-5)
    np.testing.assert_allclose(metric(x, y).detach(), _PICTURES["lpips"].ravel(), rtol=1e-5)
    (gradient,) = torch.autograd.grad(metric(x, y).sum(), x)
    assert gradient.norm().item() == pytest.approx(float(_PICTURES["grad_norm_x"]), rel=1e-4)


def test_read_from_a_checkpoint_of_the_original(case):
    name, metric = case
    state = {f"loss.perceptual_loss.{key}": value for key, value in _state(name).items()}
    again = lpips_from_state(state | {"encoder.conv_in.weight": torch.zeros(1)})
    assert all(torch.equal(a, b) for a, b in zip(metric.parameters(), again.parameters()))


def test_checkpoints_without_it_or_with_half_of_it():
    with pytest.raises(UserError, match="There is no LPIPS"):
        lpips_from_state({"encoder.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"missing \(4\.weight\)"):
        lpips_from_state({name: v for name, v in _state("alex").items() if "lin4" not in name})


def test_equal_pictures_and_flat_features_have_finite_gradients():
    metric = Lpips(alexnet())
    with torch.no_grad():
        for parameter in metric.trunk.parameters():
            parameter.zero_()
    x, y = _pictures()
    x.requires_grad_()
    distance = metric(x, y)
    assert (distance == 0).all()
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    assert gradient.isfinite().all()


def test_nothing_in_it_is_trained(case):
    assert not any(parameter.requires_grad for parameter in case[1].parameters())

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from torchslots.errors import UserError
from torchslots.training import optim
from torchslots.training.recipe import OptimConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "savi_units"


@pytest.mark.parametrize("thousands", [100, 500])
def test_schedule_is_the_recorded_one(thousands: int) -> None:
    recorded = np.load(GOLDEN / f"schedule_{thousands}k.npz")
    rate = optim.schedule(OptimConfig(2e-4, 2500, thousands * 1000))
    ours = [rate(int(step)) for step in recorded["steps"]]
    # The original computes in float32 from 1 minus the part done: near zero only its absolute error is small.
    np.testing.assert_allclose(ours, recorded["lr"], rtol=1e-6, atol=2e-11)


def test_schedule_starts_at_zero_peaks_after_warmup_and_stays_at_its_end() -> None:
    rates = [
        optim.cosine_with_warmup(step, peak=0.3, warmup_steps=10, num_steps=50)
        for step in (0, 5, 10, 30, 50, 99)
    ]
    np.testing.assert_allclose(rates, [0.0, 0.15, 0.3, 0.15, 0.0, 0.0], atol=1e-12)


def test_schedule_without_warmup_or_with_nothing_else() -> None:
    assert optim.cosine_with_warmup(0, peak=0.3, warmup_steps=0, num_steps=5) == 0.3
    assert optim.cosine_with_warmup(5, peak=0.3, warmup_steps=5, num_steps=5) == 0.3


def test_adam_follows_its_formula() -> None:
    model = nn.Linear(3, 1, bias=False)
    optimizer = optim.adam(model)
    weight = model.weight.detach().double().numpy().copy()
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step, seed in enumerate(range(4), start=1):
        gradient = np.random.default_rng(seed).normal(size=weight.shape)
        model.weight.grad = torch.from_numpy(gradient).float()
        optimizer.param_groups[0]["lr"] = 0.01 * step
        optimizer.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        size = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        weight -= 0.01 * step * first / (1 - 0.9**step) / size
    np.testing.assert_allclose(model.weight.detach().numpy(), weight, rtol=1e-5)


def test_adam_needs_something_to_train() -> None:
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(UserError, match="no trainable parameter"):
        optim.adam(model)


def test_clipping_scales_to_the_norm_and_returns_the_one_before() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert optim.clip_gradients(parameters, 0.5).item() == pytest.approx(5.0)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([3.0, 0.0]) * 0.5 / (5.0 + 1e-6))
    before = parameters[1].grad.clone()
    optim.clip_gradients(parameters, None)
    assert torch.equal(parameters[1].grad, before)


def test_clipping_reports_a_gradient_that_is_not_finite() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, math.nan])
    assert math.isnan(optim.clip_gradients([parameter], 0.05).item())


def test_average_is_the_recursion_from_the_first_update_on() -> None:
    model = nn.Linear(2, 1, bias=False)
    average = optim.average_weights(model, 0.75)
    assert average is not None
    expected = None
    for value in (1.0, 2.0, 5.0):
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
        expected = value if expected is None else 0.75 * expected + 0.25 * value
    torch.testing.assert_close(average.module.weight, torch.full((1, 2), expected))


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_average_refuses_a_senseless_decay(decay: float) -> None:
    with pytest.raises(UserError, match="ema_decay"):
        optim.average_weights(nn.Linear(1, 1), decay)


def _stepped(seed: int) -> tuple[nn.Module, torch.optim.Adam]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].bias.requires_grad_(False)
    optimizer = optim.adam(model)
    _step(model, optimizer)
    return model, optimizer


def _step(model: nn.Module, optimizer: torch.optim.Adam) -> None:
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.zero_grad()
    model(torch.tensor([[1.0, 2.0]])).sum().backward()
    optimizer.step()


def test_optimizer_state_survives_by_name() -> None:
    model, optimizer = _stepped(0)
    tensors = optim.optimizer_tensors(model, optimizer)
    assert "exp_avg/0.weight" in tensors and "exp_avg/0.bias" not in tensors
    other, fresh = _stepped(1)
    other.load_state_dict(model.state_dict())
    optim.load_optimizer(other, fresh, {key: value.clone() for key, value in tensors.items()}, "here")
    for _ in range(2):
        _step(model, optimizer)
        _step(other, fresh)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


def test_optimizer_state_of_another_model_is_refused() -> None:
    model, optimizer = _stepped(0)
    tensors = optim.optimizer_tensors(model, optimizer)
    wide = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    with pytest.raises(UserError, match=r"some file: the optimiser's `.*0\.weight`"):
        optim.load_optimizer(wide, optim.adam(wide), tensors, "some file")

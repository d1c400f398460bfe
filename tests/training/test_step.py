import math
from typing import Any

import pytest
import torch
from tiny_run import TinyModel, same, tiny_recipe
from torch import Tensor

from torchslots.shapes import Batch
from torchslots.training.step import NonFinite, TrainStep


def _batch(value: float = 0.5) -> Batch:
    video = torch.rand(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * value
    return {"video": video, "name": ["a"] * 4}


def _step(model: TinyModel, ahead: bool = False, **train: Any) -> TrainStep:
    """Ahead: as on a GPU, where the host does not wait; the fused kernel does the same on the CPU."""
    recipe = tiny_recipe(**train)
    step = TrainStep(model, recipe.optim, recipe.train, "cpu")
    if ahead:
        step._delayed = True
        step.optimizer.param_groups[0].update(fused=True, foreach=False)
    return step


def _weights(model: TinyModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_draws_follow_from_seed_step_and_process_alone() -> None:
    first = _step(TinyModel())(5, _batch()).losses
    torch.rand(7)
    again, later = _step(TinyModel())(5, _batch()).losses, _step(TinyModel())(6, _batch()).losses
    other = _step(TinyModel(), seed=1)(5, _batch()).losses
    assert first["recon"] == again["recon"]
    assert len({first["recon"].item(), later["recon"].item(), other["recon"].item()}) == 3


def test_a_step_reports_its_losses_norm_and_rate() -> None:
    model = TinyModel(noise=0.0)
    expected = {name: loss.item() for name, loss in model.loss(_batch()).items()}
    report = _step(model, accumulation=2)(1, _batch())
    assert {name: loss.item() for name, loss in report.losses.items()} == pytest.approx(expected, rel=1e-5)
    reference = TinyModel(noise=0.0)
    torch.stack(list(reference.loss(_batch()).values())).sum().backward()
    squares = [parameter.grad.square().sum() for parameter in reference.net.parameters()]  # pyright: ignore
    assert report.grad_norm.item() == pytest.approx(math.sqrt(sum(squares)), rel=1e-5)
    assert report.learning_rate == 0.025


@pytest.mark.parametrize("ahead", [False, True])
def test_a_bad_step_leaves_the_weights_alone(ahead: bool) -> None:
    model = TinyModel()
    step = _step(model, ahead)
    for index in range(3):
        step(index, _batch())
    before = _weights(model)
    if ahead:
        step(3, _batch(math.nan))
        assert same(_weights(model), before)
    with pytest.raises(NonFinite) as error:
        step(4, _batch() if ahead else _batch(math.nan))
    assert error.value.step == (3 if ahead else 4)
    assert math.isnan(error.value.culprits["recon"]) and error.value.batch["video"].isnan().all()
    assert same(_weights(model), before)


def test_running_ahead_changes_no_weight() -> None:
    models = [TinyModel(), TinyModel()]
    for model, ahead in zip(models, (False, True)):
        step = _step(model, ahead)
        for index in range(6):
            step(index, _batch())
        step.drain()
    for waiting, running in zip(models[0].parameters(), models[1].parameters()):
        torch.testing.assert_close(waiting, running, rtol=1e-6, atol=1e-7)


def test_the_last_step_of_a_run_ahead_is_known_after_draining() -> None:
    step = _step(TinyModel(), ahead=True)
    step(0, _batch())
    step(1, _batch(math.inf), stop=True)
    assert not step.stopped
    with pytest.raises(NonFinite, match="step 1"):
        step.drain()
    assert step.stopped
    step.drain()


def test_an_infinite_gradient_of_a_finite_loss_is_caught() -> None:
    model = TinyModel()
    next(iter(model.net.parameters())).register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFinite) as error:
        _step(model)(2, _batch())
    assert set(error.value.culprits) == {"gradient norm"}

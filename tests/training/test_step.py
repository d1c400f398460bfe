import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from torchslots.models.types import Batch
from torchslots.training.step import NonFinite, TrainStep
from torchslots.training.stops import Interrupted
from training.tiny_run import TinyClips, TinyModel, same, send, tiny_recipe, train


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


class _Counting(TinyModel):
    """Notes what it is told of the training's progress."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Any] = []

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        self.steps.append(batch["step"])
        return super().loss(batch)


def test_the_model_is_told_how_many_updates_are_done() -> None:
    model = _Counting()
    step = _step(model, accumulation=2)
    for index in (0, 7):
        step(index, _batch())
    assert model.steps == [0, 0, 7, 7] and all(type(found) is int for found in model.steps)


def test_a_run_that_goes_on_tells_the_true_step(tmp_path: Path) -> None:
    whole, first, second = _Counting(), _Counting(), _Counting()
    train(tiny_recipe(8, compile=False), tmp_path / "whole", model=whole)
    with pytest.raises(Interrupted):
        clips = TinyClips(events={5 * 4: send(signal.SIGTERM)})
        train(tiny_recipe(8, compile=False), tmp_path / "parts", clips, model=first)
    train(tiny_recipe(8, compile=False), tmp_path / "parts", model=second)
    assert first.steps + second.steps == whole.steps == list(range(8))


def test_frozen_weights_are_averaged_but_never_moved() -> None:
    model = TinyModel()
    recipe = tiny_recipe(ema=0.5)
    step = TrainStep(model, recipe.optim, recipe.train, "cpu")
    before = model.frozen.detach().clone()
    for index in range(4):
        step(index, _batch())
    averaged = step.evaluated_model().get_parameter("frozen")
    assert torch.equal(averaged, before) and torch.equal(model.frozen, before)
    assert not [key for key in step.training_tensors() if key.startswith("optim/") and "frozen" in key]
    moved = dict(model.net.named_parameters())["0.weight"]
    assert not torch.equal(step.evaluated_model().get_parameter("net.0.weight"), moved)

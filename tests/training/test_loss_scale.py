"""fp16: the loss is scaled, gradients are not, steps that overflow are skipped. On the CPU, with torch's own scaler."""

import math
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from tiny_models import batch, tiny
from torchslots.recipes.config import OptimConfig, TrainConfig
from torchslots.training import step as training
from torchslots.training.step import NonFinite, TrainStep

OPTIM = OptimConfig(learning_rate=1e-3, warmup_steps=0, num_steps=1000, max_grad_norm=0.05)
TRAIN = TrainConfig(batch_size=2, compile=False)


def half(monkeypatch: pytest.MonkeyPatch, scale: float) -> TrainStep:
    """Steps in fp16 as on a GPU; accelerate would refuse the CPU, torch does not."""

    def start(train: TrainConfig, device: str | None, partial_gradients: bool = False) -> Accelerator:
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True)
        accelerator.state._mixed_precision = "fp16"
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu", init_scale=scale)  # pyright: ignore
        return accelerator

    with monkeypatch.context() as patch:
        patch.setattr(training, "start_accelerator", start)
        return TrainStep(tiny().train(), OPTIM, TRAIN)


def weights(stepper: TrainStep) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in stepper.model.state_dict().items()}


@pytest.fixture(autouse=True)
def whole_state() -> Any:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_scaled_step_is_that_of_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TrainStep(tiny().train(), OPTIM, TRAIN, "cpu")
    wanted = plain(0, batch())
    stepper = half(monkeypatch, 2.0**4)
    report = stepper(0, batch())
    assert report.losses["recon_flow"].item() == pytest.approx(wanted.losses["recon_flow"].item(), rel=5e-3)
    assert report.losses["recon_flow"].item() != wanted.losses["recon_flow"].item(), "half precision"
    assert report.grad_norm.item() == pytest.approx(wanted.grad_norm.item(), rel=2e-2), (
        "before clipping, unscaled"
    )
    assert stepper.loss_scale()["scale"] == 16.0 and stepper.loss_scale()["_growth_tracker"] == 1
    moved = [
        torch.nn.functional.cosine_similarity((a - b).flatten(), (c - b).flatten(), 0)
        for a, b, c in zip(weights(stepper).values(), tiny().state_dict().values(), weights(plain).values())
        if a.numel() > 50
    ]
    assert torch.stack(moved).median() > 0.99


def test_a_step_that_overflows_is_skipped_and_the_scale_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = half(monkeypatch, 2.0**40)
    before, scale = weights(stepper), 2.0**40
    steps = 0
    while stepper.loss_scale()["scale"] < scale or steps == 0:
        scale = stepper.loss_scale()["scale"]
        report = stepper(steps, batch())
        assert all(math.isfinite(value) for value in report.losses.values())
        steps += 1
        if stepper.loss_scale()["scale"] < scale:
            assert stepper.loss_scale()["scale"] == scale / 2 and not math.isfinite(report.grad_norm)
            assert all(torch.equal(value, before[name]) for name, value in weights(stepper).items())
    assert steps > 10 and math.isfinite(report.grad_norm)
    assert any(not torch.equal(value, before[name]) for name, value in weights(stepper).items())


def test_a_loss_that_is_not_finite_stops_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = half(monkeypatch, 2.0**4)
    broken = batch()
    broken["flow"] = broken["flow"] * math.nan
    with pytest.raises(NonFinite, match="recon_flow"):
        stepper(0, broken)


def test_the_scale_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = half(monkeypatch, 2.0**3)
    stepper(0, batch())
    again = half(monkeypatch, 2.0**9)
    stored = {name: value.clone() for name, value in stepper.training_tensors().items()}
    again.load(stepper.model.state_dict(), stored, stepper.loss_scale(), "here")
    assert again.loss_scale() == stepper.loss_scale() and again.loss_scale()["scale"] == 8.0
    first, second = stepper(1, batch()), again(1, batch())
    assert first.losses["recon_flow"].item() == second.losses["recon_flow"].item()
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(stepper).items())

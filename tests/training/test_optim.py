import ast
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recorded import GOLDEN
from tiny_models import batch, tiny
from torchslots.io.errors import UserError
from torchslots.recipes.config import OptimConfig
from torchslots.training import optim

RECORDINGS = GOLDEN / "savi_units"


@pytest.mark.parametrize("thousands", [100, 500])
def test_schedule_is_the_recorded_one(thousands: int) -> None:
    recorded = np.load(RECORDINGS / f"schedule_{thousands}k.npz")
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


def test_clipping_as_in_optax_adds_nothing_to_the_norm() -> None:
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    for gradient, expected in (([3e-4, 4e-4], [3e-4, 4e-4]), ([3.0, 4.0], [3e-3, 4e-3])):
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optim.clip_gradients([parameter], 5e-3, epsilon=0.0)
        assert parameter.grad.tolist() == pytest.approx(expected, rel=1e-12)
    parameter.grad = torch.zeros(2, dtype=torch.float64)
    assert optim.clip_gradients([parameter], 5e-3, epsilon=0.0) == 0 and not parameter.grad.any()
    before = torch.randn(5, dtype=torch.float64)
    ours, theirs = nn.Parameter(torch.zeros_like(before)), nn.Parameter(torch.zeros_like(before))
    ours.grad, theirs.grad = before.clone(), before.clone()
    optim.clip_gradients([ours], 0.05)
    nn.utils.clip_grad_norm_([theirs], 0.05)
    assert torch.equal(ours.grad, theirs.grad)


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


RECORDED = np.load(GOLDEN / "sd_metrics" / "lr_schedules.npz")


@pytest.mark.parametrize("system", ["vae", "savi", "ldm", "steve"])
def test_cosine_to_a_least_rate_is_the_recorded_one(system: str) -> None:
    numbers, recorded = ast.literal_eval(str(RECORDED[f"{system}_cfg"])), RECORDED[system]
    main, *decoder = np.atleast_1d(numbers["max_lr"]).tolist()
    config = OptimConfig(
        learning_rate=main,
        decoder_learning_rate=decoder[0] if decoder else None,
        min_learning_rate=numbers["min_lr"],
        warmup_steps=numbers["warmup"],
        num_steps=numbers["total"],
    )
    for column, part in zip(recorded.T, (optim.REST, optim.DECODER)):
        ours = [optim.schedule(config, part)(step) for step in range(numbers["total"])]
        np.testing.assert_allclose(ours, column[: numbers["total"]], rtol=1e-9, atol=1e-15)
        behind = optim.schedule(config, part)(numbers["total"] + 3)
        assert column[numbers["total"] + 3] == column[3]  # the original begins again
        assert behind == pytest.approx(numbers["min_lr"])


class _Parts(nn.Module):
    """Slots, a decoder, and in it a tokenizer, some of it frozen; in an order that is not that of the groups."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.decoder = nn.ModuleDict({"tokenizer": nn.Linear(2, 2), "body": nn.Linear(2, 2)})
        self.slot_encoder = nn.Linear(2, 2)
        self.decoder["tokenizer"].bias.requires_grad_(False)

    def forward(self) -> torch.Tensor:
        return sum((weight.square().sum() for weight in self.parameters()), torch.zeros(()))


def _update(model: _Parts, optimizer: torch.optim.Adam, config: OptimConfig, step: int) -> None:
    optim.prepare_update(optimizer, config, step)
    optimizer.zero_grad()
    model().backward()
    optimizer.step()


_THREE = OptimConfig(
    1e-3,
    4,
    10,
    decoder_learning_rate=3e-3,
    tokenizer_learning_rate=5e-4,
    schedule="exponential",
    epsilon_hat=True,
)


def test_parts_have_rates_of_their_own_and_frozen_weights_none() -> None:
    model = _Parts()
    optimizer = optim.adam(model, _THREE)
    assert optim.prepare_update(optimizer, _THREE, 2) == pytest.approx(5e-4, rel=1e-4)
    rates = optim.rates(optimizer)
    assert rates["lr_tokenizer"] == 5e-4 and rates["lr_decoder"] == pytest.approx(3 * rates["lr"])
    owned = {weight: group for group in optimizer.param_groups for weight in group["params"]}
    names = {name: owned.get(weight, {}).get("part") for name, weight in model.named_parameters()}
    assert names == {
        "decoder.tokenizer.weight": "decoder.tokenizer.",
        "decoder.tokenizer.bias": None,
        "decoder.body.weight": "decoder.",
        "decoder.body.bias": "decoder.",
        "slot_encoder.weight": "",
        "slot_encoder.bias": "",
    }
    assert {group["eps"] for group in optimizer.param_groups} == {1e-8 / math.sqrt(1 - 0.999**3)}


def test_a_tokenizer_without_a_rate_of_its_own_has_the_decoders() -> None:
    config = OptimConfig(1e-3, 0, 10, decoder_learning_rate=2e-3)
    optimizer = optim.adam(_Parts(), config)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 3]
    assert len(optim.adam(_Parts(), OptimConfig()).param_groups) == 1


def test_state_goes_by_name_between_one_group_and_three() -> None:
    """A checkpoint from before parts had rates resumes, each weight with its own moments."""
    plain = OptimConfig(1e-3, 0, 10)
    same_rates = OptimConfig(1e-3, 0, 10, decoder_learning_rate=1e-3)
    model = _Parts()
    optimizer = optim.adam(model, plain)
    _update(model, optimizer, plain, 0)
    other = _Parts(1)
    other.load_state_dict(model.state_dict())
    grouped = optim.adam(other, same_rates)
    tensors = {key: value.clone() for key, value in optim.optimizer_tensors(model, optimizer).items()}
    optim.load_optimizer(other, grouped, tensors, "here")
    for step in (1, 2):
        _update(model, optimizer, plain, step)
        _update(other, grouped, same_rates, step)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    assert [group["part"] for group in grouped.param_groups] == ["", "decoder."]


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"min_learning_rate": 3e-3}, "min_learning_rate should lie between 0 and each part's"),
        ({"min_learning_rate": -1.0}, "min_learning_rate should lie between"),
        ({"min_learning_rate": 1e-4, "decoder_learning_rate": 1e-5}, "1e-05 for `decoder.`"),
        ({"decoder_learning_rate": -1e-4}, "for `decoder.`"),
        ({"tokenizer_learning_rate": math.inf}, "inf for `decoder.tokenizer.`"),
        (
            {"min_learning_rate": 1e-4, "schedule": "exponential"},
            "has no minimum. Choose optim.schedule cosine",
        ),
    ],
    ids=["above the peak", "negative", "above the decoder's", "decoder", "tokenizer", "exponential"],
)
def test_rates_that_make_no_schedule_are_refused(numbers: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        optim.adam(_Parts(), OptimConfig(2e-3, 0, 10, **numbers))


def test_a_rate_for_a_part_that_is_not_trained_is_refused() -> None:
    model = _Parts()
    model.decoder["tokenizer"].requires_grad_(False)
    with pytest.raises(UserError, match=r"tokenizer_learning_rate is set, but _Parts trains nothing named"):
        optim.adam(model, _THREE)
    with pytest.raises(UserError, match="decoder_learning_rate is set, but Linear trains nothing"):
        optim.adam(nn.Linear(1, 1), OptimConfig(decoder_learning_rate=1e-3))


def test_clipping_by_the_largest_entry() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([-4.0])
    assert optim.clip_gradients(parameters, 0.5, "inf").item() == 4.0
    torch.testing.assert_close(parameters[0].grad, torch.tensor([3.0, 0.0]) * 0.5 / (4.0 + 1e-6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_resumed_moments_lie_in_memory_as_their_weights(dtype: torch.dtype) -> None:
    """The fused kernel walks weight, gradient and moments side by side in memory."""
    torch.manual_seed(0)
    models = [nn.Conv2d(3, 4, 5, dtype=dtype).to(memory_format=torch.channels_last) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    pictures = torch.randn(2, 3, 7, 7, dtype=dtype)
    optimizers = [optim.adam(model) for model in models]
    for step in range(3):
        if step == 2:
            saved = optim.optimizer_tensors(models[0], optimizers[0])
            optim.load_optimizer(
                models[1],
                optimizers[1],
                {key: value.clone().contiguous() for key, value in saved.items()},
                "x",
            )
        for model, optimizer in zip(models, optimizers):
            optimizer.param_groups[0]["lr"] = 0.1
            optimizer.zero_grad()
            model(pictures).square().sum().backward()
            optimizer.step()
    assert torch.equal(models[0].weight, models[1].weight)
    plain = torch.optim.Adam(models[1].parameters(), lr=0.1, foreach=True)
    plain.load_state_dict(optimizers[1].state_dict())
    assert plain.state[models[1].weight]["exp_avg"].stride() == models[1].weight.stride()


def test_gradients_lie_in_memory_as_their_weights() -> None:
    model = tiny()
    sum(model.loss(batch()).values(), torch.zeros(())).backward()
    owned = [parameter for parameter in model.parameters() if parameter.grad is not None]
    assert len(owned) > 10
    for parameter in owned:
        assert parameter.grad is not None
        same = torch.empty_like(parameter)
        assert parameter.grad.stride() == same.stride() == parameter.stride()


# --------------------------------------------------------------------------------------- backbones that are tuned


class _Tuned(nn.Module):
    """The names of a model with a vision transformer of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        backbone = nn.Module()
        backbone.patch = nn.Conv2d(3, 2, 2)
        backbone.blocks = nn.ModuleList(nn.ModuleDict({"fc": nn.Linear(2, 2)}) for _ in range(2))
        backbone.cls_token = nn.Parameter(torch.ones(2))
        backbone.positions = nn.Parameter(torch.ones(4, 2))
        encoder = nn.ModuleDict({"backbone": backbone, "transform": nn.Linear(2, 2)})
        self.slot_encoder = nn.ModuleDict({"encoder": encoder})


_TUNED = OptimConfig(
    1e-3,
    2,
    8,
    None,
    schedule="cosine_from_half",
    min_learning_rate=1e-6,
    backbone_learning_rate=1e-4,
    backbone_layer_decay=0.5,
    backbone_weight_decay=0.1,
)


def test_a_tuned_backbone_has_rates_by_block_and_decays_where_it_is_a_matrix() -> None:
    model = _Tuned()
    optimizer = optim.adam(model, _TUNED)
    optim.prepare_update(optimizer, _TUNED, 2)
    names = {weight: name.rpartition("encoder.")[2] for name, weight in model.named_parameters()}
    found = [
        (round(group["lr"], 12), group["weight_decay"], sorted(names[one] for one in group["params"]))
        for group in optimizer.param_groups
    ]
    assert found == [
        (1e-3, 0.0, ["transform.bias", "transform.weight"]),
        (1e-4, 0.1, ["backbone.blocks.1.fc.weight"]),
        (1e-4, 0.0, ["backbone.blocks.1.fc.bias"]),
        (5e-5, 0.1, ["backbone.blocks.0.fc.weight", "backbone.patch.weight"]),
        (
            5e-5,
            0.0,
            ["backbone.blocks.0.fc.bias", "backbone.cls_token", "backbone.patch.bias", "backbone.positions"],
        ),
    ]
    assert optim.rates(optimizer) == pytest.approx({"lr": 1e-3, "lr_backbone": 1e-4})


def test_weights_decay_by_a_part_of_the_rate_and_nothing_else_does() -> None:
    model = _Tuned()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = optim.adam(model, _TUNED)
    rates = optim.prepare_update(optimizer, _TUNED, 0), optimizer.param_groups[1]["lr"]
    assert rates == pytest.approx((2.5e-4, 2.5e-5))  # half a step of two
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for name, weight in model.named_parameters():
        rate = {"blocks.1.fc.weight": 2.5e-5, "blocks.0.fc.weight": 1.25e-5, "patch.weight": 1.25e-5}
        part = rate.get(name.removeprefix(optim.BACKBONE), 0.0) * 0.1
        torch.testing.assert_close(weight.detach(), before[name] * (1 - part), rtol=1e-6, atol=0)


def test_decay_of_a_backbone_without_a_rate_of_its_own_is_refused() -> None:
    with pytest.raises(UserError, match=r"Set optim\.backbone_learning_rate, too"):
        optim.adam(_Tuned(), OptimConfig(backbone_layer_decay=0.9))
    with pytest.raises(UserError, match=r"should lie in \(0, 1\]"):
        optim.adam(_Tuned(), OptimConfig(backbone_learning_rate=1e-5, backbone_layer_decay=1.5))
    with pytest.raises(UserError, match="1e-06 and 5e-07 for `slot_encoder"):
        optim.adam(_Tuned(), OptimConfig(min_learning_rate=1e-6, backbone_learning_rate=5e-7))


FEATURE_SCHEDULES = np.load(GOLDEN / "features_preprocess.npz")
_STEPS = FEATURE_SCHEDULES["schedule/steps"].tolist()


@pytest.mark.parametrize(
    ("name", "warmup", "decay"),
    [
        ("video_100k", 2_500, 97_500),
        ("slotcontrast_movi_e", 2_500, 297_500),
        ("dinosaur_coco", 10_000, 90_000),
        ("oclf", 10_000, 100_000),
    ],
)
def test_exponential_decay_behind_warmup_is_the_recorded_one(name: str, warmup: int, decay: int) -> None:
    config = OptimConfig(1.0, warmup, 500_000, schedule="exponential_after_warmup", decay_steps=decay)
    ours = [optim.schedule(config)(step) for step in _STEPS]
    np.testing.assert_allclose(ours, FEATURE_SCHEDULES[f"schedule/{name}"], rtol=1e-12, atol=1e-12)


def test_cosine_from_half_ends_in_the_last_step() -> None:
    rates = [
        optim.cosine_from_half(step, peak=0.4, warmup_steps=2, num_steps=7, least=0.2)
        for step in (0, 1, 2, 4, 6, 9)
    ]
    np.testing.assert_allclose(rates, [0.1, 0.3, 0.4, 0.3, 0.2, 0.2], rtol=1e-12)

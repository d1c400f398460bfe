"""Schedules against recordings of the original, and what is predicted against what it was made of."""

import numpy as np
import pytest
import torch

from recorded import GOLDEN
from torchslots.io.errors import UserError
from torchslots.models.diffusion.samplers import (
    Estimate,
    ddim,
    ddim_steps,
    ddpm,
    dpm_solver,
    estimator,
    orders,
    sample,
)
from torchslots.models.diffusion.schedule import (
    PREDICT_LATENT,
    PREDICT_NOISE,
    PREDICT_VELOCITY,
    Diffusion,
    beta_schedule,
)

RECORDED = dict(np.load(GOLDEN / "sd_metrics" / "diffusion_utils.npz"))
PARAMETRIZATIONS = {"noise": PREDICT_NOISE, "latent": PREDICT_LATENT, "velocity": PREDICT_VELOCITY}


def published() -> Diffusion:
    return Diffusion(beta_schedule("linear", 1000, 0.0015, 0.0195))


@pytest.mark.parametrize(
    "kind, start, end",
    [
        ("linear", 0.0015, 0.0195),
        ("linear", 0.0001, 0.02),
        ("sqrt_linear", 0.0001, 0.02),
        ("sqrt", 0.0001, 0.02),
        ("cosine", None, None),
    ],
)
def test_schedules_are_the_originals(kind, start, end) -> None:
    name = f"betas_{kind}" + ("" if start is None else f"_{start}_{end}")
    found = beta_schedule(kind, 1000, start or 0.0, end or 0.0)
    np.testing.assert_allclose(found, RECORDED[name], rtol=1e-11)


def test_moments_between_steps_are_the_originals() -> None:
    points = [published().at(float(time)) for time in RECORDED["ns_t"]]
    for name, ours in (
        ("ns_log_alpha", [np.log(point.alpha) for point in points]),
        ("ns_std", [point.sigma for point in points]),
        ("ns_lambda", [point.half_snr for point in points]),
    ):
        np.testing.assert_allclose(ours, RECORDED[name], rtol=2e-5, atol=2e-6, err_msg=name)


def test_a_moment_at_a_step_is_that_step() -> None:
    diffusion = published()
    for index in (0, 1, 500, 999):
        np.testing.assert_allclose(diffusion.at((index + 1) / 1000), diffusion.step(index), rtol=1e-9)


@pytest.mark.parametrize("num_steps", [9, 10, 11, 20])
def test_the_grid_of_dpm_solver_is_the_originals(num_steps) -> None:
    found = orders(num_steps)
    assert found == RECORDED[f"dpm_orders_{num_steps}"].tolist()
    times = np.linspace(1, 1e-3, num_steps + 1)[np.cumsum([0, *found])]
    np.testing.assert_allclose(times, RECORDED[f"dpm_t_outer_{num_steps}"], rtol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 6])
def test_every_number_of_evaluations_is_made_exactly(num_steps) -> None:
    calls = []

    def estimate(noised, point):
        calls.append(point.timestep)
        return Estimate(torch.zeros_like(noised), noised)

    sample(dpm_solver(estimate, torch.ones(1, 1, 1, 1), published(), num_steps=num_steps), torch.ones(1))
    assert len(calls) == num_steps and calls[0] == pytest.approx(999) and min(calls) >= 0


@pytest.mark.parametrize("num_steps", [10, 50, 200])
def test_the_steps_of_ddim_are_the_originals(num_steps) -> None:
    diffusion, steps = published(), ddim_steps(1000, num_steps)
    assert steps == RECORDED[f"ddim_ts_{num_steps}"].tolist()
    kept = diffusion.alphas_cumprod
    np.testing.assert_allclose(kept[steps], RECORDED[f"ddim_alpha_{num_steps}"], rtol=1e-5)
    np.testing.assert_allclose(kept[[0, *steps[:-1]]], RECORDED[f"ddim_alpha_prev_{num_steps}"], rtol=1e-5)


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_latent_and_noise_follow_from_what_is_predicted(name) -> None:
    prediction_type, diffusion = PARAMETRIZATIONS[name], published()
    latent, noise = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([1, 90, 300, 600, 900])
    alpha, sigma = diffusion.shares(timesteps)
    noised = diffusion.noised(latent, noise, timesteps)
    predicted = prediction_type.target(latent, noise, alpha, sigma)
    torch.testing.assert_close(
        prediction_type.latent(predicted, noised, alpha, sigma), latent, rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(
        prediction_type.noise(predicted, noised, alpha, sigma), noise, rtol=1e-3, atol=1e-4
    )


def test_the_last_step_of_the_reverse_process_adds_no_noise() -> None:
    estimated, kept, deviation = published().posterior(0)
    assert (estimated, kept, deviation) == pytest.approx((1.0, 0.0, 0.0))


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
@pytest.mark.parametrize("sampler", [dpm_solver, ddim, ddpm], ids=lambda sampler: sampler.__name__)
def test_a_network_that_knows_the_latent_leads_every_sampler_to_it(sampler, name) -> None:
    diffusion, prediction_type = published(), PARAMETRIZATIONS[name]
    generator = torch.Generator().manual_seed(0)
    latent, start = torch.randn(2, 1, 3, 2, 2, generator=generator)

    def network(noised, timesteps):
        point = diffusion.at((timesteps[0].item() + 1) / 1000)
        noise = (noised - point.alpha * latent) / point.sigma
        return prediction_type.target(latent, noise, point.alpha, point.sigma)

    draw = torch.randn_like
    found = sample(sampler(estimator(network, prediction_type), start, diffusion, draw), start)
    torch.testing.assert_close(found, latent, rtol=0.1, atol=0.1)


def test_snapping_moves_the_latent_and_leaves_the_noise() -> None:
    point = published().step(400)
    noised = torch.full((1, 1, 1, 1), 0.3)
    plain = estimator(lambda x, t: x, PREDICT_NOISE)(noised, point)
    snapped = estimator(lambda x, t: x, PREDICT_NOISE, torch.round)(noised, point)
    assert torch.equal(snapped.latent, plain.latent.round())
    assert torch.equal(snapped.noise, plain.noise)


@pytest.mark.parametrize("num_steps", [0, 501])
def test_impossible_numbers_of_ddim_steps_are_refused(num_steps) -> None:
    with pytest.raises(UserError, match="1 to 500 of 1000"):
        ddim_steps(1000, num_steps)


def test_no_evaluation_is_refused() -> None:
    with pytest.raises(UserError, match="at least 1"):
        orders(0)

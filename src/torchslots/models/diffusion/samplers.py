"""Samplers from noise to a latent, as functions that yield the noised latent after each of their steps.

All take (estimate, noise, diffusion, sample_noise): the estimator of latent and noise, where to start, the schedule,
and the source of further noise, which only the ancestral sampler uses.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.io.progress import counted, progress
from torchslots.models.diffusion.schedule import Diffusion, Point, PredictionType


class Estimate(NamedTuple):
    """The latent and the noise that a noised latent is estimated to consist of."""

    latent: Float[Tensor, "n C h w"]
    noise: Float[Tensor, "n C h w"]


Estimator = Callable[[Tensor, Point], Estimate]
SampleNoise = Callable[[Tensor], Tensor]
"""A tensor to standard normal noise of its shape."""
Sampler = Callable[[Estimator, Tensor, Diffusion, SampleNoise], Iterator[Tensor]]
SamplerName = Literal["dpm_solver", "ddim", "ddpm"]


def estimator(
    network: Callable[[Tensor, Tensor], Tensor],
    prediction_type: PredictionType,
    snap: Callable[[Tensor], Tensor] | None = None,
) -> Estimator:
    """Read a network's output as latent and noise.

    Args:
        network: (noised latents, timestep of each) to the quantity of `prediction_type`.
        snap: moves an estimated latent to the codebook's nearest vectors, as SlotDiffusion's samplers do; the noise is
            that of the estimate before it was moved. None: not moved.
    """

    def estimate(noised: Tensor, point: Point) -> Estimate:
        timesteps = torch.full((len(noised),), point.timestep, device=noised.device)
        output = network(noised, timesteps)
        latent = prediction_type.latent(output, noised, point.alpha, point.sigma)
        noise = prediction_type.noise(output, noised, point.alpha, point.sigma)
        return Estimate(latent if snap is None else snap(latent), noise)

    return estimate


def sample(steps: Iterator[Tensor], start: Tensor) -> Tensor:
    """Run a sampler to its end."""
    for start in steps:  # noqa: B007 - only the last one is returned
        pass
    return start


# ------------------------------------------------------------------------------------------ DPM-Solver++


def dpm_solver(
    estimate: Estimator,
    noise: Float[Tensor, "n C h w"],
    diffusion: Diffusion,
    sample_noise: SampleNoise = torch.randn_like,
    *,
    num_steps: int = 20,
) -> Iterator[Tensor]:
    """DPM-Solver++, single-step, third order, uniform in time (Lu et al. 2022, algorithm 1 and appendix B).

    Args:
        num_steps: evaluations of the network.

    Raises:
        UserError: fewer than one evaluation.
    """
    times, latent = np.linspace(1, 1 / diffusion.num_steps, num_steps + 1), noise
    bounds = np.cumsum([0, *orders(num_steps)])
    for first, last in zip(bounds, bounds[1:]):
        points = [
            diffusion.at(float(time)) for time in np.linspace(times[first], times[last], last - first + 1)
        ]
        step = (_first_order, _second_order, _third_order)[len(points) - 2]
        latent = step(estimate, latent, points)
        yield latent


def orders(num_steps: int) -> list[int]:
    """Orders of the steps that make `num_steps` evaluations: threes, then the rest.

    Raises:
        UserError: fewer than one evaluation.
    """
    if num_steps < 1:
        raise UserError(f"DPM-Solver needs at least 1 evaluation, got {num_steps}. 20 is what is published.")
    whole, rest = divmod(num_steps, 3)
    if rest:
        return [3] * whole + [rest]
    return [3] * (whole - 1) + [2, 1]


def _decay(start: Point, end: Point) -> float:
    """exp(-h) - 1 over the distance h in half log signal-to-noise."""
    return float(np.expm1(start.half_snr - end.half_snr))


def _curvature(start: Point, end: Point) -> float:
    """(exp(-h) - 1) / h + 1."""
    return _decay(start, end) / (end.half_snr - start.half_snr) + 1


def _straight(latent: Tensor, estimated: Tensor, start: Point, end: Point) -> Tensor:
    """The estimate held fixed from `start` to `end`: DDIM."""
    return end.sigma / start.sigma * latent - end.alpha * _decay(start, end) * estimated


def _first_order(estimate: Estimator, latent: Tensor, points: Sequence[Point]) -> Tensor:
    start, end = points
    return _straight(latent, estimate(latent, start).latent, start, end)


def _second_order(estimate: Estimator, latent: Tensor, points: Sequence[Point]) -> Tensor:
    start, middle, end = points
    here = estimate(latent, start).latent
    there = estimate(_straight(latent, here, start, middle), middle).latent
    share = _share(start, middle, end)
    bend = -0.5 / share * end.alpha * _decay(start, end)
    return _straight(latent, here, start, end) + bend * (there - here)


def _third_order(estimate: Estimator, latent: Tensor, points: Sequence[Point]) -> Tensor:
    start, first, second, end = points
    here = estimate(latent, start).latent
    there = estimate(_straight(latent, here, start, first), first).latent
    bend = _share(start, second, end) / _share(start, first, end) * second.alpha * _curvature(start, second)
    further = estimate(_straight(latent, here, start, second) + bend * (there - here), second).latent
    bend = end.alpha * _curvature(start, end) / _share(start, second, end)
    return _straight(latent, here, start, end) + bend * (further - here)


def _share(start: Point, inner: Point, end: Point) -> float:
    """How much of the distance in half log signal-to-noise lies behind `inner`."""
    return (inner.half_snr - start.half_snr) / (end.half_snr - start.half_snr)


# ------------------------------------------------------------------------------------------ DDIM and DDPM


def ddim(
    estimate: Estimator,
    noise: Float[Tensor, "n C h w"],
    diffusion: Diffusion,
    sample_noise: SampleNoise = torch.randn_like,
    *,
    num_steps: int = 200,
) -> Iterator[Tensor]:
    """Denoising diffusion implicit models without noise (Song et al. 2021, equation 12 with sigma = 0).

    Args:
        num_steps: evaluations of the network; where they do not divide the schedule there are a few more.

    Raises:
        UserError: a number of steps that the schedule does not have.
    """
    steps, latent = ddim_steps(diffusion.num_steps, num_steps), noise
    for here, before in zip(steps[::-1], [*steps[-2::-1], 0]):
        found, target = estimate(latent, diffusion.step(here)), diffusion.step(before)
        latent = target.alpha * found.latent + target.sigma * found.noise
        yield latent


def ddim_steps(total: int, num_steps: int) -> list[int]:
    """Evenly spaced steps of `total`, ascending, one above the multiples of their distance.

    Raises:
        UserError: fewer than one, or more than half of the total.
    """
    if not 1 <= num_steps <= total // 2:
        raise UserError(
            f"DDIM takes 1 to {total // 2} of {total} steps, got {num_steps}. 200 is what is published."
        )
    return [index + 1 for index in range(0, total, total // num_steps) if index + 1 < total]


def ddpm(
    estimate: Estimator,
    noise: Float[Tensor, "n C h w"],
    diffusion: Diffusion,
    sample_noise: SampleNoise = torch.randn_like,
    *,
    steps: Sequence[int] | None = None,
) -> Iterator[Tensor]:
    """Ancestral sampling with the posterior's variance (Ho et al. 2020, algorithm 2); latents are not clamped.

    Args:
        steps: steps of the schedule to take, in this order; None: all, from the last to the first.
    """
    latent = noise
    for index in range(diffusion.num_steps)[::-1] if steps is None else steps:
        estimated_weight, latent_weight, deviation = diffusion.posterior(index)
        estimated = estimate(latent, diffusion.step(index)).latent
        latent = estimated_weight * estimated + latent_weight * latent + deviation * sample_noise(latent)
        yield latent


@dataclass(frozen=True)
class NamedSampler:
    """A `Sampler` that is chosen by its name.

    Args:
        num_steps: evaluations of the network; ddpm takes all steps of the schedule.
        show: show a progress bar.

    Raises:
        UserError: no sampler of that name.
    """

    name: SamplerName
    num_steps: int
    show: bool = False

    def __post_init__(self) -> None:
        if self.name not in get_args(SamplerName):
            raise UserError(
                f"sampler should be one of {', '.join(get_args(SamplerName))}, got {self.name!r}."
            )

    def __call__(
        self,
        estimate: Estimator,
        noise: Float[Tensor, "n C h w"],
        diffusion: Diffusion,
        sample_noise: SampleNoise,
    ) -> Iterator[Tensor]:
        if self.name == "ddpm":
            steps, total = ddpm(estimate, noise, diffusion, sample_noise), diffusion.num_steps
        elif self.name == "ddim":
            steps = ddim(estimate, noise, diffusion, num_steps=self.num_steps)
            total = len(ddim_steps(diffusion.num_steps, self.num_steps))
        else:
            steps = dpm_solver(estimate, noise, diffusion, num_steps=self.num_steps)
            total = len(orders(self.num_steps))
        return _with_progress(steps, total) if self.show else steps

    def changed(self, name: SamplerName | None, num_steps: int | None) -> "NamedSampler":
        """Another sampler, with its published number of steps, or another number of steps; None: as it is."""
        name = name or self.name
        steps = self.num_steps if name == self.name else _PUBLISHED_STEPS[name]
        return NamedSampler(name, num_steps or steps, self.show)


_PUBLISHED_STEPS: dict[SamplerName, int] = {"dpm_solver": 20, "ddim": 200, "ddpm": 1000}


def _with_progress(steps: Iterator[Tensor], total: int) -> Iterator[Tensor]:
    with progress("Sampling", total, "steps") as advance:
        yield from counted(steps, advance)

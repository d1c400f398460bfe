"""From noise to a latent: samplers as functions. Each yields the noised latent behind each of its steps.

All take (estimate, noise, diffusion, draw): what a network makes of a noised latent, where to start, the schedule, and
where further noise comes from, which only the ancestral sampler asks for. Numbers are bound with `functools.partial`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.io.progress import progress
from torchslots.models.diffusion.schedule import Diffusion, Point, PredictionType

Item = TypeVar("Item")


class Estimate(NamedTuple):
    """What a noised latent is thought to be made of."""

    latent: Float[Tensor, "n C h w"]
    noise: Float[Tensor, "n C h w"]


Estimator = Callable[[Tensor, Point], Estimate]
Draw = Callable[[Tensor], Tensor]
"""A tensor to standard normal noise of its shape."""
Sampler = Callable[[Estimator, Tensor, Diffusion, Draw], Iterator[Tensor]]
SamplerName = Literal["dpm_solver", "ddim", "ddpm"]


def estimator(
    network: Callable[[Tensor, Tensor], Tensor],
    prediction_type: PredictionType,
    snap: Callable[[Tensor], Tensor] | None = None,
) -> Estimator:
    """Read a network's output as latent and noise.

    Args:
        network: (noised latents, timestep of each) to what `prediction_type` says.
        snap: moves an estimated latent to the nearest one that can be decoded, as SlotDiffusion's samplers do with its
            codebook; the noise is that of the estimate before. None: left as it is.
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
    for start in steps:  # noqa: B007 - the last one is what is asked for
        pass
    return start


# ------------------------------------------------------------------------------------------ DPM-Solver++


def dpm_solver(
    estimate: Estimator,
    noise: Float[Tensor, "n C h w"],
    diffusion: Diffusion,
    draw: Draw = torch.randn_like,
    *,
    num_steps: int = 20,
    show: bool = False,
) -> Iterator[Tensor]:
    """DPM-Solver++, single-step, third order, uniform in time (Lu et al. 2022, algorithm 1 and appendix B).

    Args:
        num_steps: evaluations of the network.
        show: draw a progress bar.
    """
    times, latent = np.linspace(1, 1 / diffusion.num_steps, num_steps + 1), noise
    bounds = np.cumsum([0, *orders(num_steps)])
    for first, last in _each(list(zip(bounds, bounds[1:])), show):
        inner = np.linspace(times[first], times[last], last - first + 1)
        latent = _advance(estimate, latent, [diffusion.at(float(time)) for time in inner])
        yield latent


def orders(num_steps: int) -> list[int]:
    """Orders of the steps that make `num_steps` evaluations: threes, and at the end what is left.

    Raises:
        UserError: fewer than one.
    """
    if num_steps < 1:
        raise UserError(f"DPM-Solver needs at least 1 evaluation, got {num_steps}. 20 is what is published.")
    whole, rest = divmod(num_steps, 3)
    if rest:
        return [3] * whole + [rest]
    return [3] * (whole - 1) + [2, 1]


def _advance(estimate: Estimator, latent: Tensor, points: Sequence[Point]) -> Tensor:
    """One step, of as many evaluations as there are points before the last."""
    return (_first_order, _second_order, _third_order)[len(points) - 2](estimate, latent, points)


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


# ------------------------------------------------------------------------------------------ step by step


def ddim(
    estimate: Estimator,
    noise: Float[Tensor, "n C h w"],
    diffusion: Diffusion,
    draw: Draw = torch.randn_like,
    *,
    num_steps: int = 200,
    show: bool = False,
) -> Iterator[Tensor]:
    """Denoising diffusion implicit models without noise (Song et al. 2021, equation 12 with sigma = 0).

    Args:
        num_steps: evaluations of the network; where they do not divide the schedule there are a few more.
        show: draw a progress bar.
    """
    steps = ddim_steps(diffusion.num_steps, num_steps)
    latent = noise
    for here, before in _each(list(zip(steps[::-1], [*steps[-2::-1], 0])), show):
        found, target = estimate(latent, diffusion.step(here)), diffusion.step(before)
        latent = target.alpha * found.latent + target.sigma * found.noise
        yield latent


def ddim_steps(total: int, num_steps: int) -> list[int]:
    """Evenly spaced steps of `total`, ascending, one above the multiples of their distance.

    Raises:
        UserError: less than one, or more than half of the total.
    """
    if not 1 <= num_steps <= total // 2:
        raise UserError(f"DDIM takes 1 to {total // 2} of {total} steps, got {num_steps}.")
    return [index + 1 for index in range(0, total, total // num_steps) if index + 1 < total]


def ddpm(
    estimate: Estimator,
    noise: Float[Tensor, "n C h w"],
    diffusion: Diffusion,
    draw: Draw = torch.randn_like,
    *,
    steps: Sequence[int] | None = None,
    show: bool = False,
) -> Iterator[Tensor]:
    """Ancestral sampling with the posterior's variance (Ho et al. 2020, algorithm 2); latents are not clamped.

    Args:
        steps: those of the schedule that are made, in this order; None: all, from the last to the first.
        show: draw a progress bar.
    """
    latent = noise
    for index in _each(range(diffusion.num_steps)[::-1] if steps is None else steps, show):
        estimated_weight, latent_weight, deviation = diffusion.posterior(index)
        estimated = estimate(latent, diffusion.step(index)).latent
        latent = estimated_weight * estimated + latent_weight * latent + deviation * draw(latent)
        yield latent


@dataclass(frozen=True)
class NamedSampler:
    """A `Sampler` that is chosen by its name.

    Args:
        num_steps: evaluations of the network; ddpm makes all steps of the schedule.
        show: draw a progress bar.

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
        self, estimate: Estimator, noise: Float[Tensor, "n C h w"], diffusion: Diffusion, draw: Draw
    ) -> Iterator[Tensor]:
        if self.name == "ddpm":
            return ddpm(estimate, noise, diffusion, draw, show=self.show)
        function = dpm_solver if self.name == "dpm_solver" else ddim
        return function(estimate, noise, diffusion, draw, num_steps=self.num_steps, show=self.show)

    def changed(self, name: SamplerName | None, num_steps: int | None) -> "NamedSampler":
        """Another sampler, with its published number of steps, or another number of steps; None: as it is."""
        name = name or self.name
        steps = self.num_steps if name == self.name else _PUBLISHED_STEPS[name]
        return NamedSampler(name, num_steps or steps, self.show)


_PUBLISHED_STEPS: dict[SamplerName, int] = {"dpm_solver": 20, "ddim": 200, "ddpm": 1000}


def _each(items: Sequence[Item], show: bool) -> Iterable[Item]:
    return _followed(items) if show else items


def _followed(items: Sequence[Item]) -> Iterator[Item]:
    with progress("sampling", len(items), "steps") as advance:
        for item in items:
            yield item
            advance()

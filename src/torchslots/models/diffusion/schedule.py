"""Gaussian diffusion in discrete steps: how much noise each step adds, and what a network predicts.

Ho et al., Denoising Diffusion Probabilistic Models (NeurIPS 2020), section 2. With alpha = sqrt(cumprod(1 - beta)) and
sigma = sqrt(1 - alpha^2) a noised latent is alpha * latent + sigma * noise.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

BetaSchedule = Literal["linear", "sqrt_linear", "cosine", "sqrt"]
"""`linear` is linear in the square root of beta, as in latent diffusion models; `sqrt_linear` is linear in beta."""


def beta_schedule(
    kind: BetaSchedule, num_steps: int, start: float = 1e-4, end: float = 2e-2, cosine_shift: float = 8e-3
) -> Float64[np.ndarray, "N"]:
    """Variance that each step adds, in double precision.

    Args:
        kind: shape of the curve; the cosine of Nichol and Dhariwal (2021), equation 17, ignores `start` and `end`.
        num_steps: steps from a latent to noise.
        start, end: first and last beta (`sqrt`: their squares).
        cosine_shift: offset that keeps the first betas of the cosine from vanishing.
    """
    curves: dict[str, Callable[[], np.ndarray]] = {
        "linear": lambda: np.linspace(start**0.5, end**0.5, num_steps) ** 2,
        "sqrt_linear": lambda: np.linspace(start, end, num_steps),
        "sqrt": lambda: np.linspace(start, end, num_steps) ** 0.5,
        "cosine": lambda: _cosine(num_steps, cosine_shift),
    }
    return curves[kind]()


def _cosine(num_steps: int, shift: float) -> Float64[np.ndarray, "N"]:
    steps = np.arange(num_steps + 1) / num_steps + shift
    alphas_cumprod = np.cos(steps / (1 + shift) * math.pi / 2) ** 2
    return np.clip(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0, 0.999)


class PredictionType(NamedTuple):
    """What the network predicts, and how latent and noise follow from it; alpha and sigma broadcast.

    Args:
        target: (latent, noise, alpha, sigma) to what is predicted.
        latent: (prediction, noised latent, alpha, sigma) to the estimated latent.
        noise: (prediction, noised latent, alpha, sigma) to the estimated noise.
    """

    target: Callable[..., Tensor]
    latent: Callable[..., Tensor]
    noise: Callable[..., Tensor]


PREDICT_NOISE = PredictionType(
    target=lambda latent, noise, alpha, sigma: noise,
    latent=lambda output, noised, alpha, sigma: (noised - sigma * output) / alpha,
    noise=lambda output, noised, alpha, sigma: output,
)
"""Ho et al. 2020, equation 14; SlotDiffusion's published models."""

PREDICT_LATENT = PredictionType(
    target=lambda latent, noise, alpha, sigma: latent,
    latent=lambda output, noised, alpha, sigma: output,
    noise=lambda output, noised, alpha, sigma: (noised - alpha * output) / sigma,
)

PREDICT_VELOCITY = PredictionType(
    target=lambda latent, noise, alpha, sigma: alpha * noise - sigma * latent,
    latent=lambda output, noised, alpha, sigma: alpha * noised - sigma * output,
    noise=lambda output, noised, alpha, sigma: sigma * noised + alpha * output,
)
"""Salimans and Ho (2022), appendix D."""


class Point(NamedTuple):
    """A point in time of the diffusion: continuous `time` in (0, 1], the network's `timestep` (a fraction is allowed),
    and the weights of latent and noise."""

    time: float
    timestep: float
    alpha: float
    sigma: float

    @property
    def half_snr(self) -> float:
        """Half the logarithm of the signal-to-noise ratio, lambda in DPM-Solver."""
        return math.log(self.alpha) - math.log(self.sigma)


class Diffusion(nn.Module):
    """The forward process, and the constants of the reverse one for samplers. It has no weights."""

    alphas: Tensor
    sigmas: Tensor

    def __init__(self, betas: Float64[np.ndarray, "N"]):
        super().__init__()
        self.betas = np.asarray(betas, np.float64)
        self.alphas_cumprod = np.cumprod(1 - self.betas)
        self.half_log_alphas = np.cumsum(np.log1p(-self.betas)) / 2
        self.register_buffer("alphas", _single(np.sqrt(self.alphas_cumprod)), persistent=False)
        self.register_buffer("sigmas", _single(np.sqrt(1 - self.alphas_cumprod)), persistent=False)

    @property
    def num_steps(self) -> int:
        """Steps from a latent to noise."""
        return len(self.betas)

    def shares(
        self, timesteps: Int[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n 1 1 1"], Float[Tensor, "n 1 1 1"]]:
        """alpha and sigma of each timestep, to be broadcast over latents."""
        wide = timesteps[:, None, None, None]
        return self.alphas[wide], self.sigmas[wide]

    def noised(
        self,
        latent: Float[Tensor, "n C h w"],
        noise: Float[Tensor, "n C h w"],
        timesteps: Int[Tensor, "n"],
    ) -> Float[Tensor, "n C h w"]:
        """Noised latents at `timesteps` (Ho et al. 2020, equation 4)."""
        alpha, sigma = self.shares(timesteps)
        return alpha * latent + sigma * noise

    def step(self, index: int) -> Point:
        """The point after step `index`, from 0."""
        square = float(self.alphas_cumprod[index])
        return Point((index + 1) / self.num_steps, float(index), math.sqrt(square), math.sqrt(1 - square))

    def at(self, time: float) -> Point:
        """A point between steps: log alpha is linear from step to step (DPM-Solver, appendix D.4).

        Args:
            time: from 1 / num_steps, the first step, to 1, the last.
        """
        times = np.arange(1, self.num_steps + 1) / self.num_steps
        log_alpha = float(np.interp(time, times, self.half_log_alphas))
        sigma = math.sqrt(-math.expm1(2 * log_alpha))
        return Point(time, time * self.num_steps - 1, math.exp(log_alpha), sigma)

    def posterior(self, index: int) -> tuple[float, float, float]:
        """Weights of estimated latent and noised latent in the mean of the step before, and its standard deviation
        (Ho et al. 2020, equations 6 and 7)."""
        beta, square = float(self.betas[index]), float(self.alphas_cumprod[index])
        before = float(self.alphas_cumprod[index - 1]) if index else 1.0
        of_estimate = beta * math.sqrt(before) / (1 - square)
        of_noised = (1 - before) * math.sqrt(1 - beta) / (1 - square)
        return of_estimate, of_noised, math.sqrt(beta * (1 - before) / (1 - square))


def _single(values: np.ndarray) -> Float[Tensor, "N"]:
    return torch.from_numpy(values.astype(np.float32))

"""Fréchet distance of two sets of features, each modelled as a normal distribution.

|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel et al., 2017; Dowson and Landau, 1982).

Only sums are stored, in float64, so that they can be added over batches and processes.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric


class Normal(NamedTuple):
    """Mean and covariance of features, float64."""

    mean: Float[Tensor, "D"]
    covariance: Float[Tensor, "D D"]


def normal(
    count: Int[Tensor, ""], total: Float[Tensor, "D"], products: Float[Tensor, "D D"], unbiased: bool
) -> Normal:
    """Mean and covariance from the number of features, their sum and the sum of their outer products.

    Args:
        unbiased: divide the covariance by count - 1, as in numpy's `cov` and pytorch-fid; otherwise by count, as in
            StyleGAN-V.
    """
    mean = total / count
    covariance = products / count - torch.outer(mean, mean)
    return Normal(mean, covariance * count / (count - 1) if unbiased else covariance)


def frechet_distance(one: Normal, other: Normal) -> Float[Tensor, ""]:
    """The squared distance, at least 0, also for singular covariances.

    The trace of (S1 S2)^(1/2) is the sum of the singular values of R1' R2, where S = R R'. The root of the asymmetric
    S1 S2 loses half of the digits for singular covariances, and may be complex.
    """
    shared = torch.linalg.svdvals(_root(one.covariance).T @ _root(other.covariance)).sum()
    traces = one.covariance.trace() + other.covariance.trace()
    return (one.mean - other.mean).square().sum() + (traces - 2 * shared).clamp(min=0)


def _root(matrix: Float[Tensor, "D D"]) -> Float[Tensor, "D r"]:
    """R with R R' equal to the matrix and as many columns as its rank."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    noise = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    positive = values > noise
    return vectors[:, positive] * values[positive].sqrt()


class FrechetDistance(Metric):
    """Fréchet distance between real and generated features over all processes.

    Args:
        num_features: D.
        unbiased: see `normal`.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    count: Tensor
    total: Tensor
    products: Tensor

    def __init__(self, num_features: int, unbiased: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unbiased = unbiased
        self.add_state("count", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")
        total = torch.zeros(2, num_features, dtype=torch.float64)
        self.add_state("total", total, dist_reduce_fx="sum")
        self.add_state("products", total[..., None].repeat(1, 1, num_features), dist_reduce_fx="sum")

    def update(self, features: Float[Tensor, "n D"], real: bool) -> None:
        """Add features of real or of generated images."""
        features, row = features.detach().double(), int(real)
        self.count[row] += len(features)
        self.total[row] += features.sum(0)
        self.products[row] += features.T @ features

    def compute(self) -> Float[Tensor, ""]:
        """The distance, float64; NaN with fewer than two real or two generated features."""
        if self.count.min() < 2:
            return torch.tensor(math.nan, dtype=torch.float64, device=self.count.device)
        sums = zip(self.count, self.total, self.products)
        generated, real = (normal(*each, self.unbiased) for each in sums)
        return frechet_distance(real, generated)

"""Fréchet distance: the recorded value, closed forms, and sums that add up over batches and processes."""

import numpy as np
import pytest
import scipy.linalg
import torch

from recorded import GOLDEN
from torchslots.metrics.frechet import FrechetDistance, Normal, frechet_distance, normal

_RECORDED = np.load(GOLDEN / "sd_metrics/frechet.npz")
_REAL, _FAKE = (torch.from_numpy(_RECORDED[name]) for name in ("real", "fake"))


def _distance(*parts: tuple[torch.Tensor, bool], unbiased: bool = False, size: int = 24) -> FrechetDistance:
    distance = FrechetDistance(size, unbiased)
    for features, real in parts:
        distance.update(features, real)
    return distance


def test_recorded_value():
    """The original keeps features in float32, which is where the last digits go."""
    value = _distance((_REAL, True), (_FAKE, False)).compute()
    assert float(value) == pytest.approx(float(_RECORDED["fd"]), rel=1e-7)


def test_both_conventions_against_the_textbook_form():
    for unbiased in (False, True):
        pairs = [
            (a.numpy().mean(0), np.cov(a.numpy(), rowvar=False, bias=not unbiased)) for a in (_REAL, _FAKE)
        ]
        (m1, s1), (m2, s2) = pairs
        expected = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)
        value = _distance((_REAL, True), (_FAKE, False), unbiased=unbiased).compute()
        assert float(value) == pytest.approx(expected, rel=1e-9)


def test_normal_distributions_that_share_their_axes():
    """Then the distance is that of means and of standard deviations, also where some of these are 0."""
    axes, _ = torch.linalg.qr(
        torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    one, other = torch.tensor([[3.0, 2, 1, 0, 0, 1e-9], [1.0, 5, 0, 2, 0, 1e-8]], dtype=torch.float64)
    mean = torch.arange(6.0, dtype=torch.float64)
    value = frechet_distance(
        Normal(mean, axes @ torch.diag(one**2) @ axes.T),
        Normal(mean * 0, axes @ torch.diag(other**2) @ axes.T),
    )
    assert value.item() == pytest.approx(55 + float((one - other).square().sum()), rel=1e-8)


def test_fewer_features_than_their_width():
    """Covariances are singular; equal sets are at 0 all the same, and never below."""
    few = _REAL[:5]
    assert 0 <= float(_distance((few, True), (few, False)).compute()) < 1e-6
    shifted = _distance((few, True), (few + 2, False)).compute()
    assert float(shifted) == pytest.approx(4 * 24, rel=1e-6)


def test_batches_and_processes_add_up():
    whole = _distance((_REAL, True), (_FAKE, False)).compute()
    parts = [
        _distance((_REAL[:7], True), (_FAKE[:30], False), (_REAL[7:20], True)),
        _distance((_FAKE[30:], False), (_REAL[20:], True)),
    ]
    first = parts[0]
    for name, reduction in first._reductions.items():
        setattr(first, name, reduction(torch.stack([getattr(part, name) for part in parts])))
    assert torch.allclose(first.compute(), whole, rtol=1e-12)


def test_undefined_with_less_than_two_features():
    assert _distance((_REAL, True), (_FAKE[:1], False)).compute().isnan()
    assert _distance((_REAL[:0], True), (_FAKE, False)).compute().isnan()


def test_moments():
    count, total, products = torch.tensor(60), _REAL.sum(0), _REAL.T @ _REAL
    assert torch.allclose(normal(count, total, products, True).covariance, torch.cov(_REAL.T))
    assert torch.allclose(normal(count, total, products, False).covariance, torch.cov(_REAL.T, correction=0))

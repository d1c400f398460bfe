"""Snapping to codes: which, with what loss, and where gradients go."""

import pytest
import torch

from torchslots.models.tokenizers import vqvae as codebook
from torchslots.models.tokenizers.vqvae import Codebook


@pytest.fixture
def codes() -> Codebook:
    torch.manual_seed(0)
    found = Codebook(50, 3)
    torch.nn.init.normal_(found.weight)
    return found


def test_the_nearest_of_all_codes_is_taken(codes, monkeypatch):
    latent = torch.randn(2, 3, 4, 5)
    whole = codes(latent)
    distances = torch.cdist(latent.movedim(1, -1).double(), codes.weight.double()[None])
    assert torch.equal(whole.codes, distances.argmin(-1))
    torch.testing.assert_close(whole.latent, codes.weight[whole.codes].movedim(-1, 1))
    monkeypatch.setattr(codebook, "ROWS", 7)
    assert torch.equal(codes(latent).codes, whole.codes)


def test_equal_codes_go_to_the_lowest(codes):
    with torch.no_grad():
        codes.weight[10:] = codes.weight[9]
    latent = codes.weight[9].detach().view(1, 3, 1, 1)
    assert codes(latent).codes.item() == 9


def test_precision_around_does_not_move_codes(codes):
    latent = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        around = codes(latent).codes
    assert torch.equal(around, codes(latent).codes)
    assert torch.equal(codes(latent.bfloat16()).codes, codes(latent.bfloat16().float()).codes)


def test_gradients_pass_straight_through_and_draw_both_sides_together(codes):
    latent = torch.randn(1, 3, 2, 2, requires_grad=True)
    found = codes(latent)
    weights = torch.randn(1, 3, 2, 2)
    (found.latent * weights).sum().backward()
    torch.testing.assert_close(latent.grad, weights)
    assert codes.weight.grad is None
    latent.grad = None
    found.loss.backward()
    chosen = codes.look_up(found.codes).detach()
    torch.testing.assert_close(latent.grad, 2 * (latent.detach() - chosen) / latent.numel())
    pull = torch.zeros_like(codes.weight).index_add_(
        0, found.codes.flatten(), 0.25 * 2 * (chosen - latent.detach()).movedim(1, -1).reshape(-1, 3) / 12
    )
    torch.testing.assert_close(codes.weight.grad, pull)


def test_fresh_codes_lie_close_around_zero():
    assert Codebook(100, 3).weight.abs().max() <= 0.01


def test_fresh_codes_may_begin_farther_apart():
    weight = Codebook(1000, 3, spread=0.5).weight
    assert 0.45 < weight.abs().max() <= 0.5

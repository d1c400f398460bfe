"""The discrete VAE: temperature, soft choice, tokens and pictures."""

import math
from dataclasses import replace

import pytest
import torch

from torchslots.models.losses import mean_colour_error
from torchslots.models.tokenizers.dvae import DVAE, cosine_temperature, gumbel_softmax, one_hot
from torchslots.recipes.tokenizers import DvaeConfig, VqvaeConfig, build_dvae, build_vqvae

CONFIG = DvaeConfig(resolution=(8, 16), vocabulary=12, channels=8, temperature_steps=10)
SMALL_VQVAE = VqvaeConfig((8, 8), channels=8, multipliers=(1,), num_groups=4, num_codes=8, perceptual=False)


@pytest.fixture
def model() -> DVAE:
    torch.manual_seed(0)
    return build_dvae(CONFIG)


def test_the_temperature_falls_along_half_a_cosine():
    def at(step):
        return cosine_temperature(step, start=1.0, end=0.1, num_steps=100.0)

    assert at(0) == 1.0 and at(None) == at(100) == at(10**6) == 0.1
    assert at(50) == pytest.approx(0.55)
    assert at(25) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert all(at(step) > at(step + 1) for step in range(100))


def test_a_cold_soft_choice_is_the_hard_one():
    torch.manual_seed(0)
    logits, draws = torch.randn(2, 5, 3, 4), torch.rand(2, 5, 3, 4).add(0.1)
    winners = (logits - draws.log()).argmax(1)
    cold = gumbel_softmax(logits, 1e-3, draws)
    torch.testing.assert_close(cold, one_hot(winners, 5))
    warm, hard = (gumbel_softmax(logits, 1.0, draws, choice) for choice in (False, True))
    assert warm.max() < 0.999 and torch.equal(hard.argmax(1), winners)
    torch.testing.assert_close(warm.sum(1), torch.ones(2, 3, 4))


def test_a_hard_choice_has_the_soft_one_s_gradient():
    torch.manual_seed(0)
    logits, draws, weights = torch.randn(1, 5, 2, 2), torch.rand(1, 5, 2, 2).add(0.1), torch.randn(1, 5, 2, 2)
    gradients = []
    for hard in (False, True):
        leaf = logits.clone().requires_grad_()
        (gumbel_softmax(leaf, 0.7, draws, hard) * weights).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_draws_come_from_the_generator_and_choose_in_proportion():
    torch.manual_seed(3)
    logits = torch.tensor([0.5, 0.3, 0.2]).log().view(1, 3, 1).expand(20_000, 3, 1)
    shares = gumbel_softmax(logits, 0.1, hard=True).mean((0, 2))
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), rtol=0, atol=0.02)
    torch.manual_seed(3)
    torch.testing.assert_close(gumbel_softmax(logits, 0.1, hard=True).mean((0, 2)), shares)


def test_tokens_are_rows_of_patches_and_decode_again(model):
    pictures = torch.rand(3, 3, 8, 16) * 2 - 1
    codes = model.codes(pictures)
    assert codes.shape == (3, 8) and codes.max() < 12
    torch.testing.assert_close(model.decode_codes(codes, CONFIG.grid), model.reconstruct(pictures))
    changed = pictures.clone()
    changed[:, :, :4, 4:8] = 0.9
    moved = model.logits(changed) - model.logits(pictures)
    # The group norm of one group sees the whole picture: other patches move a little, the changed one most.
    assert moved.abs().sum(1)[:, 0, 1].min() > moved.abs().sum(1)[:, 1, 3].max()


def test_the_loss_follows_the_step(model):
    batch = {"video": torch.rand(2, 2, 3, 8, 16), "exponential": torch.rand(4, 12, 2, 4) + 0.1}
    first, last, absent = (model.loss({**batch, **step})["recon"] for step in ({"step": 0}, {"step": 10}, {}))
    assert first != last and last == absent
    soft = gumbel_softmax(model.logits(batch["video"].flatten(0, 1) * 2 - 1), 1.0, batch["exponential"])
    drawn = model.decode(soft)
    torch.testing.assert_close(first, (drawn - (batch["video"].flatten(0, 1) * 2 - 1)).square().mean())


def test_parted_scores_use_more_tokens_at_the_start():
    """Centred and enlarged scores differ between places by more than the soft choice's noise; same seed, same draws."""
    pictures = torch.rand(4, 3, 32, 32) * 2 - 1
    spreads = []
    for factor in (None, 30.0):
        torch.manual_seed(0)
        model = build_dvae(replace(CONFIG, resolution=(32, 32), vocabulary=64, score_factor=factor))
        spreads.append(model.logits(pictures).flatten(2).std(2).mean().item())
        weight = [*model.encoder.parameters()][-2]
    assert spreads[1] > 10 * spreads[0]
    torch.testing.assert_close(weight.mean(1), torch.zeros_like(weight.mean(1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("build, config", [(build_dvae, CONFIG), (build_vqvae, SMALL_VQVAE)])
def test_colours_weigh_as_much_as_they_are_told_to(build, config):
    """With weight 1 the error is the mean square; of pictures that differ in colour alone it grows with the weight."""
    assert build(config).error is torch.nn.functional.mse_loss
    error = build(replace(config, colour_weight=8.0)).error
    true, other = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    grey, colour = other.mean(1, keepdim=True), torch.tensor([0.3, -0.1, -0.2])[:, None, None]
    torch.testing.assert_close(mean_colour_error(other, true, 1.0), (other - true).square().mean())
    torch.testing.assert_close(error(true + grey, true), grey.square().mean())
    torch.testing.assert_close(error(true + colour, true), 8 * colour.square().mean())

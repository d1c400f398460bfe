"""The VQ-VAE around its codebook, and the pyramids that it is built from."""

import pytest
import torch

from torchslots.models.tokenizers import autoencoder as pyramid
from torchslots.models.tokenizers.vqvae import VQVAE
from torchslots.recipes.tokenizers import VqvaeConfig, build_vqvae

CONFIG = VqvaeConfig(
    resolution=(16, 24),
    channels=8,
    multipliers=(1, 2),
    num_blocks=1,
    num_groups=4,
    latent_channels=5,
    num_codes=20,
    code_size=3,
    perceptual=False,
)


@pytest.fixture
def model() -> VQVAE:
    torch.manual_seed(0)
    found = build_vqvae(CONFIG)
    torch.nn.init.normal_(found.codebook.weight)
    return found.eval()


@torch.no_grad()
def test_there_and_back(model):
    pictures = torch.rand(2, 3, 16, 24) * 2 - 1
    latent = model.encode(pictures)
    assert latent.shape[1:] == CONFIG.latent_shape == (3, 8, 12)
    snapped = model.quantize(latent)
    torch.testing.assert_close(model.reconstruct(pictures), model.decode(snapped.latent, quantize=False))
    assert not torch.allclose(model.decode(latent), model.decode(latent, quantize=False))
    again = model.quantize(snapped.latent)
    assert torch.equal(again.codes, snapped.codes) and again.loss < 1e-12


@torch.no_grad()
def test_squared_error_alone_and_absolute_beside_a_perceptual_term(model):
    batch = {"video": torch.rand(2, 2, 3, 16, 24)}
    pictures = batch["video"].flatten(0, 1) * 2 - 1
    drawn = model.reconstruct(pictures)
    alone = model.loss(batch)
    assert set(alone) == {"recon", "quant"}
    torch.testing.assert_close(alone["recon"], (drawn - pictures).square().mean())
    model.perceptual = lambda true, painted: (true - painted).abs().amax((1, 2, 3))
    beside = model.loss(batch)
    torch.testing.assert_close(beside["recon"], (drawn - pictures).abs().mean())
    torch.testing.assert_close(beside["percept"], (drawn - pictures).abs().amax((1, 2, 3)).mean())
    assert beside["quant"] == alone["quant"]


def test_a_perceptual_distance_is_no_part_of_the_model():
    model = build_vqvae(VqvaeConfig(channels=32, multipliers=(1,), num_blocks=0, num_codes=4))
    assert model.perceptual is not None
    assert not any("percept" in name for name in model.state_dict())


@pytest.mark.parametrize("num_blocks", [0, 1, 2])
@pytest.mark.parametrize("attention_levels", [(), (0, 1)], ids=str)
def test_widths_and_sides_of_all_levels(num_blocks, attention_levels):
    numbers = {"latent_channels": 4, "channels": 8, "multipliers": (2, 1, 3), "num_groups": 4}
    if num_blocks == 0:
        numbers["multipliers"] = (1, 1, 3)
    numbers |= {"num_blocks": num_blocks, "attention_levels": attention_levels}
    encoder, decoder = pyramid.encoder(**numbers), pyramid.decoder(**numbers)
    pictures = torch.randn(1, 3, 16, 8)
    latent = encoder(pictures)
    assert latent.shape == (1, 4, 4, 2) and decoder(latent).shape == pictures.shape
    attentions = [name for name in encoder.state_dict() if name.endswith("to_q.weight")]
    assert len(attentions) == 1 + num_blocks * len(attention_levels)


def test_dropout_is_in_the_blocks_and_off_in_eval_mode():
    numbers = {"latent_channels": 4, "channels": 8, "multipliers": (1, 2), "num_groups": 4, "num_blocks": 1}
    torch.manual_seed(0)
    encoder, pictures = pyramid.encoder(**numbers, dropout=0.5), torch.randn(1, 3, 8, 8)
    assert not torch.equal(encoder(pictures), encoder(pictures))
    encoder.eval()
    assert torch.equal(encoder(pictures), encoder(pictures))


def test_halving_pads_right_and_bottom():
    encoder = pyramid.encoder(latent_channels=4, channels=4, multipliers=(1, 1), num_blocks=0, num_groups=4)
    halve = encoder.down_0.downsamplers[0].conv
    with torch.no_grad():
        halve.weight.zero_()
        halve.bias.zero_()
        halve.weight[0, 0, 0, 0] = 1.0
    picture = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 4, 4, 4)
    found = encoder.down_0(picture)[0, 0]
    torch.testing.assert_close(found, torch.tensor([[0.0, 2.0], [8.0, 10.0]]))

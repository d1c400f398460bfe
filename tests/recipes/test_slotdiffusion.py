"""SlotDiffusion's recipes: the authors' numbers, and parts that can be exchanged."""

import pytest
import torch

from torchslots.models.decoders.diffusion import DiffusionDecoder
from torchslots.models.diffusion.samplers import ddim, ddpm, dpm_solver, estimator
from torchslots.models.diffusion.schedule import PREDICT_NOISE, Diffusion, beta_schedule
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes import catalog
from torchslots.recipes import savi_slotdiffusion as savi_pytorch
from torchslots.recipes import slotdiffusion as slotdiffusion_ldm
from torchslots.recipes.config import to_json
from torchslots.recipes.savi_slotdiffusion import SaviPytorchConfig
from torchslots.recipes.slotdiffusion import (
    RECIPES,
    SamplingConfig,
    SlotDiffusionConfig,
    build,
    build_decoder,
)
from torchslots.recipes.tokenizers import VqvaeConfig
from torchslots.training import optim

PUBLISHED = [name for name in RECIPES if not name.endswith("demo")]


def demo() -> SlotDiffusionConfig:
    config = slotdiffusion_ldm.slotdiffusion_demo().model
    assert isinstance(config, SlotDiffusionConfig)
    return config


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_file(name, tmp_path) -> None:
    recipe = catalog.recipe(name)
    assert recipe.name == name and (RECIPES[name].__doc__ or "").strip()
    (tmp_path / "recipe.json").write_text(to_json(recipe))
    assert catalog.read_recipe(tmp_path / "recipe.json") == recipe


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_numbers_are_the_authors(name) -> None:
    recipe = catalog.recipe(name)
    config = recipe.model
    assert isinstance(config, SlotDiffusionConfig)
    images = name.endswith("clevrtex")
    steps = 400 * (40_000 // 64) if images else 30 * (9749 * 22 // 32)
    assert recipe.optim.num_steps == steps and recipe.optim.warmup_steps == pytest.approx(0.05 * steps)
    assert recipe.optim.max_grad_norm == (1.0 if images else 0.05)
    assert (recipe.train.batch_size, recipe.data.num_frames) == ((64, 1) if images else (32, 3))
    assert config.tokenizer == VqvaeConfig() and config.tokenizer.latent_shape == (3, 32, 32)
    assert config.slots.num_iterations == (3 if images else 2)


def test_slots_and_decoder_learn_at_their_own_rates() -> None:
    recipe = slotdiffusion_ldm.slotdiffusion_movi_e()
    rates = [optim.schedule(recipe.optim, part) for part in (optim.REST, optim.DECODER)]
    top = round(recipe.optim.warmup_steps)
    assert [rate(0) for rate in rates] == [0.0, 0.0]
    assert [rate(top) for rate in rates] == pytest.approx([1e-4, 2e-4], rel=1e-3)
    assert [rate(recipe.optim.num_steps) for rate in rates] == pytest.approx([0.0, 0.0], abs=1e-12)


def test_one_step_of_the_demonstration_reaches_every_weight_that_learns() -> None:
    torch.manual_seed(0)
    model = build(demo())
    model.loss({"video": torch.rand(1, 2, 3, 32, 32)})["denoise"].backward()
    missing = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not missing


def test_a_slot_encoder_of_another_system_goes_under_the_decoder() -> None:
    config = demo()
    torch.manual_seed(0)
    painted = savi_pytorch.build(
        SaviPytorchConfig(config.slots, savi_pytorch.SaviPytorchDecoderConfig(channels=(16, 16, 16)))
    )
    model = ObjectCentricModel(painted.slot_encoder, build_decoder(config)).eval()
    assert model.loss({"video": torch.rand(1, 1, 3, 32, 32)})["denoise"].isfinite()


@pytest.mark.parametrize("name, function", [("dpm_solver", dpm_solver), ("ddim", ddim), ("ddpm", ddpm)])
def test_samplers_are_chosen_by_name(name, function) -> None:
    def network(noised: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return noised / 2

    start, diffusion = torch.ones(1, 3, 4, 4), Diffusion(beta_schedule("linear", 20, 0.0015, 0.0195))
    numbers = {} if name == "ddpm" else {"num_steps": 7}
    estimate = estimator(network, PREDICT_NOISE)
    chosen = SamplingConfig(name, num_steps=7).build()(estimate, start, diffusion, torch.zeros_like)
    expected = function(estimate, start, diffusion, torch.zeros_like, **numbers)
    assert torch.equal(torch.stack(list(chosen)), torch.stack(list(expected)))


def test_a_progress_bar_changes_nothing() -> None:
    torch.manual_seed(0)
    decoder = build_decoder(demo()).eval()
    assert isinstance(decoder, DiffusionDecoder)
    slots = torch.randn(1, 8, 64)
    quiet, shown = (SamplingConfig(num_steps=2, show=show).build() for show in (False, True))
    assert torch.equal(decoder.generate(slots, sampler=quiet), decoder.generate(slots, sampler=shown))

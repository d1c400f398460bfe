"""Recipes of image codes: numbers, sizes, every weight learns, saved and loaded as what they are."""

from dataclasses import replace

import pytest
import torch

import torchslots
from torchslots.io.errors import UserError
from torchslots.models.weights import save_pretrained
from torchslots.recipes import catalog, tokenizers
from torchslots.recipes.slot_attention import slot_attention_demo
from torchslots.recipes.tokenizers import DvaeConfig, VqvaeConfig, build_dvae, build_vqvae
from torchslots.training.optim import schedule

NAMES = (*tokenizers.RECIPES, "vqvae_demo", "dvae_demo")
SMALL = {
    "vqvae": VqvaeConfig(
        resolution=(16, 16),
        channels=8,
        multipliers=(1, 2),
        num_blocks=1,
        attention_levels=(1,),
        num_groups=4,
        num_codes=16,
        perceptual=False,
    ),
    "vqvae_without_blocks": VqvaeConfig(
        resolution=(16, 16),
        channels=8,
        multipliers=(1, 1),
        num_blocks=0,
        num_groups=4,
        num_codes=16,
        perceptual=False,
    ),
    "vqvae_of_patches": VqvaeConfig(
        resolution=(16, 24), patch_channels=8, num_codes=16, codebook_spread=0.3, perceptual=False
    ),
    "dvae": DvaeConfig(resolution=(16, 16), vocabulary=16, channels=8),
    "dvae_hard": DvaeConfig(resolution=(16, 16), vocabulary=16, channels=8, hard=True),
}


def test_sizes_are_the_published_ones():
    with torch.device("meta"):
        models = build_vqvae(VqvaeConfig()), build_dvae(DvaeConfig())
    assert [sum(p.numel() for p in model.parameters()) for model in models] == [13_857_886, 681_923]


@pytest.mark.parametrize("name", NAMES)
def test_recipes_name_themselves_and_say_what_they_are(name):
    recipe = catalog.recipe(name)
    assert recipe.name == name and catalog.RECIPES[name].__doc__
    assert recipe.model.family == name.split("_")[0]
    assert recipe.data.keys == ("video",) and recipe.data.num_frames == 1
    assert recipe.model.resolution == (recipe.data.resolution,) * 2
    rate = schedule(recipe.optim)
    assert rate(0) == pytest.approx(1e-5) and rate(recipe.optim.num_steps) == pytest.approx(1e-5)
    peak = 2e-3 if name.endswith("_demo") else 1e-3
    assert rate(round(recipe.optim.warmup_steps)) == pytest.approx(peak, rel=1e-4)


@pytest.mark.parametrize(
    ("dataset", "num_steps"), [("movi_e", 182_750), ("movi_tex", 182_750), ("clevrtex", 62_500)]
)
def test_steps_are_the_authors_epochs(dataset, num_steps):
    vqvae, dvae = (catalog.recipe(f"{kind}_{dataset}") for kind in ("vqvae", "dvae"))
    assert vqvae.optim == dvae.optim and vqvae.optim.num_steps == num_steps
    assert vqvae.optim.warmup_steps == num_steps / 20 and vqvae.optim.max_grad_norm is None
    assert dvae.model.temperature_steps == pytest.approx(0.15 * num_steps)
    assert vqvae.evaluation.split == ("test" if dataset == "movi_tex" else "validation")


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_learns(name):
    model = catalog.build_seeded(SMALL[name], 0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    sum(model.loss({"video": torch.rand(2, 2, 3, 16, 16), "step": 0}).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", SMALL)
def test_what_was_saved_comes_back_bit_for_bit(name, tmp_path):
    model = catalog.build_seeded(SMALL[name], 1)
    assert model.config == SMALL[name]
    model.save_pretrained(tmp_path)
    found = torchslots.load_tokenizer(tmp_path)
    assert found.config == SMALL[name] and not found.training
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(found.reconstruct(pictures), model.eval().reconstruct(pictures))
    assert "load_tokenizer" in (tmp_path / "README.md").read_text()


def test_models_and_image_codes_are_not_taken_for_each_other(tmp_path):
    config = slot_attention_demo().model
    save_pretrained(catalog.build(config), config, tmp_path / "slots")
    catalog.build(SMALL["dvae"]).save_pretrained(tmp_path / "codes")
    with pytest.raises(
        UserError, match=r"codes holds a tokenizer, without slots: load it with torchslots\.load_tokenizer"
    ):
        torchslots.load_model(tmp_path / "codes")
    with pytest.raises(UserError, match=r"slots holds a model of slots.*torchslots\.load_model"):
        torchslots.load_tokenizer(tmp_path / "slots")
    assert "load_model" in (tmp_path / "slots" / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": (128, 130)}, "multiples of 4"),
        ({"channels": 40}, "num_groups 32 should divide every width"),
    ],
    ids=["side", "width"],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        replace(VqvaeConfig(), **change)
    with pytest.raises(UserError, match="multiples of 4"):
        DvaeConfig(resolution=(30, 32))


def test_training_with_lpips_and_without_its_weights_ends_with_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSLOTS_FEATURES", str(tmp_path))
    monkeypatch.setattr("torchslots.metrics.networks.weights.download_all", _no_network)
    model = build_vqvae(replace(SMALL["vqvae"], perceptual=True))
    with pytest.raises(UserError, match="vgg16"):
        model.loss({"video": torch.rand(1, 1, 3, 16, 16)})


def _no_network(*_args, **_options):
    raise UserError("no network.")


def test_lpips_is_asked_once_per_device_and_drops_out_in_training_alone(monkeypatch):
    made = []

    class Distance(torch.nn.Module):
        def forward(self, true, drawn):
            made[-1].append(self.training)
            return (true - drawn).abs().mean((1, 2, 3))

    def load(network, *, dropout):
        assert network == "vgg"
        made.append([dropout])
        return Distance()

    monkeypatch.setattr("torchslots.metrics.lpips.load_lpips", load)
    model = build_vqvae(replace(SMALL["vqvae"], perceptual=True, perceptual_dropout=0.5))
    batch = {"video": torch.rand(1, 1, 3, 16, 16)}
    assert set(model.loss(batch)) == {"recon", "quant", "percept"}
    with torch.no_grad():
        model.loss(batch)
    assert made == [[0.5, True, False]]

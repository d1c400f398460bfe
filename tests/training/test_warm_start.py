"""Trained parts under new models: what fits is taken over whole, what does not is told with a remedy."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tiny_models import TINY, batch
from torchslots.io.errors import UserError
from torchslots.models.model import ObjectCentricModel
from torchslots.models.weights import save_pretrained
from torchslots.recipes import catalog, savi
from torchslots.recipes import slotdiffusion as slotdiffusion_ldm
from torchslots.recipes.config import ModelConfig
from torchslots.training import warm_start as parts
from torchslots.training.warm_start import Parts, adopt_config, assemble, next_recipe, take_weights
from training.tiny_run import same, send
from training.two_steps import DVAE, SLOTDIFFUSION, SLOTS, STEVE, VQVAE, Clips, other_numbers, recipe, train


def saved(config: ModelConfig, folder: Path, seed: int = 3) -> Path:
    """A model folder with weights that nothing else has."""
    return save_pretrained(catalog.build_seeded(config, seed), config, folder)


def slots_model(config: ModelConfig, seed: int = 3) -> ObjectCentricModel:
    model = catalog.build_seeded(config, seed)
    assert isinstance(model, ObjectCentricModel)
    return model


def test_numbers_and_weights_of_a_tokenizer_are_taken_over(tmp_path: Path) -> None:
    folder = saved(other_numbers(VQVAE), tmp_path / "vqvae")
    chosen, model = assemble(recipe("slotdiffusion"), tmp_path / "run", folder)
    assert chosen.model == replace(SLOTDIFFUSION, tokenizer=other_numbers(VQVAE))
    own, trained = parts.frozen_tokenizer(model), catalog.build_seeded(other_numbers(VQVAE), 3)
    assert own is not None and same(own.state_dict(), trained.state_dict())
    assert model.train().training and not own.training


@pytest.mark.parametrize(("name", "right"), [("slotdiffusion", "vqvae"), ("steve", "dvae")])
def test_a_missing_tokenizer_is_told_with_the_command_that_trains_one(
    name: str, right: str, tmp_path: Path
) -> None:
    numbers = recipe(name)
    numbers = replace(numbers, data=replace(numbers.data, dataset="movi_solid"))
    with pytest.raises(UserError, match=rf"--tokenizer RUN.*torchslots train {right}_movi_solid"):
        assemble(numbers, tmp_path / "run")


def test_every_published_recipe_names_the_tokenizer_of_its_data(tmp_path: Path) -> None:
    for name, before in (("slotdiffusion", "vqvae"), ("steve", "dvae")):
        for data in ("movi_d", "movi_e", "movi_solid", "movi_tex", "clevrtex"):
            with pytest.raises(UserError, match=f"torchslots train {before}_{data} "):
                assemble(catalog.recipe(f"{name}_{data}"), tmp_path / "run")
            assert next_recipe(catalog.recipe(f"{before}_{data}")) == f"{name}_{data}"
    assert next_recipe(catalog.recipe("savi_small")) is None


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        ("slotdiffusion", DVAE, "is a tokenizer of the family dvae.*needs one of the family vqvae"),
        ("steve", VQVAE, "is a tokenizer of the family vqvae.*needs one of the family dvae"),
        ("slotdiffusion", SLOTDIFFUSION, "holds a model of slots, no tokenizer"),
        ("vqvae", VQVAE, "vqvae takes no trained tokenizer. Leave out --tokenizer"),
        ("slotdiffusion", replace(VQVAE, resolution=(32, 32)), r"tokenizer for \(32, 32\)"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(
    name: str, config: ModelConfig, says: str, tmp_path: Path
) -> None:
    folder = saved(config, tmp_path / "part")
    with pytest.raises(UserError, match=says):
        assemble(recipe(name), tmp_path / "run", folder)


def test_tokenizers_that_are_trained_along_are_not_asked_for() -> None:
    joint = [name for name in catalog.RECIPES if catalog.recipe(name).optim.tokenizer_learning_rate]
    assert joint
    for name in joint:
        assert parts._wants(catalog.recipe(name)) is None


def test_a_run_goes_on_with_its_own_tokenizer_alone(tmp_path: Path) -> None:
    first, second = (saved(VQVAE, tmp_path / str(seed), seed) for seed in (1, 2))
    with pytest.raises(UserError, match="Stopped by SIGTERM"):
        train("slotdiffusion", tmp_path / "run", first, Clips({5: send(15)}))
    with pytest.raises(UserError, match="was begun with another tokenizer than"):
        train("slotdiffusion", tmp_path / "run", second)
    assert train("slotdiffusion", tmp_path / "run", first).step == 6


def test_slots_go_from_one_system_to_another(tmp_path: Path) -> None:
    narrow = replace(SLOTS, num_slots=4)
    steve = saved(replace(STEVE, slots=narrow), tmp_path / "steve")
    vqvae = saved(VQVAE, tmp_path / "vqvae")
    chosen, model = assemble(recipe("slotdiffusion"), tmp_path / "run", vqvae, steve)
    assert chosen.model == replace(SLOTDIFFUSION, slots=narrow) and isinstance(model, ObjectCentricModel)
    theirs = slots_model(replace(STEVE, slots=narrow))
    assert same(model.slot_encoder.state_dict(), theirs.slot_encoder.state_dict())


def test_slots_of_the_same_system_must_be_of_the_same_numbers(tmp_path: Path) -> None:
    source = slots_model(replace(TINY, conditioning="learned"))
    model = slots_model(replace(TINY, conditioning="learned"), seed=4)
    taken = Parts(slots_from=source)
    assert adopt_config(model.config, taken) == model.config
    take_weights(model, taken)
    assert same(model.slot_encoder.state_dict(), source.slot_encoder.state_dict())
    with pytest.raises(UserError, match=r"does not fit the new model.* of another shape \("):
        take_weights(slots_model(replace(TINY, conditioning="learned", slot_size=16)), taken)


def test_slots_of_another_kind_are_refused(tmp_path: Path) -> None:
    folder, vqvae = (
        saved(replace(TINY, conditioning="learned"), tmp_path / "savi"),
        saved(VQVAE, tmp_path / "v"),
    )
    with pytest.raises(UserError, match="slot encoder of a savi model cannot start a slotdiffusion model"):
        assemble(recipe("slotdiffusion"), tmp_path / "run", vqvae, folder)
    with pytest.raises(UserError, match="holds a tokenizer, without slots"):
        assemble(recipe("slotdiffusion"), tmp_path / "run", vqvae, vqvae)
    with pytest.raises(UserError, match="has no slots"):
        take_weights(catalog.build(VQVAE), Parts(slots_from=slots_model(SLOTDIFFUSION)))
    with pytest.raises(UserError, match="takes no trained tokenizer"):
        take_weights(nn.Linear(1, 1), Parts(tokenizer=catalog.build(VQVAE)))  # pyright: ignore[reportArgumentType]


def test_a_trained_slot_encoder_goes_under_any_decoder() -> None:
    """SAVi's, with its boxes, below a diffusion decoder."""
    trained = savi.build(TINY)
    slots = replace(SLOTS, resolution=TINY.resolution, slot_size=TINY.slot_size)
    config = replace(SLOTDIFFUSION, slots=slots, tokenizer=replace(VQVAE, resolution=TINY.resolution))
    model = ObjectCentricModel(trained.slot_encoder, slotdiffusion_ldm.build_decoder(config))
    loss = sum(model.loss(batch(2)).values())
    assert isinstance(loss, torch.Tensor) and torch.isfinite(loss)
    torch.manual_seed(0)
    for weight in model.parameters():  # layers that start at zero let no gradient through
        if weight.requires_grad and not weight.any():
            nn.init.normal_(weight, std=0.1)
    sum(model.loss(batch(2)).values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    assert all(weight.grad is not None for weight in trained.slot_encoder.encoder.parameters())

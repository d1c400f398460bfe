"""Every data set of Invariant Slot Attention's recipes, generated here or recorded, through one training batch."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from recorded import GOLDEN
from torchslots.data.catalog import open_dataset
from torchslots.data.loader import eval_batches, train_batches
from torchslots.recipes import catalog, isa
from torchslots.recipes.config import Recipe
from torchslots.recipes.isa import CnnDecoderConfig, IsaConfig, PixelDecoderConfig
from torchslots.recipes.savi import CnnConfig, ResNetConfig
from torchslots.sim.generate_images import generate_images

GENERATED = {"tetrominoes": 103, "objects_room": 103, "clevr_with_masks": 4}
RECORDED = {
    "multishapenet_easy": "data_msn_easy",
    "clevrtex": "data_clevrtex",
    "waymo_open": "data_waymo_isa",
}
DATASETS = sorted({catalog.recipe(name).data.dataset for name in isa.RECIPES})


def _tiny(model: IsaConfig) -> IsaConfig:
    """The same frames and slots' frames with few channels."""
    encoder = model.encoder
    if isinstance(encoder, CnnConfig):
        encoder = CnnConfig((4,) * len(encoder.channels), encoder.strides)
    else:
        encoder = ResNetConfig((1,) * len(encoder.stage_sizes), 32)
    decoder = model.decoder
    if isinstance(decoder, PixelDecoderConfig):
        decoder = replace(decoder, channels=(4, 4))
    else:
        decoder = CnnDecoderConfig(decoder.grid, (4,) * len(decoder.channels), decoder.strides)
    sizes = dict.fromkeys(("slot_size", "qkv_size", "slot_hidden", "grid_hidden", "position_hidden"), 8)
    return replace(model, encoder=encoder, decoder=decoder, num_slots=3, **sizes)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for kind, count in GENERATED.items():
        generate_images(folder, kind=kind, count=count, workers=1)  # type: ignore[arg-type]
    for name, recorded in RECORDED.items():
        shutil.copytree(GOLDEN / recorded, folder / name)
    shutil.rmtree(folder / "clevrtex" / "clevrtex_full")
    return folder


@pytest.mark.parametrize("dataset", DATASETS)
def test_one_training_batch_of_every_data_set(root: Path, dataset: str):
    recipes: dict[str, Recipe] = {}
    for name in isa.RECIPES:
        recipe = catalog.recipe(name)
        if recipe.data.dataset == dataset:
            recipes.setdefault(type(recipe.model.encoder).__name__, recipe)  # type: ignore[attr-defined]
    assert recipes
    for recipe in recipes.values():
        place = root / dataset if dataset in RECORDED else root
        train = open_dataset(dataset, place, "train", recipe.data, True)
        assert isinstance(recipe.model, IsaConfig)
        model = catalog.build_seeded(_tiny(recipe.model), 0)
        batch = next(train_batches(train, batch_size=2, seed=0))
        assert batch["video"].shape == (2, 1, 3, *recipe.model.resolution)
        assert batch["segmentations"].max() > 0 or dataset == "waymo_open"
        loss = sum(model.loss(batch).values())
        assert isinstance(loss, torch.Tensor) and loss.isfinite() and loss > 0
        loss.backward()
        assert all(weight.grad is not None for weight in model.parameters())
        held_out = open_dataset(dataset, place, _held_out(dataset), recipe.data, False)
        found = model.predict(next(eval_batches(held_out, batch_size=1)))
        assert found.segmentation.shape == (1, 1, *recipe.model.resolution)


def _held_out(dataset: str) -> str:
    """Two recorded images are too few for tenths."""
    return "full" if dataset == "clevrtex" else "validation"


@pytest.fixture(scope="module")
def textured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[int, int]], Path]:
    """Textured images by their size, each made once."""

    @cache
    def made(size: tuple[int, int]) -> Path:
        folder = tmp_path_factory.mktemp("textured")
        generate_images(folder, kind="clevrtex", count=10, resolution=size, workers=1)
        return folder

    return made


@pytest.mark.parametrize("dataset", ["multishapenet_easy", "clevrtex", "waymo_open"])
def test_recipes_of_sets_that_are_not_generated_take_textured_pictures(
    textured: Callable[[tuple[int, int]], Path], dataset: str
):
    """`--data clevrtex`, generated at the size of the recipe's own set."""
    recipe = catalog.recipe(f"isa_{dataset}_transl" if dataset != "clevrtex" else "isa_clevrtex_cnn_transl")
    place = textured((128, 192) if dataset == "waymo_open" else (240, 320))
    train = open_dataset("clevrtex", place, "train", replace(recipe.data, dataset="clevrtex"), True)
    assert isinstance(recipe.model, IsaConfig) and len(train) == 8
    batch = next(train_batches(train, batch_size=2, seed=0))
    assert batch["video"].shape == (2, 1, 3, *recipe.model.resolution)
    assert len(open_dataset("clevrtex", place, "validation", recipe.data, False)) == 1

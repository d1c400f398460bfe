"""Recipes against their originals: which data are trained on, watched and tested, and how weights start."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from torchslots.data.catalog import known_splits
from torchslots.data.parts import parse_split
from torchslots.inference.evaluate import EvaluateOptions
from torchslots.inference.videos import settings_of
from torchslots.recipes import catalog, steve, steve_joint
from torchslots.recipes.config import Recipe, to_json, with_changes
from torchslots.recipes.steve import CodeTransformerConfig
from torchslots.training.run import _on_other_data
from training.two_steps import DVAE, STEVE

_ORIGINAL = ("savi_pytorch", "steve", "slotdiffusion", "vqvae", "dvae")
TESTED = [
    name
    for name in catalog.RECIPES
    if any(name.startswith(f"{system}_") for system in _ORIGINAL)
    and not name.endswith("_demo")
    and not name.startswith("steve_joint")
]


def read(recipe: Recipe, folder: Path, **options: object) -> tuple[str, int | None]:
    """Split and number of videos that `evaluate` reads of a run of a recipe."""
    (folder / "recipe.json").write_text(to_json(recipe))
    _, settings = settings_of(folder, None, with_changes(EvaluateOptions(), **options), ("video",), folder)
    return settings.split, settings.num_videos


@pytest.mark.parametrize("name", TESTED)
def test_systems_of_slotdiffusion_are_tested_on_the_test_split(name: str, tmp_path: Path) -> None:
    recipe = catalog.recipe(name)
    watched = "test" if name.endswith(("movi_solid", "movi_tex")) else "validation"
    assert (recipe.evaluation.split, recipe.evaluation.test_split) == (watched, "test")
    assert "test" in known_splits(recipe.data.dataset, None)
    assert read(recipe, tmp_path) == ("test", None)
    assert read(recipe, tmp_path, split="validation") == ("validation", None)
    assert read(recipe, tmp_path, num_videos=7) == ("test", 7)


def test_a_data_set_without_the_test_split_is_read_as_in_training(tmp_path: Path, capsys) -> None:
    recipe = catalog.recipe("slotdiffusion_movi_e")
    assert read(recipe, tmp_path, data="movi_a") == ("validation", None)
    assert "`movi_a` has no split `test`" in capsys.readouterr().err
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "meta.json").write_text("{}")
    assert read(recipe, tmp_path, data="prepared") == ("validation", None)


def test_other_data_are_trained_on_by_their_own_splits(tmp_path: Path, capsys) -> None:
    def splits(name: str, **changes: object) -> tuple[str, str]:
        found = _on_other_data(with_changes(catalog.recipe(name), **changes), tmp_path)
        return found.data.train_split, found.evaluation.split

    own = ("all[512:70000]", "all[:512]")
    assert splits("slot_attention_clevr6") == own
    assert splits("slot_attention_clevr6", **{"data.dataset": "prepared"}) == own
    assert splits("slot_attention_clevr6", **{"data.dataset": "folder"}) == ("train", "validation")
    chosen = {"data.dataset": "sim_c", "data.train_split": "train[:50%]"}
    assert splits("steve_joint_movi_e", **chosen) == ("train[:50%]", "validation")
    usual = ("train", "validation")
    assert (
        splits("slot_attention_demo", **{"data.dataset": "folder"}) == usual
    )  # from train_full, validation_full
    assert (
        "`folder` has no split `train_full`, which the recipe names: reading `train`"
        in capsys.readouterr().err
    )
    assert splits("dinosaur_voc_mlp", **{"data.dataset": "coco"}) == usual  # from trainaug
    assert splits("slot_attention_tetrominoes", **{"data.dataset": "clevr"}) == ("train_full", "validation")
    assert splits("slot_attention_set_prediction", **{"data.dataset": "sim_a"}) == usual  # from train_eval


def test_evaluation_on_data_without_the_split_reads_the_usual_one(tmp_path: Path, capsys) -> None:
    recipe = catalog.recipe("slot_attention_demo")
    assert read(recipe, tmp_path) == ("validation_full", 320)
    assert read(recipe, tmp_path, data="sim_a") == ("validation", 320)
    assert "`sim_a` has no split `validation_full`" in capsys.readouterr().err
    assert read(recipe, tmp_path, data="coco", split="train") == ("train", 320)


def test_runs_from_before_keep_their_split(tmp_path: Path) -> None:
    recipe = catalog.recipe("vqvae_movi_e")
    before = replace(recipe, evaluation=replace(recipe.evaluation, test_split=None))
    assert read(before, tmp_path) == ("validation", None)


def test_other_systems_have_no_test_split() -> None:
    found = {name for name in catalog.RECIPES if catalog.recipe(name).evaluation.test_split}
    joint = {name for name in catalog.RECIPES if name.startswith("steve_joint")}
    images = {"slot_attention_clevr6", "slot_attention_multi_dsprites", "slot_attention_set_prediction"}
    assert found == {*TESTED, *joint, *images}


@pytest.mark.parametrize("part", ["movi_d", "movi_e", "movi_solid", "movi_tex"])
def test_steve_of_its_authors_trains_on_seventy_per_cent(part: str, tmp_path: Path) -> None:
    recipe = catalog.recipe(f"steve_joint_{part}")
    assert recipe.data.windows == "end_to_end" and 24 // recipe.data.num_frames == 8
    assert (recipe.data.train_split, recipe.evaluation.split) == ("train[:70%]", "train[70%:85%]")
    sizes = {}
    for split in (recipe.data.train_split, recipe.evaluation.split):
        base, videos = parse_split(split)
        assert base == "train" and videos is not None
        sizes[split] = videos.of(9749, split)
    assert sizes == {"train[:70%]": range(6824), "train[70%:85%]": range(6824, 8286)}
    epoch = 6824 * 8 // 24
    assert recipe.train.eval_every == epoch and recipe.optim.num_steps == 500 * epoch == 1_137_000
    assert recipe.train.best_metric == "loss"
    assert read(recipe, tmp_path) == ("test", None)


def test_the_vector_before_the_first_code_starts_xavier_uniform() -> None:
    torch.manual_seed(0)
    model = steve_joint.build(
        steve_joint.SteveJointConfig(
            replace(DVAE, norm=False),
            CodeTransformerConfig(size=192, num_layers=1, num_heads=2, mlp_size=8, xavier_start=True),
            channels=(4,),
            token_size=8,
            slot_size=8,
            num_slots=3,
            mlp_size=8,
            predictor_heads=2,
            predictor_mlp=8,
        )
    )
    codes = model.decoder.writer.embedding.weight.detach()
    bound = math.sqrt(6 / (192 + 192))
    assert codes[-1].abs().max() <= bound and codes[-1].abs().max() > 0.9 * bound
    assert codes[:-1].abs().max() > 2 and codes[:-1].std() == pytest.approx(1, abs=0.05)
    head, project = model.decoder.writer.head.weight, model.decoder.writer.project.weight
    assert head.abs().max() > 1 / math.sqrt(192) and head.abs().max() <= math.sqrt(6 / (192 + 8))
    assert project.abs().max() <= math.sqrt(6 / (192 + 8)) and model.decoder.writer.project.bias is None


def test_linear_layers_of_slotdiffusions_steve_start_as_torchs() -> None:
    torch.manual_seed(0)
    config = CodeTransformerConfig(size=192, num_layers=1, num_heads=2, mlp_size=8)
    writer = steve.build_code_transformer(config, 192, DVAE)
    bound = 1 / math.sqrt(192)
    assert bound == pytest.approx(0.072, abs=2e-4)
    for tensor in (writer.project.weight, writer.project.bias, writer.head.weight):
        assert 0.95 * bound < tensor.abs().max() <= bound
    assert all(not catalog.recipe(name).model.transformer.xavier_start for name in steve.RECIPES)
    assert all(catalog.recipe(name).model.transformer.xavier_start for name in steve_joint.RECIPES)


def test_the_demonstration_starts_as_before() -> None:
    assert catalog.recipe("steve_demo").model.transformer.xavier_start
    torch.manual_seed(0)
    writer = steve.build_code_transformer(replace(STEVE.transformer, xavier_start=True), 8, DVAE)
    assert not writer.project.bias.any()


def test_set_prediction_watches_its_512_images_every_thousand_steps(tmp_path: Path) -> None:
    recipe = catalog.recipe("slot_attention_set_prediction")
    assert (recipe.evaluation.split, recipe.evaluation.num_videos) == ("train_eval", None)
    assert recipe.train.eval_every == 1000
    assert read(recipe, tmp_path) == ("validation", 500)
    assert read(recipe, tmp_path, split="train_eval") == ("train_eval", None)


def test_clevr6_trains_on_seventy_thousand_images_without_512(tmp_path: Path) -> None:
    recipe = catalog.recipe("slot_attention_clevr6")
    assert records(recipe.data.train_split) == range(512, 70_000)
    assert records(recipe.evaluation.split) == range(512)
    assert recipe.evaluation.num_videos == 320
    split, number = read(recipe, tmp_path)
    assert records(split) == range(70_000, 71_000) and number == 320


def test_multi_dsprites_trains_on_sixty_thousand_images_and_is_tested_on_320(tmp_path: Path) -> None:
    recipe = catalog.recipe("slot_attention_multi_dsprites")
    assert records(recipe.data.train_split) == range(512, 60_000)
    split, number = read(recipe, tmp_path)
    assert records(split) == range(60_000, 60_320) and number == 320


def records(split: str) -> range:
    """Numbers of the records of a part of CLEVR with masks or Multi-dSprites."""
    base, part = parse_split(split)
    assert base == "all" and part is not None
    return part.of(100_000, split)


def test_gradients_are_clipped_as_in_each_original() -> None:
    for name in catalog.RECIPES:
        jax = name.startswith(("savi_small", "savi_medium", "savi_large", "savi_plus", "statm", "isa"))
        jax = jax and not name.endswith("_demo")
        assert catalog.recipe(name).optim.clip_epsilon == (0.0 if jax else 1e-6), name


def test_slotdiffusion_and_its_tokenizer_train_in_half_precision() -> None:
    for name in catalog.RECIPES:
        half = name.startswith(("slotdiffusion_", "vqvae_")) and not name.endswith("_demo")
        assert (catalog.recipe(name).train.precision == "fp16") == half, name


def test_recipes_without_a_released_configuration_say_so() -> None:
    found = [name for name in catalog.RECIPES if name.endswith("_v2")]
    assert len(found) == 4
    for name in catalog.RECIPES:
        text = catalog.RECIPES[name].__doc__ or ""
        assert ("not among the released configurations" in text) == (name in found), name

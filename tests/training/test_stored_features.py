"""Training on stored features of a frozen backbone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.published import extract_published
from torchslots.data.batch import collate, cut_clips
from torchslots.data.catalog import open_dataset
from torchslots.data.loader import train_batches
from torchslots.data.sets.prepared_features import lost
from torchslots.io.errors import UserError
from torchslots.models.types import Batch
from torchslots.recipes import catalog
from torchslots.recipes.backbones import BackboneConfig
from torchslots.recipes.config import Recipe, with_changes
from torchslots.training import run as training
from torchslots.training.feature_job import expected_gain
from torchslots.training.features import check_backbone, training_set
from torchslots.training.step import TrainStep
from training.stored_features import STILL, built, job, movi, tiny

_RECIPES = ("videosaur_demo", "slotcontrast_demo")


def _prepared(recipe: Recipe) -> Recipe:
    return with_changes(recipe, **{"data.dataset": "prepared"})


def _batches(recipe: Recipe, clips, count: int = 2) -> list[Batch]:
    stream = train_batches(clips, batch_size=recipe.train.batch_size, seed=5)
    return [next(stream) for _ in range(count)]


def _losses(recipe: Recipe, batches: list[Batch]) -> dict[str, torch.Tensor]:
    """Of three steps, the last after two updates."""
    step = TrainStep(built(recipe), recipe.optim, recipe.train, "cpu")
    reports = [step(300 + number, batch) for number, batch in enumerate(batches)]
    return {name: torch.stack([report.losses[name] for report in reports]) for name in reports[0].losses}


@pytest.mark.parametrize("name", _RECIPES)
@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 2e-6), ("float16", 2e-3)])
def test_losses_are_those_of_frames(tmp_path: Path, name: str, kind, tolerance: float):
    recipe = tiny(name, **STILL)
    root = movi(tmp_path / "data")
    job(recipe, root, tmp_path / "out", feature_type=kind).run()
    frames = _batches(recipe, open_dataset("movi_a", root, "train", recipe.data, True))
    stored = _batches(recipe, training_set(_prepared(recipe), built(recipe), tmp_path / "out"))
    assert [batch["name"] for batch in stored] == [batch["name"] for batch in frames]
    assert "video" not in stored[0] and stored[0]["features"].dtype == getattr(torch, kind)
    expected, found = _losses(recipe, frames), _losses(recipe, stored)
    assert found.keys() == expected.keys()
    for loss in expected:
        torch.testing.assert_close(found[loss], expected[loss], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", _RECIPES)
def test_losses_of_the_same_features_in_float32_are_equal(tmp_path: Path, name: str):
    """No rounding lies between: the features are the encoder's own."""
    recipe = tiny(name)
    batches = _batches(recipe, open_dataset("movi_a", movi(tmp_path), "train", recipe.data, True))
    encoder = built(recipe).slot_encoder
    stored = []
    for batch in batches:
        found = encoder.encode(batch["video"]).features
        assert found is not None
        keys = {} if found.keys is None else {"feature_keys": found.keys}
        stored.append({"features": found.tokens, **keys})
    expected, found = _losses(recipe, batches), _losses(recipe, stored)
    assert (
        all(torch.equal(found[loss], expected[loss]) for loss in expected) and expected.keys() == found.keys()
    )


def test_the_backbone_does_not_run_on_stored_features(tmp_path: Path):
    recipe = tiny()
    job(recipe, movi(tmp_path / "data"), tmp_path / "out").run()
    model = built(recipe)

    def refuse(*_: object) -> None:
        raise AssertionError("the backbone ran")

    model.slot_encoder.get_submodule("encoder.backbone").register_forward_hook(refuse)
    batch = _batches(recipe, training_set(_prepared(recipe), model, tmp_path / "out"), 1)[0]
    TrainStep(model, recipe.optim, recipe.train, "cpu")(0, batch)
    with pytest.raises(AssertionError, match="the backbone ran"):
        model.loss({"video": torch.rand(1, 2, 3, 32, 32)})


@pytest.mark.parametrize(("precision", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_on_frames_the_backbone_runs_once_without_gradients_in_the_precision_asked_for(precision, kind):
    recipe = tiny(**{"train.precision": precision})
    model, seen = built(recipe), []
    backbone = model.slot_encoder.get_submodule("encoder.backbone")

    def watch(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.append((output.dtype, torch.is_grad_enabled(), output.requires_grad, len(inputs[0])))

    first = next(part for part in backbone.modules() if isinstance(part, nn.Linear))
    first.register_forward_hook(watch)
    TrainStep(model, recipe.optim, recipe.train, "cpu")(0, {"video": torch.rand(2, 4, 3, 32, 32)})
    assert seen == [(kind, False, False, 8)]
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_a_run_trains_on_features_evaluates_on_frames_and_resumes(tmp_path: Path, capsys):
    recipe = tiny(**{"train.eval_every": 2})
    job(recipe, movi(tmp_path / "data"), tmp_path / "out").run()
    whole = training.train(recipe, tmp_path / "out", tmp_path / "run", dataset="prepared", device="cpu")
    said = capsys.readouterr().err
    assert whole.step == 3 and whole.metrics["fg_ari"] == whole.metrics["fg_ari"]
    assert "Training reads the features in" in said and "no clip is mirrored (from frames 50%" in said
    again = training.train(recipe, tmp_path / "out", tmp_path / "run", dataset="prepared", device="cpu")
    assert again == whole
    longer = with_changes(recipe, **{"optim.num_steps": 5})
    on = training.train(longer, tmp_path / "out", tmp_path / "run", dataset="prepared", device="cpu")
    assert on.step == 5


def test_clips_that_end_early_are_padded_with_black_frames(tmp_path: Path):
    """The fifth window of five of 24 frames has four."""
    recipe = tiny(**{**STILL, "data.num_frames": 5})
    root = movi(tmp_path / "data")
    job(recipe, root, tmp_path / "out", feature_type="float32").run()
    model = built(recipe)
    frames = open_dataset("movi_a", root, "train", recipe.data, True)
    stored = training_set(_prepared(recipe), model, tmp_path / "out")
    padded = 0
    for seed in range(12):
        one, other = (clips.sample(1, np.random.default_rng(seed)) for clips in (frames, stored))
        found = model.slot_encoder.encode(one["video"][None]).features
        assert found is not None and found.keys is not None
        torch.testing.assert_close(other["features"], found.tokens[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(other["feature_keys"], found.keys[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(other["padding_mask"].all((1, 2)), one["padding_mask"].all((1, 2)))
        padded += not bool(other["padding_mask"].all())
    assert padded


def test_clips_of_features_are_cut_like_clips_of_frames():
    batch = {"features": torch.arange(24.0).reshape(2, 4, 3, 1), "name": ["a", "b"]}
    cut = cut_clips(batch, 2)
    assert cut["features"].shape == (4, 2, 3, 1) and cut["name"] == ["a", "a", "b", "b"]
    assert torch.equal(cut["features"].flatten(), torch.arange(24.0))


def test_photographs_and_chunks(tmp_path: Path):
    """What is cut at random in training is cut as in evaluation; whole chunks are the same ones."""
    root = extract_published("davis", tmp_path / "data")
    cut = {
        "data.square": False,
        "data.train_crop": "random",
        "data.eval_crop": "square",
        "data.windows": "chunks",
    }
    recipe = tiny(**{**cut, "data.dataset": "davis_2017", "data.num_frames": 2, "data.flip": 0.5})
    job(recipe, root, tmp_path / "out", feature_type="float32").run()
    stored = training_set(_prepared(recipe), model := built(recipe), tmp_path / "out")
    plain = replace(recipe.data, train_crop="square", flip=0.0)
    frames = open_dataset("davis_2017", root, "train", plain, True)
    assert len(stored) == len(frames) > 0
    for index in range(len(frames)):
        one, other = (clips.sample(index, np.random.default_rng(7)) for clips in (frames, stored))
        found = model.slot_encoder.encode(collate([one])["video"]).features
        assert found is not None and one["name"] == other["name"]
        torch.testing.assert_close(other["features"], found.tokens[0], rtol=1e-5, atol=1e-5)
    assert lost(recipe.data) == [
        "no clip is mirrored (from frames 50% of them are)",
        "every clip is cut from the middle (from frames at a random place)",
    ]
    assert lost(plain) == []


# What does not go together


def test_features_of_another_backbone_are_refused(tmp_path: Path):
    recipe = tiny()
    job(recipe, movi(tmp_path / "data"), tmp_path / "out").run()
    other = _prepared(with_changes(recipe, **{"train.seed": 1}))
    clips = training_set(other, built(other), tmp_path / "out")
    with pytest.raises(UserError, match=r"features of another backbone .*--backbone FILE.*another folder"):
        check_backbone(clips, built(other))
    check_backbone(clips, built(recipe))
    with pytest.raises(UserError, match="features of another backbone"):
        training.train(other, tmp_path / "out", tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.resolution": 48}, "`resolution` = 32, the recipe has 48"),
        ({"data.interpolation": "bilinear"}, "`interpolation` = 'bicubic', the recipe has 'bilinear'"),
        ({"data.crop": (0, 0, 16, 16)}, "`crop` = None"),
    ],
)
def test_features_of_other_frames_are_refused(tmp_path: Path, changes: dict, message: str):
    recipe = tiny()
    job(recipe, movi(tmp_path / "data"), tmp_path / "out").run()
    other = _prepared(with_changes(recipe, **changes))
    with pytest.raises(UserError, match=f"{message}.*Store them again"):
        training_set(other, built(other), tmp_path / "out")


def test_features_without_keys_and_of_another_grid(tmp_path: Path):
    recipe = tiny("slotcontrast_demo")
    job(recipe, movi(tmp_path / "data"), tmp_path / "out").run()
    other = _prepared(tiny("videosaur_demo"))
    with pytest.raises(
        UserError, match=r"without the keys that the recipe's loss compares. Store them again"
    ):
        training_set(other, built(other), tmp_path / "out")
    larger = _prepared(with_changes(recipe, **{"model.resolution": (48, 48)}))
    clips = training_set(larger, built(larger), tmp_path / "out")
    with pytest.raises(UserError, match="features of 8 x 8 patches, the model was built for 12 x 12"):
        check_backbone(clips, built(larger))


def test_models_without_a_frozen_backbone_are_refused_features(tmp_path: Path):
    recipe = tiny()
    root = movi(tmp_path / "data")
    job(recipe, root, tmp_path / "out").run()
    (tmp_path / "out" / "train" / "meta.json").unlink()
    tuned = _prepared(with_changes(recipe, **{"model.backbone.trainable_from": 1}))
    with pytest.raises(UserError, match=r"tunes its vision transformer.*Train it on frames"):
        training_set(tuned, built(tuned), tmp_path / "out")
    with pytest.raises(UserError, match="tunes its vision transformer"):
        job(tuned, root, tmp_path / "other")
    with pytest.raises(UserError, match="savi_demo has no frozen vision transformer"):
        job(with_changes(catalog.recipe("savi_demo"), **{"data.dataset": "movi_a"}), root, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_frames_beside_features_serve_a_model_that_needs_them(tmp_path: Path):
    recipe = tiny()
    job(recipe, movi(tmp_path / "data"), tmp_path / "out").run()
    changes = {"model.backbone.trainable_from": 1, "data.crowds": "uncovered"}
    tuned = _prepared(with_changes(recipe, **changes))
    sample = training_set(tuned, built(tuned), tmp_path / "out").sample(0, np.random.default_rng(0))
    assert "features" not in sample and sample["video"].shape == (4, 3, 32, 32)


# The gain


def test_gain_by_count_of_multiplications_is_what_the_help_says():
    """A patch costs each block 24 C^2 + 4 N C operations, attention counted."""
    found = {
        name: expected_gain(catalog.recipe(name)) for name in ("videosaur_movi_c", "slotcontrast_movi_c")
    }
    assert found["videosaur_movi_c"] == pytest.approx(6.6, abs=0.1)
    assert found["slotcontrast_movi_c"] == pytest.approx(1.4, abs=0.1)


@pytest.mark.slow
def test_what_each_recipe_loses_is_in_the_docs():
    table = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for name, recipe in ((name, catalog.recipe(name)) for name, _ in catalog.find_recipes("")):
        backbone = vars(recipe.model).get("backbone")
        if not isinstance(backbone, BackboneConfig) or name.endswith("_demo"):
            continue
        row = next(line for line in table.splitlines() if f"`{name}`" in line and line.startswith("| `"))
        if backbone.trainable_from is not None:
            assert "cannot be stored" in row, name
            continue
        assert ("mirroring" in row) == (recipe.data.flip > 0), name
        assert ("random squares" in row) == (recipe.data.train_crop == "random"), name
        assert row.rstrip(" |").endswith(f"{expected_gain(recipe):.1f}"), name

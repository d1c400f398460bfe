"""DINOSAUR and FT-DINOSAUR: the published settings, and every recipe at tiny size."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from data.published import extract_published
from tiny_models import TINY
from torchslots.data.catalog import open_dataset
from torchslots.hub import load_model
from torchslots.io.errors import UserError
from torchslots.io.run_log import read_log
from torchslots.models.backbones.names import entries
from torchslots.models.decoders.features import FeatureDecoder
from torchslots.models.decoders.renderers import PerceptronRenderer
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe, to_json, with_changes
from torchslots.recipes.dinosaur import AutoregressiveConfig, DinosaurConfig, ImageSlotsConfig
from torchslots.recipes.feature_slots import PerceptronConfig
from torchslots.recipes.ftdinosaur import FtDinosaurConfig
from torchslots.training import loop
from torchslots.training.step import TrainStep
from torchslots.training.warm_start import add_teacher, assemble, take_all

NAMES = [name for name, found in catalog.find_recipes() if isinstance(found.model, ImageSlotsConfig)]
TUNED = [name for name in NAMES if name.startswith("ft")]


def tiny(name: str, side: int = 16, **changes: Any) -> Recipe:
    """The recipe with a transformer of two blocks on 4 x 4 patches, and one step."""
    found = catalog.recipe(name)
    model = found.model
    assert isinstance(model, ImageSlotsConfig)
    small: dict[str, Any] = {
        "resolution": (side, side),
        "backbone": replace(
            model.backbone, size=16, depth=2, num_heads=2, patch_size=4, grid_size=3, pretrained=""
        ),
        "token_hidden": 11,
        "slot_size": 12,
        "corrector_mlp": 13,
    }
    decoder = vars(model)["decoder"]
    if not isinstance(decoder, AutoregressiveConfig):
        small["decoder"] = replace(decoder, hidden=(9, 10))
    optim = replace(found.optim, num_steps=4, warmup_steps=1)
    data = replace(found.data, resolution=side)
    train = replace(found.train, batch_size=2)
    config = replace(model, **{**small, **changes})
    return replace(found, model=config, optim=optim, data=data, train=train)


def images(side: int = 16) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {"video": torch.rand(2, 1, 3, side, side, generator=draw)}


def model_of(recipe: Recipe) -> ObjectCentricModel:
    model = catalog.build_seeded(recipe.model, 0)
    assert isinstance(model, ObjectCentricModel)
    add_teacher(model)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_a_step_moves_what_is_trained_and_nothing_else(name: str) -> None:
    recipe = tiny(name)
    model = model_of(recipe)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    step = TrainStep(model, recipe.optim, recipe.train, "cpu")
    model.train()
    sum(model.loss(images()).values(), torch.zeros(())).backward()
    frozen = {key for key, weight in model.named_parameters() if not weight.requires_grad}
    for key, weight in model.named_parameters():
        has = weight.grad is not None and bool(weight.grad.any())
        assert has or key in frozen, key
        assert not (weight.grad is not None and key in frozen), key
    model.zero_grad()
    backbone = {key for key in before if key.startswith("slot_encoder.encoder.backbone.")}
    teacher = {key for key in before if key.startswith("decoder.teacher.")}
    assert frozen == (teacher if name in TUNED else backbone) and bool(teacher) == (name in TUNED)
    for done in (1, 2):
        step(done, images())
    after = model.state_dict()
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert same - {"slot_encoder.corrector.norm_slots.bias"} == frozen


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_it_predicts_the_same_without_a_teacher(name: str, tmp_path: Path) -> None:
    recipe = tiny(name)
    model = model_of(recipe).eval()
    model.save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config == recipe.model
    assert not [key for key in loaded.state_dict() if "teacher" in key]
    batch = images() | {"noise": torch.randn(2, recipe.model.num_slots, 12)}
    ours, theirs = model.predict(batch), loaded.predict(batch)
    assert torch.equal(ours.masks, theirs.masks)
    assert ours.masks.shape == (2, 1, recipe.model.num_slots, 4, 4)
    assert torch.equal(ours.recon["features"], theirs.recon["features"])
    torch.testing.assert_close(ours.masks.sum(2), torch.ones(2, 1, 4, 4))
    (tmp_path / "recipe.json").write_text(to_json(recipe))
    assert catalog.read_recipe(tmp_path / "recipe.json") == recipe


def test_the_published_settings() -> None:
    rows = {}
    for name in NAMES:
        found = catalog.recipe(name)
        model, optim = found.model, found.optim
        decoder: Any = vars(model)["decoder"]
        rows[name] = (
            model.backbone.pretrained.partition("/")[2],
            model.resolution[0],
            (model.num_slots, model.slot_size, model.num_iterations),
            getattr(decoder, "hidden", None) or (decoder.num_layers, decoder.num_heads, decoder.masks),
            (found.train.batch_size, optim.num_steps, optim.warmup_steps, optim.max_grad_norm),
        )
        assert model.token_hidden == (2 if name in TUNED else 1) * model.backbone.size
        assert model.corrector_mlp == 4 * model.slot_size and found.data.num_frames == 1
        assert model.resolution == (found.data.resolution,) * 2
    wide, narrow, auto = (2048,) * 3, (1024,) * 3, "cross_attention"
    photos, voc, movi = (64, 500_000, 10_000, 1.0), (64, 300_000, 10_000, 1.0), (64, 500_000, 10_000, 1.0)
    first, second = (128, 300_000, 10_000, 0.1), (64, 10_000, 333, 0.1)
    assert rows == {
        "ftdinosaur_small_224": ("dinov2-small", 224, (7, 256, 3), wide, first),
        "ftdinosaur_base_224": ("dinov2-base", 224, (7, 256, 3), wide, first),
        "ftdinosaur_small_518": ("dinov2-small", 518, (7, 256, 3), wide, second),
        "ftdinosaur_base_518": ("dinov2-base", 518, (7, 256, 3), wide, second),
        "dinosaur_coco_mlp": ("dino-vitb16", 224, (7, 256, 3), wide, photos),
        "dinosaur_coco_auto": ("dino-vitb16", 224, (7, 256, 3), (4, 8, auto), photos),
        "dinosaur_coco_mlp_small": ("dino-vits16", 224, (7, 256, 3), wide, photos),
        "dinosaur_coco_auto_small": ("dino-vits16", 224, (7, 256, 3), (4, 8, auto), photos),
        "dinosaur_voc_mlp": ("dino-vitb16", 224, (6, 256, 3), wide, voc),
        "dinosaur_voc_auto": ("dino-vitb16", 224, (6, 256, 3), (4, 4, auto), voc),
        "dinosaur_movi_c_mlp": ("dino-vits8", 224, (11, 128, 3), narrow, movi),
        "dinosaur_movi_c_auto": ("dino-vits16", 224, (11, 128, 3), (4, 4, "slot_attention"), movi),
        "dinosaur_movi_e_mlp": ("dino-vits8", 224, (24, 128, 3), narrow, movi),
        "dinosaur_movi_e_auto": ("dino-vits16", 224, (24, 128, 3), (4, 4, "slot_attention"), movi),
    }


@pytest.mark.parametrize("name", TUNED)
def test_tuned_backbones_learn_more_slowly_the_deeper(name: str) -> None:
    found = catalog.recipe(name)
    optim = found.optim
    assert optim.learning_rate == pytest.approx(1e-4 * (found.train.batch_size / 64) ** 0.5)
    assert optim.backbone_learning_rate == pytest.approx(optim.learning_rate / 8)
    assert (optim.backbone_layer_decay, optim.backbone_weight_decay) == (0.85, 0.01)
    assert (optim.schedule, optim.min_learning_rate) == ("cosine_from_half", 1e-6)
    assert isinstance(found.model, FtDinosaurConfig) and found.model.backbone.trainable_from == 0
    assert found.model.decoder.top_k == 3


def test_frames_that_do_not_divide_and_too_few_slots_are_refused() -> None:
    with pytest.raises(UserError, match=r"Frames of \(225, 224\) do not divide into patches of 16 x 16"):
        DinosaurConfig(resolution=(225, 224))
    with pytest.raises(UserError, match=r"decoder\.top_k should lie between 0 and num_slots, got 3 and 2"):
        FtDinosaurConfig(num_slots=2)
    tiny("ftdinosaur_small_224", num_slots=2, decoder=replace(FtDinosaurConfig().decoder, top_k=0))


def test_other_decoders_survive_being_written(tmp_path: Path) -> None:
    recipe = catalog.recipe("dinosaur_coco_mlp")
    for decoder in (PerceptronConfig((3, 4)), AutoregressiveConfig(num_layers=2, masks="slot_attention")):
        changed = with_changes(recipe, **{"model.decoder": decoder})
        (tmp_path / "recipe.json").write_text(to_json(changed))
        assert catalog.read_recipe(tmp_path / "recipe.json") == changed


def test_more_slots_and_other_grids_are_decoded() -> None:
    model = model_of(tiny("ftdinosaur_small_224")).eval()
    found = model.predict({"video": torch.rand(1, 1, 3, 12, 28), "num_slots": 9})
    assert found.masks.shape == (1, 1, 9, 3, 7)
    assert (found.masks > 0).sum(2).unique().tolist() == [3]
    with pytest.raises(UserError, match=r"got 2 slots\. Use at least 3"):
        model.predict({"video": torch.rand(1, 1, 3, 16, 16), "num_slots": 2})


# ------------------------------------------------------------------------------------- the high-resolution stage


def test_the_second_stage_starts_from_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = tiny("ftdinosaur_small_224")
    trained = catalog.build_seeded(first.model, 5)
    assert isinstance(trained, ObjectCentricModel)
    trained.save_pretrained(tmp_path / "first")
    second = tiny("ftdinosaur_small_518", 24)
    original = catalog.build_seeded(first.model, 6).slot_encoder.encoder.backbone
    names = entries("dinov2", 2)
    stored = {entry.theirs: [] for entry in names}
    for entry in names:
        stored[entry.theirs].append(entry.write(original.state_dict()[entry.ours]))
    joined = {entry.theirs: torch.cat(stored[entry.theirs], entry.axis) for entry in names}
    torch.save(joined, tmp_path / "original.pth")
    recipe, model = assemble(
        second, tmp_path / "run", init=tmp_path / "first", backbone=tmp_path / "original.pth"
    )
    assert recipe == second and isinstance(model, ObjectCentricModel)
    said = capsys.readouterr().err
    assert "decoder.renderer.positions resampled from 4 x 4 to 6 x 6 patches" in said
    decoder = model.decoder
    assert isinstance(decoder, FeatureDecoder) and isinstance(decoder.renderer, PerceptronRenderer)
    old, tables = trained.state_dict(), "decoder.renderer.positions.table"
    for key, value in model.state_dict().items():
        if key != tables and "teacher" not in key:
            assert torch.equal(value, old[key]), key
    maps = old[tables].T.reshape(1, 12, 4, 4)
    expected = torch.nn.functional.interpolate(maps, (6, 6), mode="bicubic", antialias=True)
    assert torch.equal(decoder.renderer.positions.table, expected[0].flatten(1).T)
    teacher = model.state_dict()
    for key, value in original.state_dict().items():
        assert torch.equal(teacher[f"decoder.teacher.1.{key}"], value), key
    kernel = "patch.weight"
    assert not torch.equal(old[f"slot_encoder.encoder.backbone.{kernel}"], original.state_dict()[kernel])


def test_a_start_of_another_size_takes_what_fits_and_names_the_rest() -> None:
    trained, model = (model_of(tiny("ftdinosaur_small_224", slot_size=size)) for size in (12, 14))
    trained = catalog.build(trained.config)
    theirs, before = trained.state_dict(), {name: value.clone() for name, value in model.state_dict().items()}
    (said,) = take_all(trained, model, "here")
    assert "here: of the new model's" in said and "do not fit and start untrained: " in said
    for name, value in model.state_dict().items():
        if "teacher" in name:
            continue
        fits = theirs[name].shape == value.shape
        assert torch.equal(value, theirs[name] if fits else before[name]), name
        assert fits != (f"{name} {list(value.shape)}, there {list(theirs[name].shape)}" in said), name
    savi = catalog.build(TINY)
    with pytest.raises(UserError, match=r"here does not fit the new model"):
        take_all(savi, torch.nn.Linear(3, 4), "here")


def test_a_run_goes_on_with_its_teacher_and_leaves_a_model_without(tmp_path: Path) -> None:
    root = extract_published("coco", tmp_path / "data")
    recipe = tiny("ftdinosaur_small_224")
    changes = {"train.compile": False, "train.num_workers": 0, "train.checkpoint_every": 2}
    recipe = with_changes(recipe, **changes, **{"data.label_size": 24, "evaluation.num_videos": 2})
    run, validation = tmp_path / "run", replace(recipe.data, keys=("video", "segmentations"))

    def train() -> dict[str, Tensor]:
        started, model = assemble(recipe, run)
        sets = (
            open_dataset("coco", root, "train", recipe.data, True),
            open_dataset("coco", root, "validation", validation, False),
        )
        result = loop.train(started, model, *sets, run, device="cpu", num_plots=1)
        assert result.step == 4 and 0 <= (result.metrics["mbo_frame"] or 0) <= 1
        return load_file(run / "model" / "model.safetensors")

    whole = train()
    assert not [name for name in whole if "teacher" in name]
    assert {"lr", "lr_backbone"} <= {name.removeprefix("train/") for name in read_log(run)[0]}
    shutil.rmtree(run / "checkpoints" / "step_0000004")
    shutil.rmtree(run / "model")
    resumed = train()
    assert resumed.keys() == whole.keys()
    for name, weight in whole.items():
        assert torch.equal(resumed[name], weight), name
    written = (run / "model" / "model.safetensors").stat().st_ino
    train()
    assert (
        run / "model" / "model.safetensors"
    ).stat().st_ino == written  # a finished run's model is left as it is

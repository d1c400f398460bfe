"""Training on frames of your own: their crop, and shapes that are not square."""

import json
from pathlib import Path

import numpy as np
import pytest

import torchslots
from tiny_models import tiny
from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.training.run import _on_own_files, catalog, with_changes

TINY = {
    "model.targets": ("video",),
    "model.conditioning": "learned",
    "model.num_slots": 3,
    "model.resolution": (16, 24),
    "model.decoder.grid": (4, 6),
    "data.keys": ("video",),
    "data.resolution": 16,
    "optim.num_steps": 1,
    "optim.warmup_steps": 1,
    "train.batch_size": 1,
    "train.precision": "fp32",
    "evaluation.split": "train",
    "evaluation.num_frames": 2,
}


def films(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in "ab":
        video.write_video(root / f"{name}.mp4", rng.integers(0, 256, (8, 40, 64, 3), np.uint8))
    return root


def test_frames_that_are_not_square_are_trained_on_or_refused_plainly(tmp_path):
    root = films(tmp_path / "data")
    with pytest.raises(
        UserError, match=r"frames of 16 x 24, .* central square.*--data.crop .*--data.resolution 16"
    ):
        torchslots.train("savi_demo", root, tmp_path / "run", dataset="folder", num_plots=0, **TINY)
    assert not (tmp_path / "run").exists()
    crop = {"data.crop": (4, 2, 32, 48)}
    result = torchslots.train(
        "savi_demo", root, tmp_path / "run", dataset="folder", num_plots=0, monitor="psnr", **TINY, **crop
    )
    assert result.step == 1
    saved = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert saved["data"]["crop"] == [4, 2, 32, 48]


def test_a_crop_of_other_frames_is_dropped_and_ones_own_is_kept():
    recipe = with_changes(catalog.recipe("savi_demo"), **{"data.dataset": "folder"})
    assert recipe.data.crop == (4, 6, 48, 48)
    assert _on_own_files(recipe, own_crop=False).data.crop is None
    assert _on_own_files(recipe, own_crop=True).data.crop == (4, 6, 48, 48)
    mine = with_changes(recipe, **{"data.crop": (0, 0, 100, 100)})
    assert _on_own_files(mine, own_crop=False).data.crop == (0, 0, 100, 100)


def test_frames_of_another_size_than_the_models_are_refused_before_a_run(tmp_path):
    root, square = films(tmp_path / "data"), {"model.resolution": (16, 16), "model.decoder.grid": (4, 4)}
    for changes, said in (
        (
            {"data.resolution": 12},
            r"of 16 x 16, and those of `folder` come as 12 x 12, .*--data.resolution 16",
        ),
        ({"data.crop": (0, 0, 40, 60)}, r"of 16 x 16, and those of `folder` come as 16 x 24"),
    ):
        with pytest.raises(UserError, match=said):
            torchslots.train(
                "savi_demo",
                root,
                tmp_path / "run",
                dataset="folder",
                num_plots=0,
                **{**TINY, **square, **changes},
            )
        assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"four numbers, top, left, height and width, got \(0, 0, 40\)"):
        with_changes(catalog.recipe("savi_demo"), **{"data.crop": (0, 0, 40)})


def test_own_frames_are_not_evaluated_by_a_model_of_another_shape(tmp_path):
    root, model = films(tmp_path / "data"), tiny("learned")
    with pytest.raises(UserError, match=r"built for frames of 16 x 24, and frames of your own are cut"):
        torchslots.evaluate(model, root, data="folder", split="train", num_workers=0)

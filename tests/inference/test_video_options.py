"""Options of evaluation that change how your own files are read."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import torchslots
from tiny_models import TINY
from torchslots.inference.evaluate import EvaluateOptions
from torchslots.inference.videos import settings_of
from torchslots.io import video
from torchslots.io.draw import PALETTE
from torchslots.io.errors import UserError
from torchslots.recipes.catalog import recipe
from torchslots.recipes.config import to_json
from torchslots.recipes.savi import DecoderConfig, build


@pytest.fixture
def model():
    torch.manual_seed(0)
    decoder = DecoderConfig(grid=(8, 8), channels=(8, 6), strides=(2, 2))
    return build(replace(TINY, resolution=(32, 32), decoder=decoder)).eval()


def test_void_and_odd_masks_are_options(model):
    keys = ("video", "segmentations", "boxes")
    data, _ = settings_of(None, model, EvaluateOptions(data="folder"), keys)
    assert (data.void_id, data.allow_odd_masks) == (255, False)
    options = EvaluateOptions(data="folder", void_id=-1, allow_odd_masks=True)
    data, _ = settings_of(None, model, options, keys)
    assert (data.void_id, data.allow_odd_masks) == (-1, True)


def test_a_crop_of_other_frames_is_not_used_on_your_own(model, tmp_path):
    (tmp_path / "recipe.json").write_text(to_json(recipe("savi_demo")))
    data, _ = settings_of(tmp_path, model, EvaluateOptions(), ("video",))
    assert data.crop == (4, 6, 48, 48)
    data, _ = settings_of(tmp_path, model, EvaluateOptions(data="folder"), ("video",))
    assert data.crop is None


def test_void_is_left_out_whatever_its_value(model, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    ids = np.zeros((2, 32, 32), np.uint8)
    ids[:, 4:14, 4:14], ids[:, 18:30, 10:28], ids[:, :, 30:] = 1, 2, 255
    found = []
    for value, void_id in ((255, None), (9, 9), (255, -1)):
        root = tmp_path / f"{value}_{void_id}"
        for t in range(2):
            video.write_png(root / "clip" / f"{t}.png", frames[t])
            plane = np.where(ids[t] == 255, value, ids[t])
            video.write_palette_png(root / "masks" / "clip" / f"{t}.png", plane, PALETTE)
        options = {"data": "folder", "split": "train", "num_workers": 0, "baseline": False, "num_plots": 0}
        found.append(torchslots.evaluate(model, root, void_id=void_id, **options).metrics["miou"])
    assert found[0] == found[1] != found[2]


def test_spoiled_masks_stop_an_evaluation(model, tmp_path):
    video.write_png(tmp_path / "clip.png", np.zeros((32, 32, 3), np.uint8))
    noise = np.random.default_rng(0).integers(0, 90, (32, 32), np.uint8)
    video.write_png(tmp_path / "masks" / "clip.png", noise)
    options = {"data": "folder", "split": "train", "num_workers": 0, "baseline": False, "num_plots": 0}
    with pytest.raises(UserError, match=r"ids, \d+ of them on scattered pixels.*--allow-odd-masks"):
        torchslots.evaluate(model, tmp_path, **options)
    assert torchslots.evaluate(model, tmp_path, allow_odd_masks=True, **options)

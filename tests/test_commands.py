"""Lines of commands: what each calls with what, and what it says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.movi_files import copy_movi
from tiny_models import TINY
from torchslots import video
from torchslots.cli import main
from torchslots.hub import save_pretrained
from torchslots.recipes import savi
from torchslots.recipes.savi import DecoderConfig

SIDE = 32


@pytest.fixture
def model(tmp_path) -> Path:
    torch.manual_seed(0)
    decoder = DecoderConfig(grid=(8, 8), channels=(8, 6), strides=(2, 2))
    config = replace(TINY, resolution=(SIDE, SIDE), decoder=decoder, targets=("flow", "video"))
    return save_pretrained(savi.build(config), config, tmp_path / "model")


@pytest.fixture
def movi(tmp_path) -> Path:
    copy_movi("a", tmp_path / "data")
    return tmp_path / "data"


def evaluate(model: Path, movi: Path, out: Path, *more: str) -> int:
    words = ["evaluate", str(model), "--root", str(movi), "--data", "movi_a", "--split", "train"]
    return main([*words, "--num-workers", "0", "--out", str(out), *more])


def test_what_is_predicted_unseen_is_judged(model, movi, tmp_path, capsys):
    assert evaluate(model, movi, tmp_path / "out", "--observe", "3", "--rollout", "4") == 0
    said = capsys.readouterr().out
    assert "3 frames seen, 4 predicted" in said and "dB" in said and "last frame repeated" in said
    told = json.loads((tmp_path / "out" / "horizon.json").read_text())
    assert {"fg_ari", "psnr_flow", "psnr_video", "copy_fg_ari"} <= set(told["metrics"])
    assert all(len(curve) == 4 for curve in told["curves"].values())
    assert video.read_image(tmp_path / "out" / "horizon_fg_ari.png").shape[2] == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--observe", "0"], "--observe of 1 or more"),
        (["--rollout", "4"], "--observe of 1 or more"),
        (["--observe", "2", "--rollout", "0"], "--rollout of 1 or more"),
        (["--observe", "500"], "Cannot observe 500 frames"),
    ],
)
def test_horizons_that_cannot_be_are_refused(model, movi, tmp_path, capsys, words, says):
    assert evaluate(model, movi, tmp_path / "out", *words) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()

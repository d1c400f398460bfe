"""`torchslots data prepare --features` and the training on what it wrote."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from torchslots.cli import main
from torchslots.convert.layouts import to_theirs
from torchslots.convert.originals import vit as timm_names
from torchslots.models.backbones.vit import ViT
from torchslots.models.weights import digest
from torchslots.recipes.backbones import TINY_VIT, build_backbone
from training.stored_features import built, movi, tiny

TINY = "--evaluation.split train --train.batch-size 2 --device cpu".split()


def prepare(root: Path, out: Path, *words: str, recipe: str = "videosaur_demo") -> int:
    line = ["data", "prepare", "movi_a", "--features", recipe, "--root", str(root), "--out", str(out)]
    return main([*line, *TINY, *words])


def _backbone(file: Path, seed: int = 1, **changes: int) -> Path:
    """A file with another tiny transformer's weights, by timm's names."""
    config = replace(TINY_VIT, **changes)
    torch.manual_seed(seed)
    arrays = to_theirs(timm_names.leaves(config, "", ""), build_backbone(config).state_dict())
    save_file({name: torch.from_numpy(array).contiguous() for name, array in arrays.items()}, file)
    return file


def test_sizes_are_told_and_asked_for(tmp_path: Path, capsys, monkeypatch):
    root, out = movi(tmp_path / "data"), tmp_path / "out"
    assert prepare(root, out) == 2
    said = capsys.readouterr()
    assert "there is no terminal. Give --yes to begin." in said.err and not out.exists()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert prepare(root, out) == 1 and not out.exists()
    said = capsys.readouterr().out
    assert "Nothing was written." in said
    size = 96 * 2 * 64 * 24 * 2
    assert (
        f"{size:,} bytes, features and keys of 96 frames in 4 videos, 8 x 8 patches x 24 in float16." in said
    )
    assert "A training step is up to 1.2 times as fast" in said and f"{size // 12:,} bytes for each" in said
    assert "no clip is mirrored (from frames 50% of them are)" in said
    monkeypatch.setattr("builtins.input", lambda question: "yes")
    assert prepare(root, out) == 0
    assert f"{out}/train_features: 4 videos" in capsys.readouterr().out
    monkeypatch.setattr("builtins.input", lambda question: pytest.fail("asked again"))
    assert prepare(root, out) == 0


def test_stored_and_trained(tmp_path: Path, capsys):
    root, out, run = movi(tmp_path / "data"), tmp_path / "out", tmp_path / "run"
    assert prepare(root, out, "--yes") == 0
    assert "Next: torchslots train videosaur_demo --data prepared --root" in capsys.readouterr().out
    words = f"train videosaur_demo --data prepared --root {out} --run {run} --optim.num-steps 2".split()
    assert main([*words, *TINY, "--evaluation.num-frames", "4", "--num-plots", "0"]) == 0
    said = capsys.readouterr()
    assert "the backbone is not run. Without frames no clip is mirrored" in said.err
    assert json.loads((run / "model" / "config.json").read_text())["family"] == "videosaur"
    assert (
        main([*f"evaluate {run} --root {root} --data movi_a --device cpu".split(), "--num-plots", "0"]) == 0
    )


def test_given_weights_and_weights_that_do_not_fit(tmp_path: Path, capsys):
    root, out = movi(tmp_path / "data"), tmp_path / "out"
    other = _backbone(tmp_path / "other.safetensors")
    assert prepare(root, out, "--yes", "--backbone", str(other)) == 0
    words = f"train videosaur_demo --data prepared --root {out} --run {tmp_path / 'run'} --optim.num-steps 1".split()
    words += [*TINY, "--train.eval-every", "0", "--evaluation.num-frames", "2", "--num-plots", "0"]
    capsys.readouterr()
    assert main(words) == 2
    assert "features of another backbone" in capsys.readouterr().err
    assert main([*words, "--backbone", str(other)]) == 0
    capsys.readouterr()
    assert prepare(root, out, "--yes") == 2
    assert "features with `backbone` =" in capsys.readouterr().err
    wide = _backbone(tmp_path / "wide.safetensors", size=32)
    assert prepare(root, tmp_path / "wide", "--yes", "--backbone", str(wide)) == 2
    said = capsys.readouterr().err
    assert str(wide) in said and "Traceback" not in said and not (tmp_path / "wide").exists()


def test_the_backbone_of_a_trained_model(tmp_path: Path, capsys):
    root, out = movi(tmp_path / "data"), tmp_path / "out"
    model = built(tiny(**{"train.seed": 3}))
    model.save_pretrained(tmp_path / "model")
    assert prepare(root, out, "--yes", "--model", str(tmp_path / "model")) == 0
    made = json.loads((out / "train_features" / "meta.json").read_text())["made_for"]
    vit = next(part for part in model.modules() if isinstance(part, ViT))
    assert made["backbone"] == digest(vit.state_dict()) and torch.is_tensor(vit.positions)
    both = ("--model", str(tmp_path / "model"), "--backbone", str(tmp_path / "x"))
    assert prepare(root, tmp_path / "o2", "--yes", *both) == 2
    assert "--model and --backbone both give" in capsys.readouterr().err
    built(tiny(**{"model.backbone.depth": 3})).save_pretrained(tmp_path / "deep")
    assert prepare(root, tmp_path / "o3", "--yes", "--model", str(tmp_path / "deep")) == 2
    assert "is not that of videosaur_demo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("savi_demo", "savi_demo has no frozen vision transformer"),
        ("ftdinosaur_small_224", "tunes its vision transformer"),
        ("videosaur_dem", "videosaur_demo"),
        ("--yes", "--features needs a recipe"),
    ],
)
def test_recipes_whose_features_cannot_be_stored(tmp_path: Path, capsys, recipe: str, message: str):
    assert prepare(movi(tmp_path / "data"), tmp_path / "out", recipe=recipe) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and not (tmp_path / "out").exists()


def test_help_tells_the_gain_and_what_is_lost(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main(["data", "prepare", "--features", "slotcontrast_demo", "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    told = ("6.6 times as fast for videosaur_movi_c", "What is sampled in frames is lost", "--yes")
    assert all(part in said for part in told)
    with pytest.raises(SystemExit):
        main(["data", "prepare", "--help"])
    assert "--features RECIPE" in " ".join(capsys.readouterr().out.replace("│", " ").split())

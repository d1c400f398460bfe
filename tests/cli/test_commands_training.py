"""Training on the command line in one step and in two, small enough for seconds."""

import json
from pathlib import Path

import pytest

from data.movi_files import copy_movi
from torchslots.cli import main
from torchslots.io.run_log import read_log
from torchslots.models.weights import save_pretrained
from torchslots.recipes import catalog
from training.two_steps import DVAE, SLOTDIFFUSION, VQVAE

SIDE = "16"
VQ = (
    "--model.channels 4 --model.multipliers 1 2 --model.num-blocks 1 --model.num-groups 2 --model.num-codes 8 "
    "--model.no-perceptual --model.resolution 16 16"
).split()
SD = (
    "--model.slots.resolution 16 16 --model.tokenizer.resolution 16 16 --model.slots.encoder.channels 4 4 "
    "--model.slots.token-size 8 --model.slots.slot-size 8 --model.slots.num-slots 3 --model.slots.mlp-size 8 "
    "--model.slots.predictor.num-heads 2 --model.slots.predictor.mlp-size 8 --model.unet.channels 32 32 "
    "--model.unet.attention False True --model.unet.blocks-per-level 1 --model.unet.head-size 16 "
    "--model.sampling.num-steps 2"
).split()


@pytest.fixture
def movi(tmp_path: Path) -> Path:
    copy_movi("a", tmp_path / "data")
    return tmp_path / "data"


def train(recipe: str, movi: Path, run: Path, *more: object, steps: int = 2) -> int:
    data = f"--root {movi} --run {run} --data movi_a --data.resolution {SIDE} --device cpu --draw 1".split()
    run_pass = "--evaluation.split train --evaluation.num-frames 2 --evaluation.num-videos 500".split()
    how = f"--train.batch-size 2 --train.num-workers 0 --train.log-every 1 --optim.num-steps {steps}".split()
    return main(["train", recipe, *data, *run_pass, *how, *map(str, more)])


def test_two_steps_and_both_judged(movi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vqvae, slots = tmp_path / "vqvae", tmp_path / "slots"
    assert train("vqvae_movi_solid", movi, vqvae, *VQ) == 0
    said = capsys.readouterr().out
    assert f"Then: torchslots train slotdiffusion_movi_solid --tokenizer {vqvae}" in said
    last = read_log(vqvae)[-1]
    assert last["eval/psnr"] > 0 and (vqvae / "pictures" / "step_2.png").is_file()
    assert main(["evaluate", str(vqvae), "--root", str(movi), "--num-workers", "0", "--draw", "1"]) == 0
    assert "dB" in capsys.readouterr().out
    told = json.loads((vqvae / "eval" / "eval.json").read_text())
    assert told["metrics"]["psnr"] == pytest.approx(last["eval/psnr"]) and told["num_videos"] == 4
    assert (vqvae / "eval" / "video_0.mp4").is_file()
    assert train("slotdiffusion_movi_solid", movi, slots, *SD, "--tokenizer", vqvae) == 0
    numbers = json.loads((slots / "recipe.json").read_text())["model"]["tokenizer"]
    assert numbers == json.loads((vqvae / "recipe.json").read_text())["model"]
    assert train("slotdiffusion_movi_solid", movi, slots, *SD) == 0  # finished: nothing more is needed
    assert "is finished" in capsys.readouterr().err


def test_without_a_tokenizer_nothing_begins(
    movi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("slotdiffusion_movi_solid", movi, tmp_path / "run", *SD) == 2
    said = capsys.readouterr().err
    assert "torchslots train vqvae_movi_solid --root DIR --run-dir RUN" in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--tokenizer", "--slot-encoder"])
def test_parts_that_are_not_there_are_told(
    flag: str, movi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SD, "--tokenizer", save_pretrained(catalog.build(VQVAE), VQVAE, tmp_path / "vqvae"), flag]
    assert train("slotdiffusion_movi_solid", movi, tmp_path / "run", *words, tmp_path / "nothing") == 2
    assert f"{tmp_path / 'nothing'} does not exist" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert train("slotdiffusion_movi_solid", movi, tmp_path / "run", *words, tmp_path / "empty") == 2
    assert "has no model.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_wrong_tokenizer_names_the_right_one(
    movi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dvae = save_pretrained(catalog.build(DVAE), DVAE, tmp_path / "dvae")
    assert train("slotdiffusion_movi_solid", movi, tmp_path / "run", *SD, "--tokenizer", dvae) == 2
    assert "family dvae; slotdiffusion_movi_solid needs one of the family vqvae" in capsys.readouterr().err


def test_slots_are_given_to_another_system(movi: Path, tmp_path: Path) -> None:
    vqvae = save_pretrained(catalog.build(VQVAE), VQVAE, tmp_path / "vqvae")
    slots = save_pretrained(catalog.build(SLOTDIFFUSION), SLOTDIFFUSION, tmp_path / "slots")
    words = [*SD, "--tokenizer", vqvae, "--slot-encoder", slots, "--model.slots.num-slots", "5"]
    assert train("slotdiffusion_movi_solid", movi, tmp_path / "run", *words, steps=1) == 0
    numbers = json.loads((tmp_path / "run" / "recipe.json").read_text())["model"]["slots"]
    assert numbers["num_slots"] == SLOTDIFFUSION.slots.num_slots == 3


def test_an_image_code_predicts_nothing(
    movi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vqvae = save_pretrained(catalog.build(VQVAE), VQVAE, tmp_path / "vqvae")
    line = ["evaluate", str(vqvae), "--root", str(movi), "--data", "movi_a", "--split", "train"]
    assert main([*line, "--observe", "2"]) == 2
    assert "no slots that could predict" in capsys.readouterr().err


def test_the_split_to_train_on_can_be_chosen(
    movi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("vqvae_movi_solid", movi, tmp_path / "run", *VQ, "--data.train-split", "validation") == 2
    assert "`validation` are missing" in " ".join(capsys.readouterr().err.split())
    out = ["--root", str(movi), "--out", str(tmp_path / "out")]
    assert main(["data", "prepare", "slot_attention_tetrominoes", *out, "--config.train-split", "train"]) == 2


def test_a_figure_that_is_not_there_cannot_be_watched(
    movi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("vqvae_movi_solid", movi, tmp_path / "run", *VQ, "--monitor", "fg_ari") == 2
    assert "There is no figure `fg_ari` to watch. There are: mse, psnr, ssim" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--optim.min-learning-rate 1", "optim.min_learning_rate should lie between 0"),
        ("--optim.decoder-learning-rate -1", "optim.decoder_learning_rate` should be a number of at least 0"),
        (
            "--optim.tokenizer-learning-rate nan",
            "optim.tokenizer_learning_rate` should be a number of at least 0",
        ),
        ("--optim.tokenizer-learning-rate 1", "trains nothing named `decoder.tokenizer.*`. Leave it out"),
        ("--train.compile True --device cpu", "there is no C++ compiler. Install it, or choose"),
        ("--optim.schedule exponential", "the exponential schedule has no minimum"),
    ],
)
def test_what_cannot_be_is_told(
    words: str,
    says: str,
    movi: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert train("vqvae_movi_solid", movi, tmp_path / "run", *VQ, *words.split()) == 2
    assert says in " ".join(capsys.readouterr().err.split())

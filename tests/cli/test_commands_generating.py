"""Commands with models that generate, small enough for seconds: judge, compose, concepts, predict, edit."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.movi_files import copy_movi
from inference.small_sets import painter
from recipes.shrunk import shrunk
from tiny_models import TINY
from torchslots.cli import main
from torchslots.io import video
from torchslots.models.model import ObjectCentricModel
from torchslots.models.weights import save_pretrained
from torchslots.recipes import catalog
from training.two_steps import MODELS, SIDE, VQVAE

SYSTEMS = ["steve", "slotdiffusion"]


@pytest.fixture
def movi(tmp_path: Path) -> Path:
    copy_movi("a", tmp_path / "data")
    return tmp_path / "data"


def saved(name: str, folder: Path) -> Path:
    model = painter(name)
    assert isinstance(model, ObjectCentricModel)
    return save_pretrained(model, MODELS[name], folder / name)


def line(command: str, model: Path, movi: Path, out: Path, *more: object) -> list[str]:
    data = ["--root", movi, "--data", "movi_a", "--split", "train", "--num-frames", 3, "--num-workers", 0]
    return [command, *map(str, [model, *data, "--out", out, *more])]


def told(file: Path) -> dict:
    return json.loads(file.read_text())


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {str(file.relative_to(folder)): video.read_image(file) for file in sorted(folder.rglob("*.png"))}


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHSLOTS_FEATURES", str(tmp_path / "features"))
    return tmp_path / "features"


@pytest.mark.parametrize("name", SYSTEMS)
def test_frames_are_judged_on_request(name, movi, tmp_path, no_cache, capsys):
    model = saved(name, tmp_path)
    assert main(line("evaluate", model, movi, tmp_path / "plain", "--draw", 0)) == 0
    plain = told(tmp_path / "plain" / "eval.json")
    assert "psnr" not in plain["metrics"] and "fg_ari_frame" in plain["metrics"]
    more = ["--recon", "--draw", 1, "--write-videos", tmp_path / "files", "--slice-size", 2]
    assert main(line("evaluate", model, movi, tmp_path / "out", *more)) == 0
    found = told(tmp_path / "out" / "eval.json")
    assert {"mse", "psnr", "ssim", "psnr_ceiling", "mse_ceiling", "fg_ari"} <= set(found["metrics"])
    assert found["metrics"]["fg_ari"] == pytest.approx(plain["metrics"]["fg_ari"])
    left_out = [note for note in found["notes"] if "is left out" in note]
    assert len(left_out) == 4 and all(str(no_cache) in note for note in left_out)  # LPIPS twice, FID, FVD
    assert not {"lpips_vgg", "lpips_alex", "fid", "fvd"} & set(found["metrics"])
    assert len(pictures(tmp_path / "files")) == 2 * 4 * 3
    assert (tmp_path / "out" / "video_0.mp4").is_file()
    assert "dB" in capsys.readouterr().out


@pytest.mark.parametrize("targets", [("flow", "video"), ("flow",)], ids=["frames", "flow"])
def test_models_that_paint_pixels_are_judged_where_they_paint_frames(
    targets, movi, tmp_path, no_cache, capsys
):
    decoder = replace(TINY.decoder, grid=(4, 4))
    config = replace(TINY, resolution=(SIDE, SIDE), targets=targets, decoder=decoder)
    model = save_pretrained(catalog.build_seeded(config, 0), config, tmp_path / "savi")
    words = line("evaluate", model, movi, tmp_path / "out", "--recon", "--draw", 0, "--no-baseline")
    if "video" not in targets:
        assert main(words) == 2
        assert "decodes flow, not frames" in capsys.readouterr().err
        return
    assert main(words) == 0
    metrics = told(tmp_path / "out" / "eval.json")["metrics"]
    assert {"mse", "psnr", "ssim", "fg_ari"} <= set(metrics) and "psnr_ceiling" not in metrics


def test_how_to_draw_is_said_on_the_line(movi, tmp_path, no_cache, capsys):
    model, figures = saved("slotdiffusion", tmp_path), []
    for words in (
        [],
        ["--paint.steps", 4],
        ["--paint.sampler", "ddim", "--paint.steps", 3, "--paint.snap", False],
    ):
        out = tmp_path / str(len(figures))
        assert (
            main(line("evaluate", model, movi, out, "--recon", "--num-videos", 1, "--draw", 0, *words)) == 0
        )
        figures.append(told(out / "eval.json"))
    assert len({found["metrics"]["mse"] for found in figures}) == 3
    assert len({found["metrics"]["mse_ceiling"] for found in figures}) == 1
    assert figures[2]["settings"]["sampling"] == {"sampler": "ddim", "steps": 3, "snap": False}
    for words, says in (
        (["--paint.temperature", 1], "`temperature` means nothing to it"),
        (["--recon", "--weights", "vgg16"], "--weights takes NAME=FILE"),
        (["--recon", "--weights", "vgg17=file"], "Did you mean vgg16?"),
        (["--recon", "--weights", f"vgg16={model / 'config.json'}"], "is not the published vgg16"),
    ):
        assert main(line("evaluate", model, movi, tmp_path / "out", *words)) == 2
        assert says in " ".join(capsys.readouterr().err.split())
    vqvae = save_pretrained(catalog.build(VQVAE), VQVAE, tmp_path / "vqvae")
    assert main(line("evaluate", vqvae, movi, tmp_path / "out", "--recon", "--draw", 0)) == 0
    assert main(line("evaluate", vqvae, movi, tmp_path / "out", "--paint.seed", 1)) == 2
    assert "leave --sampling.* out" in capsys.readouterr().err


def test_slots_are_composed(movi, tmp_path, no_cache, capsys):
    model = saved("steve", tmp_path)
    assert main(line("compose", model, movi, tmp_path / "out", "--write-videos", tmp_path / "files")) == 0
    said = capsys.readouterr().out
    assert "FVD is left out" in " ".join(said.split()) and "composed_0.mp4" in said.replace("\n", "")
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == ["comp_vids", "gt_vids"]
    shift = ["--reference-shift", "--published-order", "--write-videos", tmp_path / "shift", "--draw", 0]
    assert main(line("compose", model, movi, tmp_path / "out", *shift)) == 0
    assert (tmp_path / "shift" / "comp_vids" / "3" / "2.png").is_file()


def test_concepts_are_found(movi, tmp_path, capsys):
    model = saved("slotdiffusion", tmp_path)
    more = ["--num-concepts", 4, "--samples", 2, "--every", 1]
    assert main(line("concepts", model, movi, tmp_path / "out", *more)) == 0
    assert "4 concepts of 36 slots, and 2 images" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("library.json", "library.safetensors", "concepts.png", "samples.png", "samples")
    }


_TWO_PROCESSES = """
import json, os, sys
from torchslots.cli import main
for port, words in json.loads(sys.argv[1]):
    os.environ["MASTER_PORT"] = str(port)
    assert main(words) == 0
"""


@pytest.mark.slow
def test_several_processes_count_each_video_once(movi, tmp_path, no_cache):
    """Two processes write and find what one does."""
    model = saved("steve", tmp_path)

    def lines(folder: Path) -> list[list[str]]:
        more = ["--batch-size", 1, "--write-videos"]
        run_pass = line(
            "evaluate", model, movi, folder / "a", "--recon", "--draw", 0, *more, folder / "recon"
        )
        return [run_pass, line("compose", model, movi, folder / "b", *more, folder / "composed")]

    for words in lines(tmp_path / "one"):
        assert main(words) == 0
    program = [sys.executable, "-c", _TWO_PROCESSES]
    work = json.dumps([(_free_port(), words) for words in lines(tmp_path / "two")])
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [*program, work],
            env={**shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    for name in ("recon", "composed"):
        one, two = pictures(tmp_path / "one" / name), pictures(tmp_path / "two" / name)
        assert one.keys() == two.keys() and len(one) == 2 * 4 * 3
        assert all(np.array_equal(one[file], two[file]) for file in one)
    one, two = (told(tmp_path / number / "a" / "eval.json") for number in ("one", "two"))
    assert one["num_videos"] == two["num_videos"] == 4
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-6)
    one, two = (tmp_path / number / "b" for number in ("one", "two"))
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert video.frame_count(two / "composed_3.mp4") == 3


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def films(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        frames = (rng.integers(0, 256, (1, 1, 1, 3)) // 2 + rng.integers(0, 128, (4, 32, 32, 3))).astype(
            np.uint8
        )
        video.write_video(tmp_path / f"{name}.mp4", frames, 10)
    return [str(tmp_path / "one.mp4"), str(tmp_path / "two.mp4")]


@pytest.mark.parametrize("name", [*SYSTEMS, "savi_pytorch"])
def test_films_are_segmented(name, films, tmp_path, capsys):
    if name == "savi_pytorch":
        config = shrunk(catalog.recipe("savi_pytorch_movi_solid").model)
        model = save_pretrained(catalog.build_seeded(config, 0), config, tmp_path / name)
    else:
        model = saved(name, tmp_path)
    command = ["predict", str(model), films[0], "--out", str(tmp_path / "out"), "--slot-views"]
    assert main(command) == 0
    folder = tmp_path / "out" / "one"
    assert video.frame_count(folder / "slots.mp4") == 4 and not (folder / "recon.mp4").exists()
    if name != "savi_pytorch":
        assert main([*command, "--recon", "--slice-size", "3"]) == 0
        assert video.frame_count(folder / "recon.mp4") == 4


@pytest.mark.parametrize("name", SYSTEMS)
def test_frames_that_nobody_shows_are_painted(name, films, tmp_path):
    words = ["predict", str(saved(name, tmp_path)), films[0], "--out", str(tmp_path / "out"), "--recon"]
    assert main([*words, "--observe", "2", "--rollout", "3"]) == 0
    folder = tmp_path / "out" / "one"
    assert [video.frame_count(folder / f"{what}.mp4") for what in ("overlay", "slots", "recon")] == [5, 5, 5]


@pytest.mark.parametrize("name", SYSTEMS)
def test_masks_alone_are_cheap(name, films, tmp_path, monkeypatch):
    model = saved(name, tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("painted")

    decoder = type(painter(name).decoder)
    monkeypatch.setattr(decoder, "generate", refuse)
    assert main(["predict", str(model), films[0], "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize(
    "words", ["--remove 1", "--keep 0 2", "--swap 1 1 2 0"], ids=["remove", "keep", "swap"]
)
def test_edits_paint_the_frames_anew(name, words, films, tmp_path, capsys):
    model = saved(name, tmp_path)
    inputs = films if "swap" in words else films[:1]
    assert main(["edit", str(model), *inputs, "--out", str(tmp_path / "out"), *words.split()]) == 0
    assert "0 being the background" in capsys.readouterr().out
    for film in inputs:
        folder = tmp_path / "out" / Path(film).stem
        sheet = video.read_frames(folder / "edited.mp4").astype(int)
        assert len(sheet) == 4 and video.frame_count(folder / "slots.mp4") == 4
        cell = (sheet.shape[2] - 4) // 3
        before, after = (sheet[:, 22:-4, 4 + place * cell : place * cell + cell - 4] for place in (1, 2))
        assert np.abs(before - after).max() > 20


def test_ways_to_draw_reach_edits_and_predictions(films, tmp_path, capsys):
    model = saved("steve", tmp_path)
    for command in (["edit", "--remove", "1"], ["predict", "--recon"]):
        words = [command[0], str(model), films[0], "--out", str(tmp_path / "out"), *command[1:]]
        assert main([*words, "--paint.temperature", "1"]) == 0
        assert main([*words, "--paint.steps", "3"]) == 2
        assert "decodes codes one by one" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "edit", "compose", "concepts"])
def test_image_codes_have_no_slots(command, films, movi, tmp_path, capsys):
    vqvae = save_pretrained(catalog.build(VQVAE), VQVAE, tmp_path / "vqvae")
    if command in ("compose", "concepts"):
        words = line(command, vqvae, movi, tmp_path / "out")
    else:
        words = [command, str(vqvae), films[0], "--out", str(tmp_path / "out")]
    assert main(words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "a tokenizer, without slots" in said and "Traceback" not in said

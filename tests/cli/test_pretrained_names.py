"""Commands take the name of a published checkpoint in place of a folder; results go where they go for any model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import torchslots
from convert.file_server import FileServer, serving
from convert.published_cases import publish, write_zip
from data.movi_files import copy_movi
from torchslots.cli import main
from torchslots.convert.locations import cache_folder, converted_folder
from torchslots.data.download import http
from torchslots.io.encode import write_png
from torchslots.io.errors import UserError
from torchslots.recipes import catalog
from torchslots.training import run as training
from torchslots.training.loop import RunResult

STEVE, IMAGES, TOKENIZER = "mini_steve", "mini_object_discovery", "mini_vqvae"


@pytest.fixture
def server(golden, monkeypatch, tmp_path):
    """Three published checkpoints, an empty cache, and the test's folder as the current one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHSLOTS_FEATURES", str(tmp_path / "features"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(http, "_FIRST_PAUSE", 0.001)
    monkeypatch.chdir(tmp_path)
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        monkeypatch.setenv("TORCHSLOTS_MIRROR", found.address)
        for name in (STEVE, IMAGES, TOKENIZER):
            publish(name, golden, tmp_path, found, monkeypatch)
        recipe = catalog.recipe(STEVE)
        data = replace(recipe.data, dataset="movi_a", resolution=32)
        settings = replace(recipe.evaluation, split="train", num_frames=3)
        small = replace(recipe, data=data, evaluation=settings)
        monkeypatch.setitem(catalog.RECIPES, STEVE, lambda: small)
        yield found


def write_image(path: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    write_png(path, frames[0])
    return path


def test_predict_and_edit(server: FileServer, tmp_path, capsys):
    image = str(write_image(tmp_path / "photo.png"))
    assert main(["predict", IMAGES, image, "--out", "seen"]) == 0
    assert np.load(tmp_path / "seen" / "photo" / "slots.npz")["slots"].shape == (1, 4, 16)
    server.requests.clear()
    assert main(["edit", IMAGES, image, "--out", "edited", "--remove", "1"]) == 0
    assert not server.requests and list((tmp_path / "edited").rglob("*.png"))


def test_evaluate_takes_data_and_settings_from_the_recipe(server, tmp_path):
    copy_movi("a", tmp_path / "data")
    line = ["evaluate", STEVE, "--root", "data", "--num-plots", "0", "--num-workers", "0", "--no-baseline"]
    assert main(line) == 0
    found = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert 0 <= found["metrics"]["fg_ari"] <= 1 and found["num_videos"] == 4
    assert not (converted_folder(STEVE) / "eval").exists()


@pytest.mark.parametrize("command", ["compose", "concepts"])
def test_commands_over_a_data_set(server, tmp_path, command, capsys):
    copy_movi("a", tmp_path / "data")
    more = {"compose": ["--num-plots", "1"], "concepts": ["--num-concepts", "2", "--samples", "1"]}[command]
    line = [command, STEVE, "--root", "data", "--num-videos", "2", "--num-workers", "0"]
    assert main([*line, *more]) == 0, capsys.readouterr().err
    assert (tmp_path / command).is_dir() and not (cache_folder(STEVE) / command).exists()


def test_training_starts_from_published_parts(server, monkeypatch):
    taken: list[training.TrainOptions] = []

    def train(recipe, root, run, options):
        taken.append(options)
        return RunResult(run, 0, {}, None, None)

    monkeypatch.setattr(training, "train", train)
    parts = ["--tokenizer", TOKENIZER, "--slot-encoder", STEVE]
    assert main(["train", "slotdiffusion_movi_e", "--root", "data", "--run", "run", *parts]) == 0
    assert taken[0].tokenizer == str(converted_folder(TOKENIZER))
    assert taken[0].slot_encoder == str(converted_folder(STEVE))
    assert all((converted_folder(name) / "model.safetensors").is_file() for name in (TOKENIZER, STEVE))
    torchslots.train("steve_movi_e", "data", Path("run"), init=STEVE, num_plots=0)
    assert taken[1].init == str(converted_folder(STEVE)) and taken[1].num_plots == 0
    for part in ("tokenizer", "slot_encoder", "init"):
        with pytest.raises(UserError, match=f"no published checkpoint. .*{STEVE}"):
            torchslots.train("steve_movi_e", "data", "run", **{part: STEVE + "s"})


def test_get_says_where_it_is_and_how_to_load_it(server, capsys, tmp_path):
    assert main(["pretrained", "get", TOKENIZER]) == 0
    said = capsys.readouterr().out
    assert f"{TOKENIZER}: in {converted_folder(TOKENIZER)}" in said
    assert f'Load it: torchslots.load_tokenizer("{TOKENIZER}")' in said
    assert main(["pretrained", "list", TOKENIZER]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [TOKENIZER, "Data", "FG-ARI", "1.0", "yes"]


def test_an_archive_is_taken_whole(server, golden, monkeypatch, tmp_path, capsys):
    case = publish("mini_slotdiffusion", golden, tmp_path / "more", server, monkeypatch)
    contents = {"mini_params.pth": case.content, "unknown.pth": case.content}
    archive = write_zip(tmp_path / "downloaded.zip", contents)
    assert main(["pretrained", "get", "--file", str(archive)]) == 0
    said = capsys.readouterr().out
    assert "mini_slotdiffusion: in " in said and 'load_model("mini_slotdiffusion")' in said
    assert "unknown.pth: a checkpoint of SlotDiffusion that has no name here." in said


def test_a_mistyped_name_is_one_line(server, capsys):
    assert main(["predict", "slotcontrast_ytvs", "photo.png", "--out", "seen"]) == 2
    said = capsys.readouterr().err
    assert "Did you mean slotcontrast_ytvis" in said and len(said.splitlines()) == 1


def test_functions_take_the_names_that_commands_take(server, tmp_path):
    image = write_image(tmp_path / "photo.png")
    (folder,) = torchslots.predict(IMAGES, image, "seen")
    assert np.load(folder / "slots.npz")["slots"].shape == (1, 4, 16)
    copy_movi("a", tmp_path / "data")
    report = torchslots.evaluate(STEVE, "data", num_workers=0)
    assert report.num_videos == 4
    for call in (torchslots.predict, torchslots.evaluate):
        with pytest.raises(UserError, match=f"no published checkpoint. .*{IMAGES}"):
            call(IMAGES + "s", image, out="other")

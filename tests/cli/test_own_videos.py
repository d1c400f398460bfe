"""Your own videos: what `data inspect` says of them, a training without labels, the printed next commands, faults."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cli.own_films import TINY, moving, own_films
from data.movi_files import copy_movi
from torchslots.cli import main
from torchslots.data.sets.own_survey import explain_own_files, survey_own_files
from torchslots.io import video
from torchslots.io.run_log import read_log
from torchslots.recipes import catalog
from torchslots.training.own_files import sized_by_data


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return own_films(tmp_path / "my videos")


def commands(text: str) -> list[list[str]]:
    """The words behind `torchslots` of every printed command."""
    return [shlex.split(found) for found in re.findall(r"(?:Next|Then|Or): torchslots (.+)", text)]


def test_inspected_trained_and_evaluated_as_the_commands_are_printed(films, tmp_path, capsys):
    assert main(["data", "inspect", str(films)]) == 0
    ((*train, run),) = commands(capsys.readouterr().out)
    assert train[:5] == ["train", "slots_video", "--data", "folder", "--root"] and run == "runs/mine"
    steps = "--optim.num-steps 2 --train.eval-every 1 --train.short-steps 1".split()
    assert main([*train, run, *TINY, *steps]) == 0
    said = capsys.readouterr()
    assert "tensorboard --logdir runs/mine" in said.err

    errors = [record["eval/mse"] for record in read_log(Path(run)) if "eval/mse" in record]
    assert len(errors) == 2 and all(value > 0 for value in errors)
    board = EventAccumulator(str(tmp_path / run / "tensorboard"))
    board.Reload()
    tags = board.Tags()["scalars"]
    assert min(tags) == "best_metric/mse", "TensorBoard sorts groups by name"
    assert [scalar.value for scalar in board.Scalars("best_metric/mse")] == pytest.approx(errors)
    assert (tmp_path / run / "best" / "model.safetensors").is_file()
    card = (tmp_path / run / "model" / "README.md").read_text()
    assert "Trained on `folder`" in card and card.count("## Figures") == 1 and "## Licence" in card

    evaluate, predict = commands(said.out)
    assert evaluate[0] == "evaluate" and predict[0] == "predict"
    assert main(evaluate) == 0
    told = json.loads((tmp_path / run / "eval" / "eval.json").read_text())
    assert told["metrics"]["mse"] == pytest.approx(errors[-1], rel=1e-4)
    assert main(predict) == 0
    assert list((tmp_path / "seen").rglob("overlay.*"))


def test_the_recipe_for_own_videos_trains_on_a_published_set(tmp_path, capsys):
    copy_movi("a", tmp_path)
    where = ["--data", "movi_a", "--root", str(tmp_path), "--run", str(tmp_path / "run")]
    steps = "--optim.num-steps 1 --train.short-steps 1 --num-plots 0".split()
    steps += "--evaluation.num-frames 2 --evaluation.split train".split()
    assert main(["train", "slots_video", *where, *TINY, *steps]) == 0
    assert [found[0] for found in commands(capsys.readouterr().out)] == ["evaluate"]


@pytest.mark.slow
def test_the_model_in_the_package_goes_on_with_own_films(films, capsys):
    command = (
        "train slots_sim --data folder --run-dir runs/tuned --model.targets video --model.target-weights 20 "
        "--init slots_sim --optim.num-steps 1 --train.batch-size 2 --train.num-workers 0 --num-plots 0"
    )
    assert main([*command.split(), "--root", str(films)]) == 0
    (evaluate,) = commands(capsys.readouterr().out)
    assert main(evaluate) == 0


def test_what_is_used_and_what_not_and_why(films):
    (films / "notes.txt").write_text("mine")
    (films / "empty").mkdir()
    text = "\n".join(explain_own_files(films))
    assert "Used: 7 clips (5 videos, 1 single image, 1 folder of frames)." in text
    assert "a clip has 1 to 12" in text and "48 x 32 (1)" in text
    assert "33 % at the sides is not" in text
    assert "Left out: empty (no images or videos in it)." in text and "notes.txt" not in text
    (films / "broken.mp4").write_bytes(b"no film at all" * 50)
    (films / "song.xyz").write_bytes(b"?")
    text = "\n".join(explain_own_files(films))
    assert re.search(r"Cannot be read: broken.mp4: .*broken.mp4 cannot be read as a video", text)
    assert "Of unknown kind: song.xyz." in text and "Next" not in text
    assert "Training does not begin beside files of unknown kind" in text


def test_held_out_films_are_always_the_same(films):
    train, held_out = (survey_own_files(films).splits[split] for split in ("train", "validation"))
    assert len(held_out) == 1 and not set(train) & set(held_out) and len(train) + len(held_out) == 7
    before = held_out
    video.write_video(films / "later.mp4", moving(3, 16, 16))
    assert set(survey_own_files(films).splits["validation"]) in ({*before}, {films / "later.mp4"})


def test_photos_in_a_folder_are_told_from_frames(tmp_path):
    for index, size in enumerate((20, 24, 30)):
        video.write_png(tmp_path / "holiday" / f"{index}.png", np.zeros((size, 20, 3), np.uint8))
    assert "holiday holds images of several sizes" in "\n".join(explain_own_files(tmp_path))


def test_sizes_follow_the_data(films, tmp_path):
    recipe = catalog.recipe("slots_video")
    fitted = sized_by_data(recipe, films, tmp_path / "run", False)
    longest = survey_own_files(films).longest("validation")
    assert (fitted.data.num_frames, fitted.evaluation.num_frames) == (6, longest)
    for index in range(3):
        video.write_png(tmp_path / "photos" / f"{index}.png", np.zeros((20, 20, 3), np.uint8))
    images = sized_by_data(recipe, tmp_path / "photos", tmp_path / "run", False)
    assert (images.data.num_frames, images.train.batch_size) == (1, 4 * recipe.train.batch_size)
    assert sized_by_data(catalog.recipe("savi_small"), films, tmp_path / "run", False) == catalog.recipe(
        "savi_small"
    )


def test_clips_for_evaluation_that_are_all_broken_are_told_before_the_first_step(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for split, content in (("train", None), ("validation", b"no film" * 9)):
        for index in range(2):
            film = tmp_path / "my films" / split / f"{index}.mp4"
            video.write_video(film, moving(3, 16, 16, index))
            if content:
                film.write_bytes(content)
    root = tmp_path / "my films"
    words = ["train", "slots_video", "--root", root, "--run-dir", tmp_path / "run", *TINY, "--skip-corrupt"]
    said = failed(capsys, *words)
    assert "None of the clips to evaluate on can be read" in said and shlex.quote(str(root)) in said
    assert not (tmp_path / "run").exists()
    assert main(["data", "inspect", str(root)]) == 0
    told = capsys.readouterr().out
    assert "Trained on: 2 clips" in told and "No held-out clip can be read" in told


def test_films_that_come_later_do_not_stop_a_run(tmp_path, capsys):
    for index in range(3):
        video.write_video(tmp_path / "v" / f"{index}.mp4", moving(3, 16, 16, index))
    words = ["train", "slots_video", "--root", str(tmp_path / "v"), "--run-dir", str(tmp_path / "run"), *TINY]
    assert main([*words, "--optim.num-steps", "1"]) == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["data"]["num_frames"] == 3
    video.write_video(tmp_path / "v" / "longer.mp4", moving(9, 16, 16))
    assert main([*words, "--optim.num-steps", "2"]) == 0
    assert "2 steps done" in capsys.readouterr().out


def failed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a command says on its failure."""
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err.strip()
    last = said.splitlines()[-1]
    assert last.startswith("torchslots ") and "Traceback" not in said
    return last


@pytest.mark.parametrize("command", ["train", "inspect"])
def test_a_film_that_is_none_an_unknown_kind_and_an_empty_folder(tmp_path, capsys, command):
    root, run = tmp_path / "v", tmp_path / "run"
    head = (
        ["train", "slots_video", "--run-dir", run, *TINY, "--root"]
        if command == "train"
        else ["data", "inspect"]
    )
    root.mkdir()
    assert "is empty: no image, video or folder of images" in failed(capsys, *head, root)
    (root / "film.mp4").write_text("these are words, no film")
    said = failed(capsys, *head, root)
    assert "film.mp4 cannot be read as a video" in said
    (root / "film.mp4").unlink()
    (root / "clip.prores").write_bytes(b"?")
    assert re.search(r"clip.prores is no image or video by name", failed(capsys, *head, root))
    assert "nowhere" in failed(capsys, *head, tmp_path / "nowhere")
    assert not run.exists() and [path.name for path in root.iterdir()] == ["clip.prores"]


def test_a_file_of_unknown_kind_beside_clips_is_told_once(tmp_path, capsys):
    root = tmp_path / "v"
    root.mkdir()
    video.write_png(root / "one.png", np.zeros((8, 8, 3), np.uint8))
    (root / "clip.prores").write_bytes(b"?")
    assert main(["data", "inspect", str(root), "--out", str(tmp_path / "sheet.png")]) == 0
    said = capsys.readouterr().out
    assert said.count("clip.prores") == 1 and "not read beside files of unknown kind" in said
    assert "Used: 1 clip (1 single image)" in said


def test_a_file_where_the_run_should_be(films, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    said = failed(
        capsys, "train", "slots_video", "--root", films, "--run-dir", tmp_path / "taken" / "run", *TINY
    )
    assert "taken" in said and (tmp_path / "taken").read_text() == "mine"

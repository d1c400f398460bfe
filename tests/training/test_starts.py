"""What a start leaves behind: nothing where it fails, and a finished run's models where one is missing."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from torchslots.evaluation import evaluate as passes
from torchslots.io.errors import UserError
from torchslots.recipes import catalog
from torchslots.training import checkpoint, loop
from torchslots.training.run import train as train_recipe
from training.tiny_run import TinyClips, TinyModel, same, tiny_evaluate, tiny_recipe, train, weights


@pytest.fixture(autouse=True)
def _quick_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "evaluate", tiny_evaluate)


class Broken(TinyClips):
    """Clips of which the first cannot be read."""

    def sample(self, index, rng):
        raise UserError("this clip cannot be read")


@pytest.mark.parametrize(
    "wrong",
    [
        {"clips": Broken()},
        {"clips": TinyClips(0)},
        {"eval_set": Broken()},
        {"device": "cuda:99"},
        {"wandb": True},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_failed_start_leaves_no_folder(
    tmp_path: Path, wrong: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr("torchslots.training.log.find_spec", lambda name: None)
    settings = {"device": "cpu", "eval_set": None, "clips": TinyClips(), **wrong}
    clips, eval_set = settings.pop("clips"), settings.pop("eval_set")
    with pytest.raises(UserError):
        loop.train(tiny_recipe(2), TinyModel(), clips, eval_set, run, **settings)
    assert not run.exists()
    train(tiny_recipe(3), run)
    assert checkpoint.list_steps(run) == [3]


def test_missing_data_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing does not exist"):
        train_recipe(catalog.recipe("savi_demo"), tmp_path / "nothing", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_failed_start_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="cannot be read"):
        train(tiny_recipe(2), tmp_path, Broken())
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "recipe.json").exists()


@pytest.mark.parametrize("damage", ["missing", "older", "truncated", "without config"])
@pytest.mark.parametrize("folder", ["model", "best"])
def test_a_finished_run_writes_its_models_again(tmp_path: Path, folder: str, damage: str) -> None:
    recipe = tiny_recipe(8, ema=0.5, eval_every=2)
    train(recipe, tmp_path, eval_set=TinyClips(4))
    file = tmp_path / folder / "model.safetensors"
    wanted = file.read_bytes()
    if damage == "without config":
        (tmp_path / folder / "config.json").unlink()
    elif damage == "truncated":
        file.write_bytes(wanted[:100])
    elif damage == "older":
        TinyModel(seed=3).save_pretrained(tmp_path / folder)
    else:
        file.unlink()
    result = train(recipe, tmp_path, eval_set=TinyClips(4))
    assert (result.step, result.best_step) == (8, result.best_step)
    assert file.read_bytes() == wanted and (tmp_path / folder / "config.json").exists()


def test_a_finished_run_with_its_models_is_left_alone(tmp_path: Path) -> None:
    train(tiny_recipe(2), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    train(tiny_recipe(2), tmp_path)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    lock = tmp_path / ".lock"
    assert {**before, lock: 0} == {**after, lock: 0}


def test_an_evaluation_without_the_watched_figure_saves_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no figure `nonsense`"):
        train(tiny_recipe(4, eval_every=3), tmp_path, eval_set=TinyClips(4), monitor="nonsense")
    assert checkpoint.list_steps(tmp_path) == [3]
    train(tiny_recipe(4, eval_every=3), tmp_path, eval_set=TinyClips(4))
    train(tiny_recipe(4, eval_every=3), tmp_path / "other", eval_set=TinyClips(4))
    assert same(weights(tmp_path), weights(tmp_path / "other"))


def test_weights_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    small = catalog.recipe("savi_demo").model
    before = os.umask(0o027)
    try:
        torch.manual_seed(0)
        catalog.build(replace(small)).save_pretrained(tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    assert set(modes.values()) == {"0o640"}, modes

"""Recipes as YAML and JSON files: equal round trips, changes of a recipe, and errors with key and line."""

import json
import re
from pathlib import Path

import pytest

from torchslots.cli import main
from torchslots.io.errors import UserError
from torchslots.io.yaml_files import read_settings
from torchslots.recipes import catalog
from torchslots.recipes.config import to_json
from torchslots.recipes.recipe_files import read_recipe_file, recipe_yaml

NAMES = ("savi_small", "savi_plus_plus", "slots_video", "slotdiffusion_movi_e", "videosaur_ytvis", "isa_demo")
BASE = "base: savi_small\n"


def saved(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_comes_back_equal(tmp_path: Path, name: str) -> None:
    recipe = catalog.recipe(name)
    assert read_recipe_file(saved(tmp_path / "r.yaml", recipe_yaml(recipe))) == recipe
    assert read_recipe_file(saved(tmp_path / "r.json", to_json(recipe))) == recipe


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_what_recipes_prints_is_what_train_reads(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", "savi_small", f"--{kind}"]) == 0
    file = saved(tmp_path / f"my.{kind}", capsys.readouterr().out)
    assert read_recipe_file(file) == catalog.recipe("savi_small")
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(file), "--help"])
    assert stopped.value.code == 0 and "--model.num-slots" in capsys.readouterr().out


def test_what_differs_from_a_recipe(tmp_path: Path) -> None:
    text = BASE + "name: mine\nmodel: {num_slots: 5, resolution: [32, 32], decoder: {grid: [4, 4]}}\n"
    text += "optim:\n  learning_rate: 2e-4  # a number in YAML 1.2\n"
    found = read_recipe_file(saved(tmp_path / "m.yml", text))
    assert found.name == "mine" and found.optim.learning_rate == 2e-4
    assert json.loads(to_json(found))["model"]["decoder"]["grid"] == [4, 4]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            BASE + "model:\n  slots: 3\n",
            r", line 3: `model.slots`: SaviConfig has no field `slots`. Did you mean",
        ),
        (
            BASE + "optim:\n  learning_rate: fast\n",
            r", line 3: `optim.learning_rate`: .* should be float, got 'fast'",
        ),
        (
            BASE + "\noptim:\n  num_steps: -1\n",
            r", line 4: `optim.num_steps`: .* whole number of at least 1, got -1",
        ),
        ("base: savi_smal\n", r", line 1: `base`: There is no recipe `savi_smal`. Did you mean savi_small"),
        (BASE + "base: savi_large\n", r", line 2: `base` is there twice"),
        (BASE + "model: [1\n", r", line 3: this is not YAML"),
        ("- 1\n", r"should hold settings such as `name: value`, got a list"),
        ("", r"should hold settings such as `name: value`, got nothing"),
        ("family: sav\nmodel: {}\n", r", line 1: `family`: .*got 'sav'. Did you mean savi"),
    ],
)
def test_errors_name_the_key_and_the_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_recipe_file(saved(tmp_path / "m.yaml", text))


def test_a_whole_recipe_with_a_wrong_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = recipe_yaml(catalog.recipe("slots_video"))
    file = saved(tmp_path / "m.yaml", text.replace("kernel: 5", "kernel: five", 1))
    line = next(i for i, row in enumerate(file.read_text().splitlines(), 1) if "five" in row)
    assert main(["train", str(file), "--root", str(tmp_path), "--run-dir", str(tmp_path / "run")]) == 2
    assert re.search(
        rf"m.yaml, line {line}: `model.slots.encoder.kernel`: .*got 'five'", capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_json_that_is_none_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m.json, line 2: this is not JSON"):
        read_recipe_file(saved(tmp_path / "m.json", '{"a": 1,\n "b" 2}'))
    with pytest.raises(UserError, match=r"gone.yaml cannot be read"):
        read_recipe_file(tmp_path / "gone.yaml")


def test_scalars_of_yaml(tmp_path: Path) -> None:
    text = "a: on\nb: true\nc: 1e-3\nd: '5'\ne: ~\nf: 0x10\ng: [1, 2.5, x]\nh: -3\n"
    values, lines = read_settings(saved(tmp_path / "s.yaml", text))
    assert values == {
        "a": "on",
        "b": True,
        "c": 0.001,
        "d": "5",
        "e": None,
        "f": "0x10",
        "g": [1, 2.5, "x"],
        "h": -3,
    }
    assert lines["g",] == 7

"""The package of examples/drifting_squares: what it defines trains, saves, loads and is listed."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

import torchslots
from torchslots.cli import main
from torchslots.data import catalog as sets
from torchslots.io import errors, plugins
from torchslots.io.errors import UserError
from torchslots.recipes import catalog

PACKAGE = Path(__file__).parents[2] / "examples" / "drifting_squares"
ENTRY_POINTS = """[torchslots.recipes]
drifting_squares = drifting_squares.model:register
[torchslots.datasets]
drifting_squares = drifting_squares.squares:register
"""
FEW = "--optim.num-steps 2 --train.batch-size 2 --train.num-workers 0 --num-plots 0 --device cpu".split()


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that a test registers are gone after it, and entry points are looked for again."""
    for table, name in ((catalog, "FAMILIES"), (catalog, "RECIPES"), (sets, "DATASETS")):
        monkeypatch.setattr(table, name, dict(getattr(table, name)))
    monkeypatch.setattr(plugins, "_asked", set())
    errors.note.cache_clear()


def install(folder: Path, name: str, entry_points: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an installer leaves: metadata with entry points, on the path."""
    info = folder / f"{name}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(entry_points)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()


@pytest.fixture
def installed(tables: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example, installed; its videos."""
    install(tmp_path / "site", "drifting_squares", ENTRY_POINTS, monkeypatch)
    monkeypatch.syspath_prepend(str(PACKAGE / "src"))
    from drifting_squares.squares import write  # pyright: ignore[reportMissingImports]

    write(tmp_path / "data", num_videos=10)
    return tmp_path / "data"


def test_the_metadata_of_the_test_are_the_packages() -> None:
    stated = (PACKAGE / "pyproject.toml").read_text().replace('"', "")
    for line in ENTRY_POINTS.splitlines():
        assert line.strip("[]") in stated


def test_it_is_listed_inspected_trained_evaluated_and_loaded(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "drift"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == [
        "drift_squares",
        "Drift",
        "squares",
        "32x32",
    ]
    assert main(["data", "list", "squares"]) == 0
    assert "Squares that move straight on" in capsys.readouterr().out
    assert main(["data", "inspect", "squares", "--root", str(installed)]) == 0
    assert "8 examples" in capsys.readouterr().out
    run = tmp_path / "run"
    assert main(["train", "drift_squares", "--root", str(installed), "--run-dir", str(run), *FEW]) == 0
    assert json.loads((run / "recipe.json").read_text())["family"] == "drift"
    assert (
        main(["evaluate", str(run), "--root", str(installed), "--num-workers", "0", "--num-plots", "0"]) == 0
    )
    assert json.loads((run / "eval" / "eval.json").read_text())["num_videos"] == 2
    model = torchslots.load_model(run)
    assert type(model.slot_encoder.predictor).__name__ == "DriftPredictor"
    item = torchslots.open_dataset("squares", installed, split="validation", frames=8, resolution=32)[0]
    assert model.predict({"video": item["video"][None]}).slots.shape == (1, 8, 4, 32)


def test_without_the_package_its_model_is_not_known_and_the_message_says_so(
    tables: None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"torchslots": torchslots.__version__, "family": "drift", "model": {}})
    )
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"no model family `drift`.*install the package that adds it"):
        torchslots.load_model(tmp_path)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
        ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
        (
            "def register():\n    from torchslots import register_recipe\n    register_recipe(dict)",
            "got a dict",
        ),
    ],
)
def test_a_broken_entry_point_is_named_once_and_others_go_on(
    installed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: str,
    says: str,
) -> None:
    monkeypatch.delitem(sys.modules, "broken_one", raising=False)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken_one.py").write_text(module)
    points = "[torchslots.recipes]\nbroken = broken_one:register\n"
    install(tmp_path / "broken", "broken_one", points, monkeypatch)
    for _ in range(2):
        assert main(["recipes", "drift"]) == 0
    said = capsys.readouterr()
    assert "drift_squares" in said.out
    assert said.err.count("Note: the package broken-one adds nothing") == 1 and says in said.err


def test_a_name_that_exists_twice_is_told_once(installed: Path) -> None:
    from drifting_squares import model, squares  # pyright: ignore[reportMissingImports]

    assert torchslots.list_recipes("drift") == ["drift_squares"]
    assert torchslots.list_datasets("squares")[0] == "squares"
    with pytest.raises(
        UserError, match=r"model family `drift` is there twice: drifting_squares\.model\.build"
    ):
        torchslots.register_model(model.DriftConfig, model.build)
    with pytest.raises(UserError, match="recipe `drift_squares` is there twice"):
        torchslots.register_recipe(model.drift_squares)
    with pytest.raises(UserError, match=r"data set `movi_a` is there twice: drifting_squares\.squares"):
        torchslots.register_dataset("movi_a", squares.open_squares, description="Another")
    model.register.__globals__["torchslots"].register_model(
        model.DriftConfig, model.build, recipes=[model.drift_squares], replace=True
    )


def test_what_cannot_be_registered_is_refused(installed: Path) -> None:
    from drifting_squares import model, squares  # pyright: ignore[reportMissingImports]

    with pytest.raises(UserError, match="derived from ModelConfig"):
        torchslots.register_model(dict, model.build)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="family"):
        torchslots.register_model(catalog.ModelConfig, model.build)
    with pytest.raises(UserError, match="should return a Recipe of a DriftConfig, got a SaviConfig"):
        torchslots.register_model(
            model.DriftConfig, model.build, recipes=[catalog.RECIPES["savi_small"]], replace=True
        )
    with pytest.raises(UserError, match="1 to 45 characters"):
        torchslots.register_dataset("new", squares.open_squares, description="x" * 46)
    with pytest.raises(UserError, match="`splits` should be names"):
        torchslots.register_dataset("new", squares.open_squares, description="x", splits="train")
    assert "new" not in sets.DATASETS


def test_a_model_that_cannot_be_built_is_left_out_of_the_list(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from drifting_squares import model  # pyright: ignore[reportMissingImports]

    def build(config: object) -> NoReturn:
        raise RuntimeError("too small")

    torchslots.register_model(model.DriftConfig, build, recipes=[model.drift_squares], replace=True)
    assert main(["recipes", "squares"]) == 2
    assert (
        "`drift_squares` is not listed, since its model cannot be built: too small" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_it_is_installed_by_pip(tmp_path: Path) -> None:
    """As a user would, into a folder, without the network."""
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
    ]
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(PACKAGE), str(copy)], check=True)
    subprocess.run([*pip, str(copy)], check=True, capture_output=True)
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    told = subprocess.run(
        [sys.executable, "-m", "torchslots", "recipes", "drift"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "drift_squares" in told.stdout and told.stderr == ""

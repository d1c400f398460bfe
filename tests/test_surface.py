"""The public names: which they are, that they cost nothing to import, that their examples run."""

import doctest
import inspect
import pydoc
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import torchslots
from data.movi_files import copy_movi
from tiny_models import TINY
from torchslots.cli import COMMANDS
from torchslots.data import catalog as sets
from torchslots.data.batch import collate
from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.recipes import catalog, savi

SURFACE = (
    "load_model create_model list_recipes list_pretrained load_tokenizer open_dataset list_datasets predict "
    "predict_frames evaluate train register_model register_recipe register_dataset metrics UserError __version__"
).split()
API = Path(__file__).parents[1] / "docs" / "api.md"
README = API.parents[1] / "README.md"
FUNCTIONS = [name for name in SURFACE if inspect.isfunction(getattr(torchslots, name))]
METRICS = [getattr(torchslots.metrics, name) for name in torchslots.metrics.__all__]


def test_these_are_the_public_names():
    assert sorted(torchslots.__all__) == sorted(SURFACE) == dir(torchslots)
    assert all(getattr(torchslots, name) is not None for name in SURFACE)
    with pytest.raises(AttributeError, match="no attribute 'lode_model'"):
        _ = torchslots.lode_model  # pyright: ignore[reportAttributeAccessIssue]


def test_the_page_lists_exactly_the_public_names():
    listed = re.findall(r"^\| `(?:torchslots\.metrics\.)?(\w+)[^|]*\|", API.read_text(), re.M)
    surface, metrics = listed[: len(SURFACE)], listed[len(SURFACE) :]
    assert sorted(surface) == sorted(torchslots.__all__)
    assert sorted(metrics) == sorted(torchslots.metrics.__all__)


def test_public_modules_are_there():
    modules = re.findall(r"^- `(torchslots[\w.]+)`", API.read_text(), re.M)
    assert modules and all(pydoc.locate(name) is not None for name in modules)


def test_names_are_imported_when_they_are_used():
    code = (
        "import sys, torchslots; torchslots.__version__, torchslots.list_datasets(); dir(torchslots)\n"
        "assert 'torch' not in sys.modules; torchslots.create_model; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_shows_every_function_with_its_first_line():
    shown = pydoc.plain(pydoc.render_doc(torchslots))
    for name in FUNCTIONS:
        first = (getattr(torchslots, name).__doc__ or "").splitlines()[0]
        assert f"{name}(" in shown and first in shown


@pytest.mark.parametrize("function", [*(getattr(torchslots, name) for name in FUNCTIONS), *METRICS])
def test_examples_run(function, tmp_path, monkeypatch):
    """Each docstring's example, with the names that it takes for granted."""
    monkeypatch.chdir(tmp_path)
    for table, name in ((catalog, "FAMILIES"), (catalog, "RECIPES"), (sets, "DATASETS")):
        monkeypatch.setattr(table, name, dict(getattr(table, name)))
    torch.manual_seed(0)
    copy_movi("a", tmp_path / "data")
    frames = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)
    video.write_video(tmp_path / "film.mp4", frames, 10)
    decoder = replace(TINY.decoder, grid=(4, 4))
    conditioning = "boxes" if "(model, frames, boxes=" in function.__doc__ else "learned"
    config = replace(TINY, resolution=(16, 16), decoder=decoder, conditioning=conditioning)
    given = {
        "torchslots": torchslots,
        "torch": torch,
        "model": savi.build(config).eval(),
        "frames": frames,
        "film": "film.mp4",
        "out": "out",
        "path": "saved",
        "root": "data",
        "run": "run",
    }
    (found,) = doctest.DocTestFinder(recurse=False).find(function, function.__name__, globs=given)
    said: list[str] = []
    assert doctest.DocTestRunner().run(found, out=said.append).attempted and not said, "".join(said)


@pytest.mark.parametrize("function", [*(getattr(torchslots, name) for name in FUNCTIONS), *METRICS])
def test_docstrings_say_what_a_newcomer_must_know(function):
    about = " ".join(function.__doc__.split())
    refers = "Arguments and errors are those of" in about
    assert "Examples:" in about and (refers or "Raises:" in about or function.__name__.startswith("list_"))
    named = inspect.signature(function).parameters
    assert refers or all(re.search(rf"\b{name}(, \w+)*: ", about) for name in named)


def test_numbers_within_are_changed_by_dotted_names():
    model = torchslots.create_model(
        "savi_small", num_slots=8, conditioning="learned", resolution=(32, 32), **{"decoder.grid": (4, 4)}
    )
    assert model.config.num_slots == 8 and model.config.decoder.grid == (4, 4)
    assert model.config.decoder.channels == savi.SaviConfig().decoder.channels
    for changes, says in (
        ({"num_slot": 8}, "no field `num_slot`.*num_slots"),
        ({"decoder.grids": (4, 4)}, "no field `grids`.*grid"),
        ({"num_slots": "many"}, "should be int"),
        ({"conditioning": "learnt"}, "should be one of boxes, centers"),
        ({"resolution": (48, 48)}, "Change decoder.grid"),
    ):
        with pytest.raises(UserError, match=says):
            torchslots.create_model("savi_small", **changes)


def test_data_sets_are_torch_data_sets(tmp_path):
    copy_movi("a", tmp_path)
    dataset = torchslots.open_dataset("movi_a", tmp_path, frames=4, resolution=32, keys=("video", "boxes"))
    assert isinstance(dataset, torch.utils.data.Dataset) and len(dataset) == 4
    assert set(dataset[-1]) == {"video", "boxes", "padding_mask", "name"}
    assert all(torch.equal(dataset[3][key], dataset[-1][key]) for key in ("video", "boxes", "padding_mask"))
    assert len(list(dataset)) == 4
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, collate_fn=collate)
    assert next(iter(loader))["video"].shape == (2, 4, 3, 32, 32)
    for changes, says in (({"split": "test"}, "no split"), ({"framez": 3}, "no field `framez`")):
        with pytest.raises(UserError, match=says):
            torchslots.open_dataset("movi_a", tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        *(
            ({"frames": value}, f"`frames` should be .*at least 1, got {value!r}")
            for value in (0, -1, "4", None)
        ),
        ({"resolution": 0}, "`resolution` should be .*at least 1, got 0"),
        ({"keys": "video"}, "`keys` should be tuple or list, got 'video'"),
        ({"keys": (3,)}, "`keys` should be str, got 3"),
        ({"max_objects": 1}, "at most 1 object\\..*Raise `max_objects`"),
        ({"max_objects": 0}, "`max_objects` should be .*at least 1, got 0"),
        ({"split": 3}, "`split` should be str, got 3"),
        (
            {"windows": "all"},
            "`windows` should be one of end_to_end, anywhere, chunks, back_and_forth, got 'all'",
        ),
        ({"root": 3}, "`root` should be str or Path, got 3"),
        ({"name": 3}, "`name` should be str, got 3"),
    ],
)
def test_open_dataset_refuses(changes, says, tmp_path):
    copy_movi("a", tmp_path)
    with pytest.raises(UserError, match=says):
        torchslots.open_dataset(**{"name": "movi_a", "root": tmp_path, **changes})


def test_arguments_that_are_no_text_or_path_are_refused(tmp_path):
    for call in (
        torchslots.create_model,
        torchslots.load_model,
        torchslots.load_tokenizer,
        torchslots.list_recipes,
        torchslots.list_datasets,
        lambda recipe: torchslots.train(recipe, tmp_path, tmp_path / "run"),
    ):
        with pytest.raises(UserError, match=r"should be str.*got 3 of type int"):
            call(3)


@pytest.mark.parametrize("value", [0, -1, True, 2.5, None])
def test_a_model_without_a_number_of_slots_is_refused(value):
    with pytest.raises(
        UserError,
        match=rf"num_slots` should be a whole number of at least 1 and at most.*got {value}|be int, got",
    ):
        torchslots.create_model("savi_small", num_slots=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optim.num_steps", -1),
        ("optim.learning_rate", float("nan")),
        ("optim.ema_decay", 1.5),
        ("optim.max_grad_norm", 0.0),
        ("train.batch_size", 0),
        ("train.keep", 0),
        ("data.num_frames", 0),
        ("evaluation.slice_size", 0),
        ("num_plots", -1),
    ],
)
def test_a_training_out_of_range_is_refused(name, value, tmp_path):
    copy_movi("a", tmp_path)
    with pytest.raises(UserError, match=rf"{name.split('.')[-1]}` should be .*got {value}"):
        torchslots.train("savi_demo", tmp_path, tmp_path / "run", dataset="movi_a", **{name: value})
    assert not (tmp_path / "run").exists()


def test_the_module_of_metrics_shows_only_its_functions():
    assert dir(torchslots.metrics) == sorted(torchslots.metrics.__all__)


def test_clips_to_train_on_follow_torchs_generator(tmp_path):
    copy_movi("a", tmp_path)
    dataset = torchslots.open_dataset("movi_a", tmp_path, frames=2, resolution=32, train=True)
    torch.manual_seed(3)
    clips = [dataset[0]["video"] for _ in range(12)]
    torch.manual_seed(3)
    assert all(torch.equal(clip, dataset[0]["video"]) for clip in clips)
    assert any(not torch.equal(clips[0], clip) for clip in clips)


def test_the_five_lines_of_the_readme_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    copy_movi("a", tmp_path / "data")
    config = replace(TINY, resolution=(64, 64), decoder=replace(TINY.decoder, grid=(16, 16)))
    savi.build(config).save_pretrained(tmp_path / "runs" / "1")
    (lines,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(lines.splitlines()) <= 7
    exec(lines.replace("validation", "train"), {})
    assert "torch.Size([1, 24, 24, 64, 64])" in capsys.readouterr().out


def test_commands_of_the_readme_are_there():
    lines = re.findall(r"^torchslots (\S+)(.*)$", README.read_text(), re.M)
    assert {name for name, _ in lines} <= set(COMMANDS) and len(lines) > 10
    assert len(README.read_text().splitlines()) < 120


def test_the_reference_shows_every_public_name():
    shown = re.findall(r"^::: (torchslots[\w.]+)$", (API.parent / "reference.md").read_text(), re.M)
    functions = {f"torchslots.{name}" for name in torchslots.__all__} - {
        "torchslots.__version__",
        "torchslots.metrics",
    }
    metrics = {f"torchslots.metrics.{name}" for name in torchslots.metrics.__all__}
    listed = re.findall(r"^- `(torchslots[\w.]+)`: (.*)", API.read_text(), re.M)
    parts = {f"{module}.{name}" for module, names in listed for name in re.findall(r"`(\w+)`", names)}
    assert functions | metrics | parts == set(shown) and len(shown) == len(set(shown))
    assert all(pydoc.locate(name) is not None for name in shown)

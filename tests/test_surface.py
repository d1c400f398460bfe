"""The public names: which they are, that they cost nothing to import, that their examples run."""

import doctest
import inspect
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import torchslots
from data.movi_files import copy_movi
from tiny_models import TINY
from torchslots.io import video
from torchslots.recipes import savi

SURFACE = (
    "load_model create_model list_recipes load_tokenizer open_dataset list_datasets predict predict_frames evaluate "
    "train metrics UserError __version__"
).split()
API = Path(__file__).parents[1] / "docs" / "api.md"
FUNCTIONS = [name for name in SURFACE if inspect.isfunction(getattr(torchslots, name))]
METRICS = [getattr(torchslots.metrics, name) for name in torchslots.metrics.__all__]


def test_these_are_the_public_names():
    assert sorted(torchslots.__all__) == sorted(SURFACE) == dir(torchslots)
    assert all(getattr(torchslots, name) is not None for name in SURFACE)
    with pytest.raises(AttributeError, match="no attribute 'lode_model'"):
        _ = torchslots.lode_model  # pyright: ignore[reportAttributeAccessIssue]


def test_the_page_lists_exactly_the_public_names():
    listed = re.findall(r"^\| `(?:torchslots\.)?(\w+)[^|]*\|", API.read_text(), re.M)
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
    torch.manual_seed(0)
    monkeypatch.setattr("builtins.print", lambda *_, **__: None)
    given = {
        "root": tmp_path / "data",
        "run": tmp_path / "run",
        "path": tmp_path / "model",
        "out": tmp_path / "out",
    }
    copy_movi("a", tmp_path / "data")
    frames = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)
    video.write_video(tmp_path / "clip.mp4", frames, 10)
    config = savi.SaviConfig(**{**vars(TINY), "conditioning": "learned"})
    given |= {
        "torch": torch,
        "torchslots": torchslots,
        "np": np,
        "frames": frames,
        "film": tmp_path / "clip.mp4",
    }
    given |= {"model": savi.build(config).eval()}
    found = doctest.DocTestFinder(recurse=False).find(function, function.__name__, globs=given)
    assert sum(len(test.examples) for test in found), f"{function.__name__} has no example"
    assert (
        "Raises:" in function.__doc__ or "errors" in function.__doc__ or function.__name__.startswith("list_")
    )
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in found:
        assert runner.run(test, out=said.append).failed == 0, "".join(said)

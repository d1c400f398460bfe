"""Every recipe of the catalog at tiny size: gradients on 2 and 4 processes, and in 2 parts, against those of one."""

import json
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from torchslots.recipes import catalog
from training.catalog_gradients import cases, gradients
from training.processes import launch

PROGRAM = Path(__file__).with_name("catalog_gradients.py")
CASES = cases()
TOLERANCE = 1e-4
"""Of the largest difference, in parts of the largest number of a model's gradients."""


def furthest(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest difference in parts of the largest number."""
    assert found.keys() == wanted.keys()
    scale = max(float(value.abs().max()) for value in wanted.values())
    return max(float((found[key] - value).abs().max()) for key, value in wanted.items()) / scale


one = cache(gradients)


def check(name: str, losses: dict[str, float], found: dict[str, Tensor], parts: int) -> None:
    """Compare with one process; the contrast between clips of a batch is another in parts, as a run says."""
    wanted_losses, wanted = one(name)
    if "contrast" in wanted_losses:
        assert losses["contrast"] < wanted_losses["contrast"] - 0.1 * parts
        losses, wanted_losses = losses | {"contrast": 0.0}, wanted_losses | {"contrast": 0.0}
    else:
        assert furthest(found, wanted) < TOLERANCE
    assert losses == pytest.approx(wanted_losses, rel=1e-5)


@pytest.fixture(scope="module", params=[2, 4])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    folder = tmp_path_factory.mktemp("several")
    for ended in launch(request.param, [sys.executable, str(PROGRAM), str(folder), ""]):
        assert ended.code == 0, ended.err
    return request.param, folder


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_gradients_of_several_processes_are_those_of_one(several: tuple[int, Path], name: str) -> None:
    processes, folder = several
    losses = json.loads((folder / "losses.json").read_text())[name]
    check(name, losses, load_file(folder / f"{name}.safetensors"), processes)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_gradients_of_accumulation_are_those_of_one_batch(name: str) -> None:
    torch.manual_seed(7)
    check(name, *gradients(name, accumulation=2), 2)


def test_the_sweep_has_every_recipe() -> None:
    assert sorted(name for names in CASES.values() for name in names) == sorted(catalog.RECIPES)

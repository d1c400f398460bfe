"""Models in the package: they load without a network, find objects, and their cards say what was measured."""

import socket
from pathlib import Path

import pytest
import torch

import torchslots
from torchslots.cli.app.models import FINDERS, choices
from torchslots.convert.shipped import SHIPPED, find_shipped, shipped_folder
from torchslots.models.weights import CONFIG_NAME, WEIGHTS_NAME
from torchslots.sim.generate_videos import generate

_MOST_BYTES = 6_000_000
LEAST = {"savi_sim": 0.6, "slots_sim": 0.5}
"""FG-ARI of single frames, far below what is measured on many videos and far above chance."""


@pytest.fixture(params=sorted(SHIPPED))
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a model in the package asked for the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return request.param


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two videos of a seed on which no model in the package was trained."""
    folder = tmp_path_factory.mktemp("sim")
    generate(folder, train=1, validation=2, resolution=64, seed=987)
    return str(folder)


def test_it_finds_objects_in_videos_it_has_not_seen(name: str, root: str) -> None:
    report = torchslots.evaluate(name, root, num_plots=0)
    assert report.num_videos == 2 and (report.metrics["fg_ari_frame"] or 0) > LEAST[name]


def test_it_is_small_and_whole(name: str) -> None:
    folder = shipped_folder(name)
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert (
        set(files) == {WEIGHTS_NAME, CONFIG_NAME, "README.md", "recipe.json"}
        and sum(files.values()) < _MOST_BYTES
    )
    model = torchslots.load_model(name)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_its_card_has_what_the_list_says(name: str) -> None:
    card = (shipped_folder(name) / "README.md").read_text()
    row = SHIPPED[name]
    assert row.figure in card and f"torchslots train {row.recipe}" in card
    for heading in ("## Data", "## Training", "## Figures", "## Licence", "## What is seen"):
        assert heading in card


def test_models_of_the_package_are_found() -> None:
    assert set(find_shipped("sim")) == set(SHIPPED) == {"savi_sim", "slots_sim"}
    assert find_shipped("resnet") == {}


def test_the_app_offers_them_before_what_is_fetched() -> None:
    names = list(choices(Path("nowhere"), finders=FINDERS))
    assert names[: len(SHIPPED)] == list(SHIPPED)

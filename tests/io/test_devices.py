"""One rule for the device of every command and function."""

import pytest
import torch

from torchslots.io.devices import announce_device, choose_device, figures_device
from torchslots.io.errors import UserError


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GPUs, and with or without Apple's chip."""

    def has(cards: int = 0, mps: bool = False) -> None:
        empty = torch.empty
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch, "empty", lambda *size, device: empty(*size))
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        monkeypatch.delenv("WORLD_SIZE", raising=False)

    return has


@pytest.mark.parametrize(
    ("cards", "mps", "chosen"),
    [(0, False, "cpu"), (0, True, "mps"), (2, False, "cuda:0"), (1, True, "cuda:0")],
)
def test_the_best_there_is(machine, cards, mps, chosen):
    machine(cards, mps)
    assert choose_device() == choose_device(None) == torch.device(chosen)
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")


def test_each_process_has_its_own_card(machine, monkeypatch):
    machine(4)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert choose_device() == choose_device("cuda") == torch.device("cuda:2")
    with pytest.raises(UserError, match="give cuda, not cuda:1"):
        choose_device("cuda:1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "cpu, cuda, cuda:N or mps, got 'gpu'"),
        ("cuda:one", "got 'cuda:one'"),
        ("", "got ''"),
        ("cuda:7", "no cuda:7: torch sees 2 CUDA devices"),
        ("mps", "No MPS device is visible"),
    ],
)
def test_a_wrong_name_gets_one_message(machine, name, message):
    machine(2)
    with pytest.raises(UserError, match=message):
        choose_device(name)


def test_no_card(machine):
    machine()
    with pytest.raises(UserError, match=r"No CUDA device is visible\. Use --device cpu"):
        choose_device("cuda")


def test_it_is_said_in_a_line(machine, capsys, monkeypatch):
    machine(2)
    announce_device("cuda:1")
    announce_device("cpu")
    assert capsys.readouterr().err == "Running on cuda:1 (Card).\nRunning on cpu.\n"
    monkeypatch.setenv("LOCAL_RANK", "1")
    announce_device()
    assert capsys.readouterr().err == ""


def test_figures_are_not_computed_on_mps():
    assert figures_device("mps") == torch.device("cpu")
    assert figures_device("cuda:1") == torch.device("cuda:1")


def test_every_command_takes_none_for_a_device():
    from dataclasses import fields
    from inspect import signature

    from torchslots.cli.bench.step import BenchOptions
    from torchslots.cli.demo import demo
    from torchslots.inference.edit import EditOptions
    from torchslots.inference.evaluate import EvaluateOptions
    from torchslots.inference.predict import PredictOptions
    from torchslots.inference.videos import VideosOptions
    from torchslots.training.feature_job import FeatureOptions
    from torchslots.training.resume import TrainOptions

    classes = (
        EditOptions,
        EvaluateOptions,
        PredictOptions,
        VideosOptions,
        TrainOptions,
        FeatureOptions,
        BenchOptions,
    )
    assert {next(f.default for f in fields(kind) if f.name == "device") for kind in classes} == {None}
    assert signature(demo).parameters["device"].default is None

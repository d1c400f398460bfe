"""Whether compiling pays is decided once, from what the whole run takes, and told."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from torchslots.io.errors import UserError
from torchslots.training import checkpoint, compilation
from torchslots.training.compilation import COLD_START, decide, obstacle, settle
from torchslots.training.step import TrainStep
from torchslots.training.stops import Interrupted
from training.tiny_run import TinyClips, TinyModel, same, send, tiny_recipe, train, weights

CPU = torch.device("cpu")


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "obstacle", lambda device: None)
    monkeypatch.setattr(compilation, "WORTH_WHILE", ("cpu",))


@pytest.fixture
def unable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "obstacle", lambda device: "there is no C++ compiler")


def _never() -> float:
    raise AssertionError("nothing has to be tried")


def test_only_a_run_that_wins_the_cold_start_back_is_compiled() -> None:
    short, long = decide(6000, 0.02), decide(100_000, 1.5)
    assert not short.compiled and "is off: without it the run takes about 2 minutes" in short.reason
    assert long.compiled and "is on: without it the run takes about 42 hours" in long.reason
    for steps, seconds in itertools.product((10, 1000, 10**6), (1e-3, 0.1, 10.0)):
        if decide(steps, seconds).compiled:
            assert steps * seconds * (1 - 1 / compilation.LEAST_GAIN) > COLD_START


def test_what_the_recipe_says_or_the_run_did_before_needs_no_trial(able: None) -> None:
    for wanted, before, expected in (
        (True, False, True),
        (False, True, False),
        (None, True, True),
        (None, False, False),
    ):
        assert settle(wanted, before, 10**6, CPU, _never).compiled is expected
    assert settle(None, None, 10**6, CPU, lambda: 1.0).compiled
    assert not settle(None, None, 10**6, CPU, lambda: 1e-5).compiled


def test_without_a_compiler_nothing_is_compiled_and_a_wish_is_refused(unable: None) -> None:
    assert "no C++ compiler" in settle(None, None, 10**6, torch.device("cuda"), _never).reason
    resumed = settle(None, True, 10**6, CPU, _never)
    assert not resumed.compiled and "compiled before" in resumed.reason
    assert not settle(False, None, 10**6, CPU, _never).compiled
    with pytest.raises(UserError, match=r"no C\+\+ compiler. Install it, or choose --train.compile False"):
        settle(True, None, 10**6, CPU, _never)


def test_the_cpu_compiles_only_if_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "obstacle", lambda device: None)
    left_open = settle(None, None, 10**9, CPU, _never)
    assert not left_open.compiled and "no faster" in left_open.reason
    assert settle(True, None, 10, CPU, _never).compiled and settle(None, True, 10, CPU, _never).compiled
    assert settle(None, None, 10**6, torch.device("cuda"), lambda: 1.0).compiled


def test_a_missing_compiler_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert obstacle(CPU) == "there is no C++ compiler"
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    assert obstacle(torch.device("cuda")) == "there is no C compiler"


def test_a_trial_leaves_no_trace() -> None:
    recipe, tried, plain = tiny_recipe(), TinyModel(), TinyModel()
    batch = {"video": torch.rand(4, 2, 3, 4, 4)}
    steps = [TrainStep(model, recipe.optim, recipe.train, "cpu") for model in (tried, plain)]
    tried.register_buffer("seen", torch.zeros(()))

    def count(*_: object) -> None:
        tried.get_buffer("seen").add_(1)

    tried.net.register_forward_hook(count)
    assert steps[0].trial([batch]) > 0
    assert tried.get_buffer("seen") == 0 and all(weight.grad is None for weight in tried.net.parameters())
    reports = [step(3, batch) for step in steps]
    assert reports[0].losses == reports[1].losses
    assert same(tried.net.state_dict(), plain.net.state_dict())


def test_a_run_tells_what_it_decided_and_decides_once(
    able: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        train(tiny_recipe(8), tmp_path / "parts", TinyClips(events={5 * 4: send(15)}))
    assert "torch.compile is off: without it the run takes about" in capsys.readouterr().err
    monkeypatch.setattr(TrainStep, "trial", lambda step, batch: 1e9)
    train(tiny_recipe(8), tmp_path / "parts")
    assert "torch.compile is off, as before." in capsys.readouterr().err
    found = checkpoint.latest(tmp_path / "parts", print)
    assert found is not None and found.state.compiled is False


def test_a_compiled_run_is_compiled_again(
    able: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler itself is left out: what counts is when it is called."""
    compiled: list[TrainStep] = []
    monkeypatch.setattr(TrainStep, "trial", lambda step, batch: 1e9)
    monkeypatch.setattr(TrainStep, "compile", lambda step: compiled.append(step))
    with pytest.raises(Interrupted):
        train(tiny_recipe(8), tmp_path / "run", TinyClips(events={5 * 4: send(15)}))
    assert len(compiled) == 1 and "torch.compile is on: without it" in capsys.readouterr().err
    train(tiny_recipe(8), tmp_path / "run")
    assert len(compiled) == 2 and "torch.compile is on, as before" in capsys.readouterr().err
    train(tiny_recipe(8), tmp_path / "other")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "other"))


def test_a_run_from_before_there_was_a_choice_goes_on_uncompiled(
    able: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Interrupted):
        train(tiny_recipe(8), tmp_path, TinyClips(events={5 * 4: send(15)}))
    for file in (tmp_path / "checkpoints").glob("*/state.json"):
        values = json.loads(file.read_text())
        del values["crc32c"]
        file.write_text(json.dumps(values).replace('"compiled": false', '"compiled": null'))
    capsys.readouterr()
    train(tiny_recipe(8), tmp_path)
    assert "torch.compile is off, as before." in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script_method:DeprecationWarning"
)  # torch's own, in the compiler
def test_a_compiled_run_does_what_a_plain_one_does(tmp_path: Path) -> None:
    if obstacle(CPU):
        pytest.skip(f"{obstacle(CPU)}")
    for name, compiled in (("plain", False), ("compiled", True)):
        train(tiny_recipe(12, compile=compiled), tmp_path / name, model=TinyModel(noise=0.0))
    plain, other = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    for name, weight in plain.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-4, atol=1e-6)

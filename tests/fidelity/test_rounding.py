"""The verdict `open`: what float32 leaves undecided in a recording, and what it does not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fidelity import savi, slot_attention
from fidelity.__main__ import main
from fidelity.cases import Beside, Case, Row, System, Verdict, checks, is_open, read_case
from fidelity.loading import Loaded
from fidelity.systems import verify

CASES = ("isa_tetrominoes_baseline_mini", "slot_attention_set_prediction_mini")


@pytest.mark.parametrize("name", CASES)
def test_small_recordings_are_near_to_float64_and_so_are_we(golden: Path, name: str) -> None:
    found = verify([golden / name], float64=True)[0].checks
    beside = [(check, check.beside) for check in found if check.beside is not None]
    assert len(beside) > 40 and not any(check.coarse for check, _ in beside)
    assert all(one.ours < 0.5 * check.tolerance for check, one in beside if check.tolerance)
    assert any(0 < one.ours < 1e-6 for _, one in beside)


def test_systems_of_torch_are_computed_in_float64_too(golden: Path, tmp_path: Path) -> None:
    from fidelity.hash_init import with_model

    found = verify([with_model(golden / "dvae_mini", tmp_path)], float64=True)[0].checks
    assert all(check.beside is not None and not check.coarse for check in found)


@pytest.fixture
def short(golden: Path, tmp_path: Path) -> Path:
    """A small case without steps of training."""
    wanted = shutil.ignore_patterns("trajectory*")
    return Path(shutil.copytree(golden / CASES[1], tmp_path / "case", ignore=wanted))


def test_a_recording_that_is_a_hundredth_off_fails(short: Path, capsys: pytest.CaptureFixture) -> None:
    recorded = dict(np.load(short / "outputs.npz"))
    recorded["loss"] = recorded["loss"] * np.float32(1.01)
    np.savez(short / "outputs.npz", **recorded)
    assert main([str(short), "--json", str(short / "found.json")]) == 1
    (found,) = json.loads((short / "found.json").read_text())
    (loss,) = [check for check in found["checks"] if check["verdict"] != "pass"]
    assert loss["name"] == "loss" and loss["verdict"] == "fail" and not found["passed"]
    assert loss["beside"]["recording"] == pytest.approx(0.01 / 1.01, rel=1e-3)
    assert loss["beside"]["rounding"] < 1e-6
    assert (found["open"], found["fail"]) == (0, 1)
    assert "passed, 0 open, 1 failed" in " ".join(capsys.readouterr().out.split())


def another_epsilon(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps *= 100


def another_sign(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_parameter("slot_encoder.corrector.key.weight").neg_()


@pytest.mark.parametrize("spoil", [another_epsilon, another_sign])
def test_a_wrong_model_fails(
    short: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[nn.Module], None]
) -> None:
    right = slot_attention.load

    def wrong(case: Case) -> Loaded:
        loaded = right(case)
        spoil(loaded.model)
        return loaded

    monkeypatch.setattr(slot_attention, "load", wrong)
    verdicts = {check.name: check.verdict for check in checks(read_case(short), slot_attention.SYSTEM)}
    assert verdicts["attn_iter"] is verdicts["slots_iter"] is verdicts["predictions"] is Verdict.FAIL
    assert Verdict.OPEN not in verdicts.values()


def steps_of(case: Case) -> dict[str, np.ndarray]:
    """A step of Adam, which has the length of its rate whatever the gradient: of one near zero, and of a plain one."""
    weights = case.inputs["weights"]
    near_zero = weights.sum(dtype=weights.dtype)
    return {"near zero": 0.1 * np.sign(near_zero), "plain": 0.1 * np.sign(weights[0])}


@pytest.mark.parametrize("name, verdict", [("near zero", Verdict.OPEN), ("plain", Verdict.FAIL)])
def test_a_step_from_a_gradient_near_zero_is_open(name: str, verdict: Verdict) -> None:
    """Gradients that cancel up to their last digits; the recording stepped the other way."""
    weights = np.array([1, 2, -3, np.finfo(np.float32).eps / 2], np.float32)
    case = Case(Path("here"), {}, {"weights": weights}, {})
    rows = {name: Row(np.array(-0.1)) for name in ("near zero", "plain")}
    found = {check.name: check for check in checks(case, System(lambda _: rows, steps_of))}
    assert found[name].verdict is verdict


@pytest.mark.parametrize(
    ("distance", "recording", "rounding", "verdict"),
    [
        (3.5e-3, 3.8e-3, 1.5e-3, True),
        (3.5e-3, 3.8e-3, 2.6e-5, False),
        (7e-3, 3.8e-3, 1.5e-3, False),
        (1e-2, 1e-2, 1e-6, False),
        (1.2, 1.1, 0.9, True),
    ],
    ids=[
        "rounding of this size",
        "rounding is smaller",
        "further than both together",
        "a wrong model",
        "another result",
    ],
)
def test_the_criterion(distance: float, recording: float, rounding: float, verdict: bool) -> None:
    row = Row(np.ones(()), 2.5e-3)
    assert is_open(row, distance, Beside(recording, ours=rounding / 2, rounding=rounding)) is verdict


@pytest.mark.parametrize(
    ("distance", "recording", "verdict"),
    [(3.6e-5, 9e-8, True), (3.6e-5, 5e-4, False), (9e-5, 9e-8, False)],
    ids=["ours went the other way", "a wrong model", "further than all together"],
)
def test_our_own_rounding_counts_where_it_is_amplified(
    distance: float, recording: float, verdict: bool
) -> None:
    """A weight after some steps of Adam: ours, not the recording, is far from float64."""
    row = Row(np.ones(()), 2e-6, amplified=True)
    beside = Beside(recording, ours=3.6e-5, rounding=3.7e-5)
    assert is_open(row, distance, beside) is verdict
    assert not is_open(replace(row, amplified=False), distance, beside)


def test_sums_of_gradients_are_not_compared(golden: Path) -> None:
    case = read_case(golden / "savi_small_mini")
    assert not any(name.startswith("grad_sum/") for name in savi.rows(case))

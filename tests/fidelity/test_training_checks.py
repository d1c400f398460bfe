"""What float32 leaves open in a recorded training, and what it does not."""

import json

import pytest

from fidelity import dvae as dvae_golden
from fidelity import savi_slotdiffusion as savi_pytorch_golden
from fidelity.cases import GRADIENT_TOLERANCE, read_case
from fidelity.hash_init import with_model


def failed(case):
    checks = dvae_golden if case.config["config"]["model"] == "dVAE" else savi_pytorch_golden
    return {check.name: check for check in checks.checks(case) if not check.passed}


def changed(folder, part, name, factor):
    """The case with one recorded norm multiplied."""
    norms = json.loads((folder / "grads.json").read_text())
    norms[part][name] *= factor
    (folder / "grads.json").write_text(json.dumps(norms))
    return read_case(folder)


@pytest.mark.parametrize(
    "part, name, factor",
    [
        ("grad_norm", "encoder.0.m.weight", 1.002),
        ("param_norm_after_train", "encoder.0.m.weight", 1.0003),
        ("param_norm_after_train", "encoder.0.bias", 1.002),
    ],
)
def test_what_float32_determines_is_judged(golden, tmp_path, part, name, factor):
    """Gradients of this case are well above their rounding, so nothing is open."""
    case = changed(with_model(golden / "dvae_mini", tmp_path), part, name, factor)
    assert list(failed(case)) == [f"{part}/{name}"]


def test_another_rate_is_judged(golden, tmp_path):
    case = read_case(with_model(golden / "dvae_mini", tmp_path))
    case.config["loss_note"] = "lr 1.1e-3,min 1e-5,total 20,warm 2"
    names = set(failed(case))
    assert {"train_lrs", "train_losses"} <= names and len(names) > 5


@pytest.mark.slow
def test_what_float32_leaves_open_is_noted_and_changes_no_verdict(golden, tmp_path):
    case = read_case(with_model(golden / "savi_torch_mini", tmp_path))
    case.config["train"]["train_grad_norm"][4] *= 1.05
    found = failed(case)["train_grad_norm"]
    assert found.tolerance == GRADIENT_TOLERANCE and "float32 leaves" in found.note

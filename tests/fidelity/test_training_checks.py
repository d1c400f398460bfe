"""What recorded training decides."""

import json

import pytest

from fidelity import dvae
from fidelity.cases import checks, read_case
from fidelity.hash_init import with_model


def failed(case):
    return [check.name for check in checks(case, dvae.SYSTEM) if not check.passed]


@pytest.mark.parametrize(
    "part, name, factor",
    [
        ("grad_norm", "encoder.0.m.weight", 1.002),
        ("param_norm_after_train", "encoder.0.m.weight", 1.0003),
        ("param_norm_after_train", "encoder.0.bias", 1.002),
    ],
)
def test_what_float32_determines_fails(golden, tmp_path, part, name, factor):
    """Gradients of this case are well above their rounding, so nothing is open."""
    folder = with_model(golden / "dvae_mini", tmp_path)
    norms = json.loads((folder / "grads.json").read_text())
    norms[part][name] *= factor
    (folder / "grads.json").write_text(json.dumps(norms))
    assert failed(read_case(folder)) == [f"{part}/{name}"]


def test_another_rate_fails(golden, tmp_path):
    case = read_case(with_model(golden / "dvae_mini", tmp_path))
    case.config["loss_note"] = "lr 1.1e-3,min 1e-5,total 20,warm 2"
    names = set(failed(case))
    assert {"train_lrs", "train_losses"} <= names and len(names) > 5

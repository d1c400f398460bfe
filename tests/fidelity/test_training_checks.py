"""What recorded training decides."""

import json

from fidelity import dvae
from fidelity.cases import Verdict, beyond, checks, read_case
from fidelity.hash_init import with_model


def test_what_float32_determines_fails(golden, tmp_path):
    """Gradients of this case are well above their rounding, so nothing is open."""
    changed = {
        "grad_norm/encoder.0.m.weight": 1.002,
        "param_norm_after_train/encoder.0.m.weight": 1.0003,
        "param_norm_after_train/encoder.0.bias": 1.002,
    }
    folder = with_model(golden / "dvae_mini", tmp_path)
    norms = json.loads((folder / "grads.json").read_text())
    for key, factor in changed.items():
        part, _, name = key.partition("/")
        norms[part][name] *= factor
    (folder / "grads.json").write_text(json.dumps(norms))
    found = checks(read_case(folder), dvae.SYSTEM)
    assert {check.name: check.verdict for check in found if not check.passed} == dict.fromkeys(
        changed, Verdict.FAIL
    )


def test_another_rate_fails(golden, tmp_path):
    case = read_case(with_model(golden / "dvae_mini", tmp_path))
    case.config["loss_note"] = "lr 1.1e-3,min 1e-5,total 20,warm 2"
    names = set(beyond(case, dvae.SYSTEM))
    assert {"train_lrs", "train_losses"} <= names and len(names) > 5

"""Slot Attention's recordings: forward, loss, gradients and training steps equal the original's."""

import shutil

import numpy as np
import pytest

from fidelity.systems import failed, verify

CASES = ("slot_attention_object_discovery_mini", "slot_attention_set_prediction_mini")


@pytest.mark.parametrize("name", CASES)
def test_equal_to_the_original(golden, name):
    (result,) = verify([golden / name])
    assert result.passed, [check for check in result.checks if not check.passed]
    names = {check.name for check in result.checks}
    assert {"loss", "attn_iter", "gru_iter", "slots_iter", "fresh/loss", "fresh/lr"} <= names
    assert len(names) > 90


def test_changed_recordings_fail_alone(golden, tmp_path):
    changed = {"predictions", "assignment", "loss", "ap"}
    folder = shutil.copytree(golden / CASES[1], tmp_path / "case")
    outputs = dict(np.load(folder / "outputs.npz"))
    for key in changed:
        outputs[key] = outputs[key] + (1 if key == "assignment" else 0.01)
    np.savez(folder / "outputs.npz", **outputs)
    (folder / "trajectory.npz").unlink()
    assert set(failed(folder)) == changed

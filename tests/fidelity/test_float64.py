"""Which recordings are themselves coarser than what they are to judge."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fidelity.__main__ import main
from fidelity.float64 import beside_float64
from fidelity.systems import verify
from torchslots.io.errors import UserError

CASES = (
    "savi_small_mini",
    "statm_savi_small_mini",
    "isa_clevr_transl_scale_mini",
    "slot_attention_set_prediction_mini",
)


@pytest.mark.parametrize("name", CASES)
def test_small_recordings_are_near_to_float64_and_so_are_we(golden: Path, name: str) -> None:
    found = beside_float64(verify([golden / name])[0])
    assert len(found) > 40 and not any(one.coarse for one in found)
    assert all(one.ours < 0.5 * one.allowed for one in found if one.allowed)
    assert any(0 < one.ours < 1e-6 for one in found)


@pytest.fixture
def coarse(golden: Path, tmp_path: Path) -> Path:
    """A case with one number that is a hundredth off."""
    case = tmp_path / "case"
    shutil.copytree(golden / "savi_small_mini", case)
    recorded = dict(np.load(case / "outputs.npz"))
    recorded["loss/total"] = recorded["loss/total"] * np.float32(1.01)
    np.savez(case / "outputs.npz", **recorded)
    return case


def test_a_coarse_recording_is_named_and_still_fails(coarse: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(coarse), "--float64", "--json", str(coarse / "told.json")]) == 1
    (told,) = json.loads((coarse / "told.json").read_text())
    off = {one["name"]: one for one in told["float64"] if one["recording"] > one["allowed"]}
    assert set(off) == {"loss/total"} and off["loss/total"]["ours"] < 1e-6
    assert not off["loss/total"]["verdict"] and not told["passed"]
    assert off["loss/total"]["recording"] == pytest.approx(0.01 / 1.01, rel=1e-3)
    assert main([str(coarse), "--float64"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "1 are further from float64" in said and "beside float64" in said


def test_systems_of_torch_are_compared_in_float32_alone(golden: Path, tmp_path: Path) -> None:
    from fidelity.hash_init import with_model

    folder = with_model(golden / "vqvae_mini", tmp_path)
    with pytest.raises(UserError, match="float32 alone"):
        beside_float64(verify([folder])[0])

"""SAVi against recordings of the original program: tolerances of the specification, see fidelity/savi.py."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fidelity import savi as savi_golden
from fidelity.cases import Case, CaseResult, read_case
from fidelity.systems import verify
from torchslots.convert import layouts
from torchslots.convert.originals import savi as savi_flax
from torchslots.convert.readers import flax as flax_checkpoint
from torchslots.io.errors import UserError
from torchslots.models.weights import shapes
from torchslots.recipes import catalog

CASES = ("savi_small_mini", "savi_medium_mini", "savi_large_mini", "savi_plus_plus_mini")


@pytest.mark.parametrize("name", CASES)
def test_recorded_case(golden: Path, name: str) -> None:
    result = golden_result(golden / name)
    assert result.passed, [check for check in result.checks if not check.passed]
    assert sum(check.name.startswith("grad_norm/") for check in result.checks) > 60
    assert {"states", "states_pred", "loss/total", "outputs/segmentations"} <= {
        check.name for check in result.checks
    }


def golden_result(folder: Path) -> CaseResult:
    return verify([folder])[0]


def test_a_wrong_weight_fails(golden: Path, tmp_path: Path) -> None:
    case = golden_copy(golden / "savi_medium_mini", tmp_path)
    recorded = dict(np.load(case / "outputs.npz"))
    recorded["states"] = recorded["states"] * 1.001
    np.savez(case / "outputs.npz", **recorded)
    failed = [check.name for check in golden_result(case).checks if not check.passed]
    assert failed == ["states"]


def golden_copy(case: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(case, tmp_path / case.name))


def test_weights_go_there_and_back(golden: Path) -> None:
    case = golden_case(golden / "savi_plus_plus_mini")
    loaded = savi_golden.load(case)
    weights, leaves = loaded.read.params, loaded.leaves
    back = layouts.to_theirs(leaves, layouts.to_ours(leaves, weights, "here"))
    assert set(back) == set(weights)
    for path, array in weights.items():
        assert np.array_equal(back[path].reshape(array.shape), array), path


def golden_case(folder: Path) -> Case:
    return read_case(folder)


def test_group_norms_of_either_flax(golden: Path) -> None:
    """flax 0.3 keeps group norms as (1, 1, 1, C), later versions as (C,)."""
    case = golden_case(golden / "savi_large_mini")
    loaded = savi_golden.load(case)
    weights, leaves = loaded.read.params, loaded.leaves
    name = "FrameEncoder_0/ResNet_0/init_bn/scale"
    assert weights[name].ndim == 4
    flat = {
        path: array.reshape(-1) if "bn" in path or "proj_bn" in path else array
        for path, array in weights.items()
    }
    old, new = layouts.to_ours(leaves, weights, "old"), layouts.to_ours(leaves, flat, "new")
    assert all(torch.equal(old[key], new[key]) for key in old)


def test_moments_of_adam_are_read(golden: Path) -> None:
    read = flax_checkpoint.read(golden / "savi_small_mini" / "trajectory_reference")
    assert read.step == 5
    assert set(read.first_moments) == set(read.second_moments) == set(read.params)
    assert all((moment >= 0).all() for moment in read.second_moments.values())
    assert max(np.abs(moment).max() for moment in read.first_moments.values()) > 0


def test_bare_trees_are_read(golden: Path, tmp_path: Path) -> None:
    import msgpack

    data = (golden / "savi_small_mini/checkpoints-0/ckpt-1.flax").read_bytes()
    tree = msgpack.unpackb(data, raw=False, strict_map_key=False)
    for name, part in (
        ("params", {"params": tree["optimizer"]["target"]}),
        ("bare", tree["optimizer"]["target"]),
    ):
        file = tmp_path / f"{name}.flax"
        file.write_bytes(msgpack.packb(part))
        assert len(flax_checkpoint.read(file).params) == 69


@pytest.mark.parametrize("name", ["savi_small", "savi_medium", "savi_large", "savi_plus_plus"])
def test_published_sizes_are_recognised(name: str) -> None:
    config = catalog.recipe(name).model
    with torch.device("meta"):
        state = catalog.build(config).state_dict()
    zeros = {name: torch.zeros(value.shape) for name, value in state.items()}
    weights = layouts.to_theirs(savi_flax.leaves(config), zeros)
    assert savi_flax.from_shapes(shapes(weights)) == config
    counts = {
        "savi_small": 895_268,
        "savi_medium": 1_140_740,
        "savi_large": 22_273_412,
        "savi_plus_plus": 23_132_165,
    }
    assert sum(array.size for array in weights.values()) == counts[name]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x80\x04\x95cbuiltins\neval\n.", "pickle"),
        (b"PK\x03\x04 a torch file", "pickle"),
        (b"", "not a whole flax checkpoint"),
        (gzip.compress(b"\x81\xa1a\x01", mtime=0), "no flax parameters"),
        (b"\x93\x01\x02\x03", "map of arrays"),
    ],
    ids=["pickle", "torch", "empty", "no weights", "a list"],
)
def test_foreign_files_are_refused(tmp_path: Path, data: bytes, says: str) -> None:
    file = tmp_path / "ckpt-1.flax"
    file.write_bytes(data)
    with pytest.raises(UserError, match=says):
        flax_checkpoint.read(file)


def test_a_cut_checkpoint_is_refused(golden: Path, tmp_path: Path) -> None:
    data = (golden / "savi_small_mini/checkpoints-0/ckpt-1.flax").read_bytes()
    file = tmp_path / "ckpt-1.flax"
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="not a whole flax checkpoint"):
        flax_checkpoint.read(file)


def test_a_damaged_case_is_named(golden: Path, tmp_path: Path) -> None:
    case = golden_copy(golden / "savi_small_mini", tmp_path)
    (case / "inputs.npz").write_bytes((case / "inputs.npz").read_bytes()[:500])
    with pytest.raises(UserError, match="savi_small_mini"):
        golden_case(case)
    (case / "inputs.npz").unlink()
    with pytest.raises(UserError, match=r"inputs\.npz is missing"):
        golden_case(case)


def test_unknown_systems_are_named(golden: Path, tmp_path: Path) -> None:
    case = golden_copy(golden / "savi_small_mini", tmp_path)
    config = json.loads((case / "config.json").read_text())
    (case / "config.json").write_text(json.dumps({**config, "model": "monet"}))
    with pytest.raises(UserError, match="monet"):
        golden_result(case)

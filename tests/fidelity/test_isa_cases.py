"""Invariant Slot Attention against recordings of the original program; tolerances of the specification."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fidelity import isa as isa_golden
from fidelity.cases import System, Verdict, checks, read_case
from fidelity.loading import streamed_weights
from fidelity.systems import failed, verify
from torchslots import hub
from torchslots.convert import layouts
from torchslots.convert.convert import convert
from torchslots.convert.originals import isa as isa_flax
from torchslots.convert.readers.checkpoint import Checkpoint
from torchslots.io.errors import UserError
from torchslots.models.weights import shapes
from torchslots.recipes import isa
from torchslots.recipes.config import ModelConfig
from torchslots.recipes.savi import CnnConfig, ResNetConfig
from torchslots.training import optim

CASES = (
    "isa_tetrominoes_baseline_mini",
    "isa_extra_options_mini",
    "isa_clevrtex_resnet_transl_scale_mini",
    "isa_clevr_transl_scale_mini",
)


@pytest.mark.parametrize("name", CASES)
def test_recorded_case(golden: Path, name: str) -> None:
    result = verify([golden / name])[0]
    assert result.passed, [check for check in result.checks if not check.passed]
    names = {check.name for check in result.checks}
    assert {
        "states",
        "recon",
        "masks",
        "segmentations",
        "loss",
        "attn_rounds",
        "slots_iter",
        "init_state",
    } <= names
    assert sum(name.startswith("grad_norm/") for name in names) > 55


def test_the_recorded_steps_are_followed_from_the_start_and_from_the_checkpoint(golden: Path) -> None:
    case = read_case(golden / "isa_clevr_transl_scale_mini")
    found = checks(case, System(isa_golden.trajectory_rows, isa_golden.trajectory))
    checked = {check.name: check for check in found}
    for run in ("fresh", "resume"):
        assert checked[f"trajectory/{run}/loss"].relative < 1e-5
        assert checked[f"trajectory/{run}/lr"].relative < 1e-6
    assert sum("/final/" in name for name in checked) > 100
    assert all(check.passed for check in checked.values())


def test_without_the_moments_resuming_fails(golden: Path) -> None:
    case = read_case(golden / "isa_clevr_transl_scale_mini")
    forgetful = partial(isa_golden.trajectory, restore=False)
    found = checks(case, System(isa_golden.trajectory_rows, forgetful))
    assert any(check.verdict is Verdict.FAIL for check in found if check.name.startswith("trajectory/resume"))


def test_moments_and_updates_are_read(golden: Path) -> None:
    case = read_case(golden / "isa_clevr_transl_scale_mini")
    loaded = isa_golden.load(case)
    model, optimizer = loaded.model, optim.adam(loaded.model)
    optim.load_optimizer(model, optimizer, loaded.adam(), "here")
    assert loaded.read.step == 2
    assert len(optimizer.state) == len(optim.trainable(model))
    assert all(float(state["step"]) == 2.0 for state in optimizer.state.values())
    read = loaded.read
    assert isinstance(read, Checkpoint)
    assert set(read.first_moments) == set(read.second_moments) == set(read.params)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("isa_tetrominoes_baseline_mini", "recon_per_slot"),
        ("isa_extra_options_mini", "rotm_rounds"),
        ("isa_extra_options_mini", "scales_rounds"),
    ],
)
def test_a_wrong_recording_fails(golden: Path, tmp_path: Path, name: str, tensor: str) -> None:
    case = tmp_path / name
    shutil.copytree(golden / name, case, ignore=shutil.ignore_patterns("trajectory.npz"))
    recorded = dict(np.load(case / "outputs.npz"))
    recorded[tensor] = recorded[tensor] * 1.001
    np.savez(case / "outputs.npz", **recorded)
    assert failed(case) == [tensor]


def test_an_unknown_recording_fails(golden: Path, tmp_path: Path) -> None:
    case = tmp_path / "case"
    shutil.copytree(golden / "isa_tetrominoes_baseline_mini", case)
    recorded = dict(np.load(case / "outputs.npz"))
    np.savez(case / "outputs.npz", **recorded, something=np.ones(2))
    assert failed(case) == ["something"]


@pytest.mark.parametrize("name", CASES)
def test_weights_survive_both_ways(golden: Path, name: str) -> None:
    case = read_case(golden / name)
    loaded = isa_golden.load(case)
    theirs, back = loaded.read.params, loaded.to_theirs(loaded.model.state_dict())
    assert set(back) == set(theirs)
    assert all(np.array_equal(back[path], theirs[path]) for path in theirs)


def test_weights_of_the_rule() -> None:
    """Values of numpy's generator, by the rule in config.json of the recorded full cases."""
    wanted = {
        "B/kernel": (2, 3),
        "A/scale": (3,),
        "A/bias": (2,),
        "C_0/state_init": (2, 2),
        "D/pos_embedding": (1, 2, 3, 2),
        "E/general_dense_q_0/kernel": (4, 2),
    }
    weights = streamed_weights(wanted, 5)
    stream = np.random.default_rng(5)
    bias, scale = stream.standard_normal(2), stream.standard_normal(3)
    assert np.allclose(weights["A/bias"], 0.1 * bias) and np.allclose(weights["A/scale"], 1 + 0.1 * scale)
    assert np.allclose(weights["B/kernel"], stream.standard_normal((2, 3)) / np.sqrt(2))
    assert np.allclose(weights["C_0/state_init"], stream.standard_normal((2, 2)))
    assert np.allclose(weights["E/general_dense_q_0/kernel"], 1.5 * stream.standard_normal((4, 2)))
    assert weights["D/pos_embedding"][0, 1, 2].tolist() == [1.0, 1.0]


def test_config_is_read_from_the_reference(golden: Path) -> None:
    case = read_case(golden / "isa_extra_options_mini")
    config = isa_golden.load(case).config
    assert config.resolution == tuple(case.config["resolution"])
    assert (config.invariance, config.rotation_limit, config.temperature) == ("rotation", 90, 0.7)
    assert (
        config.append_pose
        and config.initial_pose == "learned"
        and config.detach == ("position", "scale", "rotation")
    )
    bug = read_case(golden / "isa_clevrtex_resnet_transl_scale_mini")
    assert isa_golden.load(bug).config.grid == "missing_as_released"


def test_an_option_that_is_not_here_is_refused(golden: Path) -> None:
    case = read_case(golden / "isa_extra_options_mini")
    case.config["config"]["model"]["corrector"]["mix_slots"] = True
    with pytest.raises(UserError, match="mix_slots"):
        isa_golden.load(case)


def _theirs(config: ModelConfig) -> dict[str, np.ndarray]:
    assert isinstance(config, isa.IsaConfig)
    with torch.device("meta"):
        state = isa.build(config).state_dict()
    zeros = {name: torch.zeros(value.shape) for name, value in state.items()}
    return layouts.to_theirs(isa_flax.leaves(config), zeros)


def test_recognizes_what_only_one_recipe_has() -> None:
    for name in ("isa_tetrominoes_transl", "isa_tetrominoes_baseline", "isa_waymo_open_transl"):
        config = isa.RECIPES[name]().model
        assert isa_flax.from_shapes(shapes(_theirs(config))) == config


def test_recognizes_a_released_model_without_its_grid() -> None:
    config = replace(isa.IsaConfig(encoder=ResNetConfig(), invariance="rotation"), grid="missing_as_released")
    assert isa_flax.from_shapes(shapes(_theirs(config))) == config


def test_does_not_guess_between_recipes_of_equal_weights() -> None:
    theirs = _theirs(isa.RECIPES["isa_objects_room_transl_scale"]().model)
    with pytest.raises(
        UserError, match=r"isa_objects_room_transl_scale.*isa_clevr_with_masks_transl_scale_v2"
    ):
        isa_flax.from_shapes(shapes(theirs))


def test_a_foreign_checkpoint_is_refused_by_its_parts() -> None:
    with pytest.raises(UserError, match="TransformerBlock_0"):
        isa_flax.from_shapes({"TransformerBlock_0/kernel": (1,)})


def test_unreleased_sizes_ask_for_the_configuration() -> None:
    config = isa.IsaConfig(
        resolution=(16, 16),
        slot_size=8,
        encoder=CnnConfig((8,), (1,)),
        decoder=isa.CnnDecoderConfig(grid=(8, 8), channels=(8,), strides=(2,)),
    )
    with pytest.raises(UserError, match="--config"):
        isa_flax.from_shapes(shapes(_theirs(config)))


@pytest.mark.parametrize("name", CASES)
def test_a_converted_checkpoint_loads_and_decodes_the_same(golden: Path, tmp_path: Path, name: str) -> None:
    converted = convert(golden / name / "checkpoint", out=tmp_path, config=golden / name / "config.json")
    assert converted.step == (2 if name == "isa_clevr_transl_scale_mini" else None)
    case = read_case(golden / name)
    loaded = isa_golden.load(case)
    batch, model = {"video": torch.from_numpy(case.inputs["video"]).movedim(-1, 2)}, loaded.model
    ours, theirs = (
        one.predict(batch | {"generator": torch.Generator().manual_seed(0)}).masks
        for one in (hub.load_model(tmp_path), model)
    )
    assert torch.equal(ours, theirs)


def test_a_recipe_of_other_sizes_is_refused_with_the_first_arrays(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing|of another shape"):
        convert(
            golden / "isa_tetrominoes_baseline_mini" / "checkpoint",
            out=tmp_path,
            recipe="isa_tetrominoes_transl",
        )

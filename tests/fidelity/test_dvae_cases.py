"""Recordings of STEVE's discrete VAE: a small model whole, the one of full size by names."""

import json

import numpy as np
import pytest
import torch

from fidelity import full_size
from fidelity.cases import Verdict
from fidelity.hash_init import state_dict, with_model
from fidelity.systems import failed, verify
from torchslots.convert import layouts
from torchslots.convert.originals import dvae as dvae_torch
from torchslots.io.errors import UserError
from torchslots.recipes import catalog
from torchslots.recipes.tokenizers import build_dvae

CASE = "dvae_mini"


@pytest.fixture
def case(golden, tmp_path):
    return with_model(golden / CASE, tmp_path)


def test_equal_to_the_original(case):
    (result,) = verify([case])
    assert result.passed, [check for check in result.checks if not check.passed]
    names = {check.name for check in result.checks}
    assert {"logits", "token_id", "recon_argmax", "recon_soft", "recon_hard", "tau_sched"} <= names
    assert {"train_losses", "grad_norm/decoder.0.m.weight", "param_norm_after_train/encoder.7.bias"} <= names
    assert len(names) > 110


def test_changed_recordings_fail_alone(case):
    changed = {"logits", "recon_soft", "recon_hard", "token_id"}
    outputs = dict(np.load(case / "outputs.npz"))
    for key in changed:
        outputs[key] = outputs[key] + 1 if key == "token_id" else outputs[key] * np.float32(1.001)
    np.savez(case / "outputs.npz", **outputs)
    found = {check.name: check.verdict for check in verify([case])[0].checks}
    assert {name for name, verdict in found.items() if verdict is not Verdict.PASS} == changed
    assert Verdict.OPEN not in found.values()


@pytest.mark.parametrize(
    ("noise", "failing"),
    [
        ("exponential", {"recon_soft", "recon_loss_hard", "grad_norm/decoder.11.bias"}),
        ("train_exponential", {"train_losses"}),
    ],
    ids=["forward", "training"],
)
def test_the_recorded_noise_decides(case, noise, failing):
    inputs = dict(np.load(case / "inputs.npz"))
    inputs[noise] = np.roll(inputs[noise], 1, axis=-1)
    np.savez(case / "inputs.npz", **inputs)
    assert failing <= set(failed(case))


def test_read_and_written_back(golden):
    theirs = {name: value.numpy() for name, value in state_dict(golden / CASE).items()}
    config = dvae_torch.from_reference(json.loads((golden / CASE / "config.json").read_text())["config"])
    leaves, model = dvae_torch.leaves(config), build_dvae(config)
    model.load_state_dict(layouts.to_ours(leaves, theirs, "here"))
    back = layouts.to_theirs(leaves, dict(model.state_dict()))
    assert back.keys() == theirs.keys() and all(np.array_equal(back[name], theirs[name]) for name in theirs)
    assert {leaf.path for leaf in dvae_torch.leaves(config, "dvae.")} == {f"dvae.{name}" for name in theirs}


def test_full_size_names_shapes_and_counts(golden):
    names = full_size.read_names(golden, "dvae_movie")
    config = catalog.recipe("dvae_movi_e").model
    with torch.device("meta"):
        ours = build_dvae(config).state_dict()
    leaves = dvae_torch.leaves(config)
    placed = {leaf.path: tuple(ours[leaf.name].shape) for leaf in leaves}
    assert placed == full_size.shapes(names) and {leaf.name for leaf in leaves} == ours.keys()
    assert sum(value.numel() for value in ours.values()) == names["total_params"]
    assert dvae_torch.from_shapes(full_size.shapes(names)) == config


@pytest.mark.parametrize("part", ["resolution", "vocab_size"])
def test_a_configuration_without_a_part_is_refused(golden, part):
    reference = json.loads((golden / CASE / "config.json").read_text())["config"]
    del reference[part]
    with pytest.raises(UserError, match=part):
        dvae_torch.from_reference(reference)

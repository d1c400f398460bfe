"""Recordings of SlotDiffusion's SAVi: small models whole, those of full size by names and digests."""

import json
import shutil
from pathlib import Path

import full_size
import numpy as np
import pytest
import torch
from hash_init import with_model

from torchslots.convert import layouts, savi_pytorch_golden, savi_pytorch_torch
from torchslots.convert.golden import CaseResult, read_case, verify
from torchslots.errors import UserError
from torchslots.recipes import catalog
from torchslots.recipes.savi_pytorch import SaviPytorchConfig, build

CASES = ("savi_torch_mini", "savi_torch_rnn_mini", "savi_torch_mlp_mini")
RECIPES = {
    "savi_movid": "savi_pytorch_movi_d",
    "savi_movie": "savi_pytorch_movi_e",
    "savi_movisolid": "savi_pytorch_movi_solid",
    "savi_movitex": "savi_pytorch_movi_tex",
}


@pytest.mark.parametrize("name", CASES)
def test_equal_to_the_original(golden, tmp_path, name):
    (result,) = verify([with_model(golden / name, tmp_path)])
    failed = [check for check in result.checks if not check.passed]
    assert not failed, failed
    names = {check.name for check in result.checks}
    assert {"slots", "slots_split", "pred_slots_seq", "img_recon_loss", "train_losses", "train_lrs"} <= names
    assert {"grad_norm/init_latents", "param_norm_after_train/init_latents"} <= names
    assert len(names) > 100


@pytest.mark.parametrize("key", ["slots", "slots_split", "pred_slots_seq", "img_recon_loss"])
def test_a_changed_recording_fails(golden, tmp_path, key):
    folder = with_model(golden / CASES[1], tmp_path)
    outputs = dict(np.load(folder / "outputs.npz"))
    outputs[key] = outputs[key] + np.float32(0.01)
    np.savez(folder / "outputs.npz", **outputs)
    result = CaseResult("case", tuple(savi_pytorch_golden.checks(read_case(folder))))
    assert [check.name for check in result.checks if not check.passed] == [key]


def test_an_output_that_nobody_computes_fails(golden, tmp_path):
    folder = with_model(golden / CASES[1], tmp_path)
    outputs = dict(np.load(folder / "outputs.npz"))
    np.savez(folder / "outputs.npz", **outputs, something=np.zeros(3))
    failed = [check.name for check in savi_pytorch_golden.checks(read_case(folder)) if not check.passed]
    assert failed == ["something"]


@pytest.mark.parametrize("part", ["slot_dict", "enc_dict", "dec_dict", "resolution"])
def test_a_configuration_without_a_part_is_refused(golden, tmp_path, part):
    folder = with_model(golden / CASES[0], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["config"][part]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=part):
        list(savi_pytorch_golden.checks(read_case(folder)))


def test_a_case_without_weights_is_refused(golden, tmp_path):
    folder = Path(shutil.copytree(golden / CASES[0], tmp_path / "case"))
    with pytest.raises(UserError, match=r"model\.pth"):
        list(savi_pytorch_golden.checks(read_case(folder)))


# -------------------------------------------------------------------------------------------------- full size


@pytest.mark.parametrize("model", RECIPES)
def test_names_shapes_and_counts_of_the_published_models(golden, model):
    names = full_size.read_names(golden, model)
    config = catalog.recipe(RECIPES[model]).model
    assert isinstance(config, SaviPytorchConfig)
    ours = build(config)
    theirs = layouts.to_theirs(savi_pytorch_torch.leaves(config), ours.state_dict())
    assert {name: array.shape for name, array in theirs.items()} == full_size.shapes(names)
    assert sum(p.numel() for p in ours.parameters()) == names["total_params"] == names["trainable_params"]
    assert savi_pytorch_torch.from_shapes(full_size.shapes(names)) == config


@pytest.mark.slow
@pytest.mark.parametrize("model", ["savi_movie", "savi_movisolid"])
def test_full_models_compute_what_was_recorded(golden, model):
    config = catalog.recipe(RECIPES[model]).model
    assert isinstance(config, SaviPytorchConfig)
    ours, leaves = build(config).eval(), savi_pytorch_torch.leaves(config)
    parameters = layouts.to_theirs(leaves, dict(ours.named_parameters()))
    hashed = full_size.weights(golden, "SAVi", {name: array.shape for name, array in parameters.items()})
    buffers = layouts.to_theirs(leaves, dict(ours.named_buffers()))
    ours.load_state_dict(layouts.to_ours(leaves, buffers | hashed, model))
    recorded = full_size.read_digests(golden, model)
    batch = savi_pytorch_golden.to_batch({"img": full_size.video(golden, "SAVi", num_frames=2).numpy()})
    with torch.no_grad():
        found = savi_pytorch_golden.forward(ours, batch)
    for name in ("encoder_out", "slots", "masks", "recon_img"):
        full_size.assert_equal(recorded, name, found[name])
    assert found["img_recon_loss"] == pytest.approx(recorded["img_recon_loss"], rel=1e-5)

"""Recordings of SlotDiffusion's VQ-VAE: a small model whole, the one of full size by names and digests."""

import json

import numpy as np
import pytest
import torch

from fidelity import full_size
from fidelity import vqvae as vqvae_golden
from fidelity.cases import MARGIN, read_case
from fidelity.hash_init import state_dict, with_model
from fidelity.hash_weights import hash_weights
from fidelity.systems import failed, verify
from torchslots.convert import layouts
from torchslots.convert.originals import vqvae as vqvae_torch
from torchslots.io.errors import UserError
from torchslots.recipes import catalog
from torchslots.recipes.tokenizers import VqvaeConfig, build_vqvae

CASE = "vqvae_mini"


@pytest.fixture
def case(golden, tmp_path):
    return with_model(golden / CASE, tmp_path)


def test_equal_to_the_original(case):
    (result,) = verify([case])
    assert result.passed, [check for check in result.checks if not check.passed]
    names = {check.name for check in result.checks}
    assert {"latent", "quant_idx", "recon", "eval_quant_loss", "train_losses", "train_lrs"} <= names
    assert {
        "grad_norm/quantize.embedding.weight",
        "param_norm_after_train/decoder.up.1.upsample.conv.bias",
    } <= names
    assert len(names) > 260


def test_changed_recordings_fail_alone(case):
    changed = {"latent", "quant", "recon", "quant_loss"}
    outputs = dict(np.load(case / "outputs.npz"))
    for key in changed:
        outputs[key] = outputs[key] * np.float32(1.001)
    np.savez(case / "outputs.npz", **outputs)
    assert set(failed(case)) == changed


def test_a_code_counts_unless_rounding_decided_it(case):
    recorded = read_case(case)
    model = vqvae_golden.load(recorded).model
    with torch.no_grad():
        margins = vqvae_golden.code_margins(model, torch.from_numpy(recorded.outputs["latent"]).flatten(0, 1))
    assert margins.min() == pytest.approx(recorded.config["vq_margin"], rel=0.1)
    codes = recorded.outputs["quant_idx"].copy()
    codes.reshape(-1)[int(margins.argmax())] += 1
    np.savez(case / "outputs.npz", **{**recorded.outputs, "quant_idx": codes})
    assert margins.max() > MARGIN and "quant_idx" in failed(case)


@pytest.mark.parametrize("what", ["grad_norm", "param_norm_after_train"])
def test_changed_gradients_and_weights_fail(case, what):
    name = "decoder.conv_out.weight"
    norms = json.loads((case / "grads.json").read_text())
    norms[what][name] *= 1.01
    (case / "grads.json").write_text(json.dumps(norms))
    assert failed(case) == [f"{what}/{name}"]


def test_read_and_written_back(golden):
    theirs = {name: value.numpy() for name, value in state_dict(golden / CASE).items()}
    config = vqvae_torch.from_reference(json.loads((golden / CASE / "config.json").read_text())["config"])
    leaves = vqvae_torch.leaves(config)
    model = build_vqvae(config)
    model.load_state_dict(layouts.to_ours(leaves, theirs, "here"))
    back = layouts.to_theirs(leaves, dict(model.state_dict()))
    assert back.keys() == theirs.keys()
    assert all(np.array_equal(back[name], theirs[name]) for name in theirs)
    inside = vqvae_torch.leaves(config, "dm_decoder.vae.vqvae.", "decoder.tokenizer.")
    assert {leaf.path for leaf in inside} == {f"dm_decoder.vae.vqvae.{name}" for name in theirs}
    assert {leaf.name for leaf in inside} == {f"decoder.tokenizer.{name}" for name in model.state_dict()}


def test_attention_in_levels_has_the_original_s_names():
    config = VqvaeConfig(channels=32, multipliers=(1, 1), num_blocks=1, attention_levels=(1,), num_codes=8)
    names = {leaf.path: leaf.name for leaf in vqvae_torch.leaves(config)}
    assert names["encoder.down.1.attn.0.proj_out.bias"] == "encoder.down_1.attentions.0.to_out.0.bias"
    assert names["decoder.up.1.attn.1.norm.weight"] == "decoder.up_1.attentions.1.group_norm.weight"
    assert "encoder.down.0.attn.0.q.weight" not in names
    ours = build_vqvae(config).state_dict()
    shapes = {path: tuple(ours[name].shape) for path, name in names.items()}
    found = vqvae_torch.from_shapes(shapes)
    assert (found.attention_levels, found.num_blocks, found.multipliers) == ((1,), 1, (1, 1))


def test_full_size_names_shapes_and_counts(golden):
    names = full_size.read_names(golden, "vqvae_movie")
    theirs = {name: shape for name, shape in full_size.shapes(names).items() if not name.startswith("loss.")}
    config = catalog.recipe("vqvae_movi_e").model
    with torch.device("meta"):
        ours = build_vqvae(config).state_dict()
    leaves = vqvae_torch.leaves(config)
    placed = {leaf.path: leaf.write(np.empty(ours[leaf.name].shape, np.float32)).shape for leaf in leaves}
    assert placed == theirs and {leaf.name for leaf in leaves} == ours.keys()
    assert sum(value.numel() for value in ours.values()) == names["trainable_params"]
    assert vqvae_torch.from_shapes(full_size.shapes(names)) == config


@pytest.mark.slow
def test_the_full_model_computes_what_was_recorded(golden):
    theirs = full_size.shapes(full_size.read_names(golden, "vqvae_movie"))
    hashed = full_size.weights(
        golden, "VQVAE", {n: s for n, s in theirs.items() if not n.startswith("loss.")}
    )
    config = catalog.recipe("vqvae_movi_e").model
    model = build_vqvae(config).eval()
    model.load_state_dict(layouts.to_ours(vqvae_torch.leaves(config), hashed, "here"))
    recorded, images = full_size.read_digests(golden, "vqvae_movie"), full_size.video(golden, "VQVAE", 1)[0]
    with torch.no_grad():
        latent = model.encode(images)
        snapped = model.quantize(latent)
        recon = model.decode(snapped.latent, quantize=False)
    full_size.assert_equal(recorded, "latent", latent[None].numpy())
    assert (snapped.codes.numpy() != recorded["token_id"][0]).mean() < 0.005
    assert snapped.loss.item() == pytest.approx(recorded["quant_loss"], rel=1e-4)
    full_size.assert_equal(recorded, "recon", recon[None].numpy())


@pytest.mark.slow
def test_lpips_of_a_checkpoint_takes_part(case, golden):
    """No recording has it: its loss is there, and the pixels' is then the absolute one."""
    config = json.loads((case / "config.json").read_text())
    config["config"]["vq_dict"]["percept_loss_w"] = 1.0
    (case / "config.json").write_text(json.dumps(config))
    names = full_size.shapes(full_size.read_names(golden, "vqvae_movie"))
    lpips = {name: shape for name, shape in names.items() if name.startswith("loss.")}
    lpips_state = {name: torch.from_numpy(value) for name, value in hash_weights(lpips, 1).items()}
    torch.save({**state_dict(golden / CASE), **lpips_state}, case / "model.pth")
    recorded = read_case(case)
    model = vqvae_golden.load(recorded).model
    assert not any(name.startswith("perceptual") for name in model.state_dict())
    with torch.no_grad():
        found = vqvae_golden.forward(
            model, recorded.inputs, recorded.outputs["quant_idx"], np.ones((2, 16, 16))
        )
        losses = model.loss(vqvae_golden.to_batch(recorded.inputs))
    assert found["eval_recon_loss"] == pytest.approx(recorded.outputs["l1_loss"], rel=1e-5)
    assert (
        found["eval_percept_loss"] == pytest.approx(losses["percept"].item(), rel=1e-5)
        and losses["percept"] > 0
    )


@pytest.mark.parametrize("part", ["resolution", "enc_dec_dict", "vq_dict"])
def test_a_configuration_without_a_part_is_refused(golden, part):
    reference = json.loads((golden / CASE / "config.json").read_text())["config"]
    del reference[part]
    with pytest.raises(UserError, match=part):
        vqvae_torch.from_reference(reference)


@pytest.mark.parametrize(("name", "value"), [("in_channels", 4), ("double_z", True), ("attn_type", "linear")])
def test_what_is_not_built_here_is_refused(golden, name, value):
    reference = json.loads((golden / CASE / "config.json").read_text())["config"]
    reference["enc_dec_dict"][name] = value
    with pytest.raises(UserError, match=name):
        vqvae_torch.from_reference(reference)


@pytest.mark.parametrize("spoil", ["missing", "cut", "without_note"])
def test_damaged_records_of_training_are_refused(case, spoil):
    if spoil == "missing":
        (case / "grads.json").unlink()
    elif spoil == "cut":
        (case / "grads.json").write_text('{"grad_norm": {')
    else:
        config = json.loads((case / "config.json").read_text())
        config["loss_note"] = "some words"
        (case / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json|grads\.json"):
        failed(case)

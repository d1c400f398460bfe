"""Recordings of SlotDiffusion's STEVE: a small model whole, those of full size by names and digests."""

import gzip
import json
from typing import cast

import numpy as np
import pytest
import torch

from fidelity import full_size
from fidelity import steve as steve_golden
from fidelity.cases import read_case
from fidelity.hash_init import state_dict, with_model
from fidelity.loading import load
from fidelity.systems import failed, verify
from torchslots.convert import layouts
from torchslots.convert.convert import convert
from torchslots.convert.originals import steve as steve_torch
from torchslots.hub import load_model
from torchslots.io.errors import UserError
from torchslots.models.decoders.autoregressive import AutoregressiveDecoder
from torchslots.recipes import catalog
from torchslots.recipes.steve import SteveConfig, build

CASE = "steve_mini"
MASK = "trans_decoder.tf_dec.blocks.1.self_attn_mask"
RECIPES = {
    "steve_movid": "steve_movi_d",
    "steve_movie": "steve_movi_e",
    "steve_movisolid": "steve_movi_solid",
    "steve_movitex": "steve_movi_tex",
}


def test_equal_to_the_original(golden, tmp_path):
    (result,) = verify([with_model(golden / CASE, tmp_path)])
    assert result.passed, [check for check in result.checks if not check.passed]
    names = {check.name for check in result.checks}
    assert {"slots", "masks", "ar_ids", "ar_logits", "ar_recon", "token_recon_loss_given"} <= names
    assert {"weights", "train_losses", "train_lrs", "grad_norm/trans_decoder.tok_emb.weight"} <= names
    assert len(names) > 180


def test_changed_recordings_fail_alone(golden, tmp_path):
    """Among them one that is not computed here."""
    changed = {"ar_logits", "target_token_id", "token_recon_loss", "masks"}
    folder = with_model(golden / CASE, tmp_path)
    outputs = dict(np.load(folder / "outputs.npz"))
    for key in changed:
        outputs[key] = outputs[key] + (1 if key == "target_token_id" else np.float32(0.01))
    np.savez(folder / "outputs.npz", **outputs, something=np.zeros(3))
    assert set(failed(folder)) == {*changed, "something"}


def test_another_written_code_fails(golden, tmp_path):
    folder = with_model(golden / CASE, tmp_path)
    outputs = dict(np.load(folder / "outputs.npz"))
    outputs["ar_ids"][2, 10] = (outputs["ar_ids"][2, 10] + 1) % 32
    np.savez(folder / "outputs.npz", **outputs)
    assert failed(folder) == ["ar_ids"]


@pytest.mark.parametrize("part", ["slot_dict", "enc_dict", "dec_dict", "dvae_dict", "resolution"])
def test_a_configuration_without_a_part_is_refused(golden, part):
    reference = json.loads((golden / CASE / "config.json").read_text())["config"]
    del reference[part]
    with pytest.raises(UserError, match=part):
        steve_torch.from_reference(reference)


def test_the_loss_of_images_is_asked_for(golden):
    reference = json.loads((golden / CASE / "config.json").read_text())["config"]
    assert steve_torch.from_reference(reference).image_temperature is None
    reference["loss_dict"]["use_img_recon_loss"] = True
    assert steve_torch.from_reference(reference).image_temperature == 0.1


def test_the_image_of_a_soft_sample_is_compared_where_there_is_a_loss_of_it(golden, tmp_path):
    folder = with_model(golden / CASE, tmp_path)
    case = read_case(folder)
    case.config["config"]["loss_dict"]["use_img_recon_loss"] = True
    case.inputs["exponential"] = np.ones((4, 32, 8, 8), np.float32)
    model = load(case).model
    with torch.no_grad():
        found = steve_golden.forward(case, model, steve_golden.to_batch(case.inputs))
    error = ((found["recon_img"] - found["gt_img"]) ** 2).mean()
    np.testing.assert_allclose(found["img_recon_loss"], error, rtol=1e-5)
    np.testing.assert_allclose(found["gt_img"], case.inputs["img"].reshape(4, 3, 32, 32), atol=1e-6)


# ---------------------------------------------------------------------------------------------- checkpoints


def write(tensors, tmp_path):
    torch.save(tensors, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def test_converted_and_loaded(golden, tmp_path):
    reference = golden / CASE / "config.json"
    tensors = state_dict(golden / CASE)
    convert(write(tensors, tmp_path), tmp_path / "out", config=reference)
    model = load_model(tmp_path / "out")
    config = cast(SteveConfig, model.config)
    written = layouts.to_theirs(steve_torch.leaves(config), dict(model.state_dict()))
    written |= steve_torch.masks(config)
    assert set(written) == set(tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(written[name], value.numpy(), err_msg=name)
    assert not [name for name in model.state_dict() if "mask" in name]


def test_masks_may_be_missing(golden, tmp_path):
    tensors = state_dict(golden / CASE)
    bare = {name: value for name, value in tensors.items() if not name.endswith("self_attn_mask")}
    convert(write(bare, tmp_path), tmp_path / "out", config=golden / CASE / "config.json")


def test_a_mask_that_lets_look_ahead_is_refused(golden, tmp_path):
    tensors = state_dict(golden / CASE)
    tensors[MASK] = tensors[MASK].clone()
    tensors[MASK][3, 5] = False
    with pytest.raises(UserError, match=r"blocks\.1\.self_attn_mask.* is not the causal mask of 64 codes"):
        convert(write(tensors, tmp_path), tmp_path / "out", config=golden / CASE / "config.json")


def test_a_model_without_its_tokenizer_is_refused(golden, tmp_path):
    tensors = state_dict(golden / CASE)
    bare = {name: value for name, value in tensors.items() if not name.startswith("dvae.")}
    with pytest.raises(UserError, match=r"without its discrete VAE \(`dvae\.\*`\)"):
        convert(write(bare, tmp_path), tmp_path / "out")


def test_another_vocabulary_is_refused(golden, tmp_path):
    reference = json.loads((golden / CASE / "config.json").read_text())
    reference["config"]["dvae_dict"]["vocab_size"] = 40
    (tmp_path / "config.json").write_text(json.dumps(reference))
    with pytest.raises(UserError, match="of another shape"):
        convert(write(state_dict(golden / CASE), tmp_path), tmp_path / "out", config=tmp_path / "config.json")


# -------------------------------------------------------------------------------------------------- full size


def names_of(golden, model):
    return json.loads(gzip.decompress((golden / "sd_params" / f"params_{model}_full.json.gz").read_bytes()))


def config_of(model) -> SteveConfig:
    return cast(SteveConfig, catalog.recipe(RECIPES[model]).model)


@pytest.mark.parametrize("model", RECIPES)
def test_names_shapes_and_counts_of_the_published_models(golden, model):
    names, config = names_of(golden, model), config_of(model)
    with torch.device("meta"):
        ours = build(config)
    shapes = {name: tuple(value.shape) for name, value in ours.state_dict().items()}
    leaves, masks = steve_torch.leaves(config), steve_torch.masks(config)
    placed = {leaf.path: leaf.write(np.empty(shapes[leaf.name], np.float32)).shape for leaf in leaves}
    assert placed | {name: mask.shape for name, mask in masks.items()} == full_size.shapes(names)
    counts = {True: 0, False: 0}
    for parameter in ours.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    assert counts[True] == names["trainable_params"]
    assert sum(counts.values()) + sum(mask.size for mask in masks.values()) == names["total_params"]
    assert steve_torch.from_shapes(full_size.shapes(names)) == config


@pytest.mark.slow
def test_a_full_model_computes_what_was_recorded(golden):
    config, recorded = config_of("steve_movie"), full_size.read_digests(golden, "steve_movie")
    ours, leaves = build(config).eval(), steve_torch.leaves(config)
    parameters = layouts.to_theirs(leaves, dict(ours.named_parameters()))
    hashed = full_size.weights(golden, "STEVE", {name: array.shape for name, array in parameters.items()})
    buffers = layouts.to_theirs(leaves, dict(ours.named_buffers()))
    ours.load_state_dict(layouts.to_ours(leaves, buffers | hashed, "steve_movie"))
    num_frames = int(recorded["masks/shape"][1])
    batch = steve_golden.to_batch({"img": full_size.video(golden, "STEVE", num_frames).numpy()})
    decoder = cast(AutoregressiveDecoder, ours.decoder)
    with torch.no_grad():
        clip = ours.encode(batch)
        slots = clip.slots.flatten(0, 1)
        codes = decoder.target_codes(decoder.tokenizer, 2 * batch["video"].flatten(0, 1) - 1, batch).codes
        scores = decoder.writer(codes, slots)
        written = decoder.writer.generate(slots)
        loss = ours.loss(batch)["tokens"]
    np.testing.assert_allclose(clip.slots, recorded["slots"], rtol=1e-4, atol=1e-4)
    full_size.assert_equal(recorded, "masks", decoder.decode(clip, recon=False).masks.numpy())
    np.testing.assert_array_equal(codes, recorded["target_token_id"])
    full_size.assert_equal(recorded, "pred_token_id", scores.numpy())
    np.testing.assert_array_equal(written[:, :6], recorded["ar_ids_first6"])
    assert loss.item() == pytest.approx(float(recorded["token_recon_loss"]), rel=1e-5)

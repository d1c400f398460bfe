"""Recordings of SlotDiffusion's SAVi: small models whole, those of full size by names and digests."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from fidelity import full_size
from fidelity import savi_slotdiffusion as savi_pytorch_golden
from fidelity.cases import read_case
from fidelity.hash_init import with_model
from fidelity.systems import failed, verify
from torchslots.convert import layouts
from torchslots.convert.originals import savi_slotdiffusion as savi_pytorch_torch
from torchslots.convert.readers import torch as torch_checkpoint
from torchslots.io.errors import UserError
from torchslots.models.weights import shapes
from torchslots.recipes import catalog
from torchslots.recipes.savi_slotdiffusion import SaviPytorchConfig, build
from torchslots.recipes.slotdiffusion_encoder import SlotsConfig

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
    assert result.passed, [check for check in result.checks if not check.passed]
    names = {check.name for check in result.checks}
    assert {"slots", "slots_split", "pred_slots_seq", "img_recon_loss", "train_losses", "train_lrs"} <= names
    assert {"grad_norm/init_latents", "param_norm_after_train/init_latents"} <= names
    assert len(names) > 100


def test_changed_recordings_fail_alone(golden, tmp_path):
    """Among them one that is not computed here."""
    changed = {"slots", "slots_split", "pred_slots_seq", "img_recon_loss"}
    folder = with_model(golden / CASES[1], tmp_path)
    outputs = dict(np.load(folder / "outputs.npz"))
    for key in changed:
        outputs[key] = outputs[key] + np.float32(0.01)
    np.savez(folder / "outputs.npz", **outputs, something=np.zeros(3))
    assert set(failed(folder)) == {*changed, "something"}


@pytest.mark.parametrize("part", ["slot_dict", "enc_dict", "dec_dict", "resolution"])
def test_a_configuration_without_a_part_is_refused(golden, tmp_path, part):
    folder = with_model(golden / CASES[0], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["config"][part]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=part):
        failed(folder)


def test_a_case_without_weights_is_refused(golden, tmp_path):
    folder = Path(shutil.copytree(golden / CASES[0], tmp_path / "case"))
    with pytest.raises(UserError, match=r"model\.pth"):
        failed(folder)


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


# ---------------------------------------------------------------------------------------- what is not built here


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("enc_dict", {"dino": "dino_vits8"}, "DINO"),
        ("enc_dict", {"replace_stride_with_dilation": [False, True, False]}, "dilated"),
        ("enc_dict", {"enc_norm": "ln"}, "no norm `ln`"),
        ("dec_dict", {"dec_norm": "ln"}, "no norm `ln`"),
        ("dec_dict", {"dec_resolution": [5, 5]}, "makes images of"),
        ("enc_dict", {"resnet": "resnet50", "use_layer4": False}, "resnet50"),
    ],
    ids=["dino", "dilation", "encoder norm", "decoder norm", "grid", "resnet50"],
)
def test_configurations_that_are_not_built_here_are_refused(golden, part, change, words):
    reference = json.loads((golden / CASES[0] / "config.json").read_text())["config"]
    reference[part] |= change
    with pytest.raises(UserError, match=words):
        savi_pytorch_torch.from_reference(reference)


@pytest.mark.parametrize("name", CASES)
def test_sizes_are_recognised_from_shapes(golden, name):
    """All but those that no weight depends on."""
    names = json.loads((golden / name / "state_dict.json").read_text())
    shapes = {path: tuple(shape) for path, (shape, _) in names.items()}
    found = savi_pytorch_torch.from_shapes(shapes)
    recorded = savi_pytorch_torch.from_reference(
        json.loads((golden / name / "config.json").read_text())["config"]
    )
    assert found.decoder == recorded.decoder
    free = ("num_iterations", "predictor", "truncate_every")
    assert _without(found.slots, free) == _without(recorded.slots, free)
    assert type(found.slots.predictor) is type(recorded.slots.predictor)


def _without(config: SlotsConfig, names: tuple[str, ...]) -> dict[str, object]:
    return {name: value for name, value in asdict(config).items() if name not in names}


@pytest.mark.parametrize(
    "lost", ["init_latents", "encoder_pos_embedding.grid", "decoder_pos_embedding.grid", "encoder.0.0.weight"]
)
def test_names_of_another_model_are_refused(golden, lost):
    names = json.loads((golden / CASES[0] / "state_dict.json").read_text())
    shapes = {path: tuple(shape) for path, (shape, _) in names.items() if path != lost}
    with pytest.raises(UserError, match="not the weights"):
        savi_pytorch_torch.from_shapes(shapes)


def test_its_slot_attention_for_images_is_the_same_without_a_predictor():
    reference = {
        "resolution": (128, 128),
        "slot_dict": {"num_slots": 11, "slot_size": 192, "slot_mlp_size": 384, "num_iterations": 3},
        "enc_dict": {"resnet": "resnet18", "use_layer4": False, "enc_out_channels": 192},
        "dec_dict": {
            "dec_channels": (192, 128, 128, 128, 128),
            "dec_resolution": (8, 8),
            "dec_ks": 5,
            "dec_norm": "",
        },
    }
    config = savi_pytorch_torch.from_reference(reference)
    assert config == catalog.recipe("savi_pytorch_clevrtex").model
    theirs = layouts.to_theirs(savi_pytorch_torch.leaves(config), build(config).state_dict())
    assert savi_pytorch_torch.from_shapes({name: array.shape for name, array in theirs.items()}) == config


def test_heads_that_no_weight_tells_and_that_cannot_be_the_published_ones(golden, tmp_path):
    case = read_case(with_model(golden / CASES[0], tmp_path))
    found = {**shapes(torch_checkpoint.read(case.folder / "model.pth").params), "init_latents": (1, 4, 30)}
    with pytest.raises(UserError, match="slot_size 30 cannot be shared out among 4 heads"):
        savi_pytorch_torch.from_shapes(found)

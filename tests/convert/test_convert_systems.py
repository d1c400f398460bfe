"""`convert` on every system's checkpoints: what it says it read, and its answer to a recipe of another system."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from torchslots.convert.convert import convert
from torchslots.hub import load_model
from torchslots.io.errors import UserError
from torchslots.recipes import catalog

CHECKPOINTS = {
    "savi_small_mini/checkpoints-0": ("savi", "SAVi"),
    "savi_plus_plus_mini/checkpoints-0": ("savi", "SAVi"),
    "statm_savi_small_mini/checkpoints-0": ("statm", "STATM"),
    "statm_savi_plus_plus_mini/checkpoints-env2": ("statm", "STATM"),
    "isa_tetrominoes_baseline_mini/checkpoint": ("isa", "Invariant Slot Attention"),
    "isa_clevrtex_resnet_transl_scale_mini/checkpoint": ("isa", "Invariant Slot Attention"),
    "slot_attention_object_discovery_mini/checkpoint": ("slot_attention", "Slot Attention"),
    "slot_attention_set_prediction_mini/checkpoint": ("slot_attention", "Slot Attention"),
}
CHECKPOINTS_OF_ISA = "isa_tetrominoes_baseline_mini", "isa_clevrtex_resnet_transl_scale_mini"
CONFIGURED = {
    "savi_small_mini": "SAVi",
    "statm_savi_small_mini": "STATM",
    "isa_tetrominoes_baseline_mini": "Invariant Slot Attention",
    "slot_attention_set_prediction_mini": "Slot Attention",
    "vqvae_mini": "VQ-VAE",
    "dvae_mini": "STEVE's discrete VAE",
    "steve_mini": "STEVE",
    "savi_torch_mini": "SAVi of SlotDiffusion's code",
    "savi_ldm_mini": "SlotDiffusion",
}
"""What the recorded configurations are of."""
OTHERS = {
    "savi": "savi_small",
    "statm": "statm_savi_small",
    "isa": "isa_tetrominoes_transl",
    "slot_attention": "slot_attention_clevr6",
}


@pytest.mark.parametrize("place", CHECKPOINTS)
def test_what_was_read_is_reported(golden: Path, tmp_path: Path, place: str):
    source, (family, _) = golden / place, CHECKPOINTS[place]
    done = convert(source, tmp_path / "out", config=source.parent / "config.json")
    model = load_model(tmp_path / "out")
    assert model.config.family == family and model.config == done.config
    assert f"Read {done.num_arrays} arrays" in str(done) and f"of the family {family}" in str(done)
    assert f"{done.num_weights:,} numbers" in str(done) and str(tmp_path / "out") in str(done)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert 0 <= done.num_weights - weights < 0.2 * weights  # position grids are stored, but not learned


@pytest.mark.parametrize("place", CHECKPOINTS)
def test_a_recipe_of_another_system_is_answered_with_the_right_one(golden: Path, tmp_path: Path, place: str):
    family, title = CHECKPOINTS[place]
    for other, recipe in OTHERS.items():
        if other == family:
            continue
        with pytest.raises(UserError, match=title) as caught:
            convert(golden / place, tmp_path / "out", recipe=recipe)
        said = set(re.findall(r"\w+", str(caught.value).replace(str(golden), "")))
        offered = [name for name in catalog.RECIPES if name in said and name != recipe]
        assert offered and all(catalog.recipe(name).model.family == family for name in offered)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", CHECKPOINTS)
def test_a_configuration_of_another_system_is_refused(golden: Path, tmp_path: Path, place: str):
    title = CHECKPOINTS[place][1]
    for other, named in CONFIGURED.items():
        if named == title:
            continue
        with pytest.raises(UserError, match=f"checkpoint of {title}, .*{other}.* configures {named}"):
            convert(golden / place, tmp_path / "out", config=golden / other / "config.json")
    assert not (tmp_path / "out").exists()


def test_the_same_system_configured_otherwise_is_refused(golden: Path, tmp_path: Path):
    source, other = CHECKPOINTS_OF_ISA
    with pytest.raises(UserError, match="does not fit"):
        convert(golden / source / "checkpoint", tmp_path / "out", config=golden / other / "config.json")
    assert not (tmp_path / "out").exists()


def test_files_of_none_of_the_systems_are_refused(tmp_path: Path):
    np.savez(tmp_path / "weights.npz", a=np.zeros(3))
    (tmp_path / "notes.json").write_text(json.dumps({"params": 1}))
    for name in ("weights.npz", "notes.json", "nothing"):
        with pytest.raises(UserError, match=name):
            convert(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["page.ckpt", "page.pth", "page.msgpack", "page.safetensors", "page"])
def test_a_page_in_the_place_of_a_checkpoint_is_told(tmp_path: Path, name: str):
    (tmp_path / name).write_text("\n<!DOCTYPE html><html><title>Sign in</title></html>")
    with pytest.raises(UserError, match=r"is a web page, not a checkpoint: .*Download the file itself"):
        convert(tmp_path / name, tmp_path / "out")

"""Recordings of SlotDiffusion: a small model whole, those of full size by names and digests."""

import gzip
import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from fidelity import full_size
from fidelity import slotdiffusion as slotdiffusion_golden
from fidelity.cases import Case, Check, System, Verdict, checks, read_case
from fidelity.hash_init import with_model
from fidelity.hash_weights import normal
from fidelity.loading import load
from fidelity.systems import verify
from torchslots.convert import layouts
from torchslots.convert.originals import slotdiffusion as slotdiffusion_torch
from torchslots.io.errors import UserError
from torchslots.models.decoders.diffusion import DiffusionDecoder
from torchslots.recipes import catalog
from torchslots.recipes.slotdiffusion import SlotDiffusionConfig, UNetConfig, build

CASE = "savi_ldm_mini"
RECIPES = {
    "savi_ldm_movid": "slotdiffusion_movi_d",
    "savi_ldm_movie": "slotdiffusion_movi_e",
    "savi_ldm_movisolid": "slotdiffusion_movi_solid",
    "savi_ldm_movitex": "slotdiffusion_movi_tex",
}


@cache
def names_of(golden: Path, model: str) -> dict[str, Any]:
    packed = golden / "sd_params" / f"params_{model}_full.json.gz"
    return json.loads(gzip.decompress(packed.read_bytes()))


def config_of(model: str) -> SlotDiffusionConfig:
    return cast(SlotDiffusionConfig, catalog.recipe(RECIPES[model]).model)


@torch.no_grad()
def samples(case: Case) -> layouts.Arrays:
    model = load(case).model
    clip = model.encode(slotdiffusion_golden.to_batch(case.inputs))
    return slotdiffusion_golden.sampled(case, model.decoder, clip)


def sampled(case: Case, sampler: str) -> dict[str, Check]:
    """The checks of one sampler alone: all others are slow and checked once."""
    alone = {name: value for name, value in case.outputs.items() if name.startswith(f"{sampler}_")}
    case = replace(case, outputs=alone)
    found = checks(case, System(slotdiffusion_golden.sampler_rows, samples))
    return {check.name: check for check in found}


def test_equal_to_the_original(golden, tmp_path) -> None:
    (result,) = verify([with_model(golden / CASE, tmp_path)])
    assert result.passed, [check for check in result.checks if not check.passed]
    names = {check.name for check in result.checks}
    assert {"slots", "denoise_loss", "denoise_loss_target_v", "denoise_loss_target_x0"} <= names
    assert {"dpm20_latent", "dpm20_intermediate_norms", "ddim10_latent", "train_losses", "train_lrs"} <= names
    assert {"frozen", "weights", "grad_norm/init_latents"} <= names and len(names) > 300


@pytest.mark.slow
def test_a_changed_recording_of_a_sampler_fails(golden, tmp_path) -> None:
    case = read_case(with_model(golden / CASE, tmp_path))
    case.outputs["dpm20_latent"] += np.float32(0.01)
    failed = [name for name, check in sampled(case, "dpm20").items() if not check.passed]
    assert failed == ["dpm20_latent"]


def test_a_sampler_near_a_tie_of_codes_is_open(golden, tmp_path) -> None:
    case = read_case(with_model(golden / CASE, tmp_path))
    assert case.config["vq_margins"]["ddim10"] < 1e-5
    case.outputs["ddim10_latent"] += np.float32(0.01)
    check = sampled(case, "ddim10")["ddim10_latent"]
    assert check.verdict is Verdict.OPEN and "rounding moves ours" in check.note


def test_an_output_that_is_not_computed_fails(golden, tmp_path) -> None:
    case = read_case(with_model(golden / CASE, tmp_path))
    case.outputs["something"] = np.zeros(3)
    found = checks(case, System(slotdiffusion_golden.rows, lambda _: {}))
    (missing,) = [check for check in found if check.name == "something"]
    assert not missing.passed and missing.note == "recorded, but not computed here"


@pytest.mark.parametrize("part", ["slot_dict", "dec_dict", "resolution"])
def test_a_configuration_without_a_part_is_refused(golden, part) -> None:
    reference = json.loads((golden / CASE / "config.json").read_text())["config"]
    del reference[part]
    with pytest.raises(UserError, match=part):
        slotdiffusion_torch.from_reference(reference)


@pytest.mark.parametrize("name, value", [("resblock_updown", True), ("conv_resample", False), ("dims", 3)])
def test_another_kind_of_unet_is_refused(golden, name, value) -> None:
    reference = json.loads((golden / CASE / "config.json").read_text())["config"]
    reference["dec_dict"]["unet_dict"][name] = value
    with pytest.raises(UserError, match=name):
        slotdiffusion_torch.from_reference(reference)


@pytest.mark.parametrize(
    "name, value",
    [("use_ema", True), ("conditioning_key", "concat"), ("vae_dict", {}), ("cond_stage_key", "x")],
)
def test_another_kind_of_decoder_is_refused(golden, name, value) -> None:
    reference = json.loads((golden / CASE / "config.json").read_text())["config"]
    reference["dec_dict"][name] = value
    with pytest.raises(UserError, match=name):
        slotdiffusion_torch.from_reference(reference)


@pytest.mark.parametrize("timesteps, evaluations", [(200, 20), (1000, 20), (1500, 30)])
def test_a_longer_schedule_has_more_evaluations(golden, timesteps, evaluations) -> None:
    reference = json.loads((golden / CASE / "config.json").read_text())["config"]
    reference["dec_dict"]["diffusion_dict"]["timesteps"] = timesteps
    assert slotdiffusion_torch.from_reference(reference).sampling.num_steps == evaluations


def test_a_case_without_weights_is_refused(golden, tmp_path) -> None:
    folder = Path(shutil.copytree(golden / CASE, tmp_path / "case"))
    with pytest.raises(UserError, match=r"model\.pth"):
        load(read_case(folder))


def test_another_schedule_of_noise_is_refused() -> None:
    numbers = SlotDiffusionConfig().diffusion
    params = slotdiffusion_torch.schedule(numbers)
    assert slotdiffusion_torch.without_schedule(params, numbers, "model.pth") == {}
    params["dm_decoder.betas"] = params["dm_decoder.betas"] * np.float32(1.01)
    with pytest.raises(UserError, match=r"model\.pth: `dm_decoder\.betas` .* is not the noise schedule"):
        slotdiffusion_torch.without_schedule(params, numbers, "model.pth")
    del params["dm_decoder.betas"]
    with pytest.raises(UserError, match=r"model\.pth lacks dm_decoder\.betas"):
        slotdiffusion_torch.without_schedule(params, numbers, "model.pth")


@pytest.mark.parametrize(
    "unet",
    [
        UNetConfig((32,), (False,), 1),
        UNetConfig((32, 64), (True, False), 2, transformer_layers=2),
        UNetConfig((64, 32, 64), (True, True, False), 3),
        UNetConfig((64, 128, 64), (False, False, True), 1, transformer_layers=3),
    ],
    ids=["one level", "attention at full size", "down and up", "only the last"],
)
def test_sizes_of_a_unet_are_known_by_its_names(unet) -> None:
    config = replace(SlotDiffusionConfig(), unet=unet)
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in build(config).state_dict().items()}
    leaves = slotdiffusion_torch.leaves(config)
    assert len({leaf.path for leaf in leaves}) == len({leaf.name for leaf in leaves}) == len(shapes)
    theirs = {leaf.path: leaf.write(np.empty(shapes[leaf.name], np.float32)).shape for leaf in leaves}
    assert slotdiffusion_torch.from_shapes(theirs) == config


# -------------------------------------------------------------------------------------------------- full size


@pytest.mark.parametrize("model", RECIPES)
def test_names_shapes_and_counts_of_the_published_models(golden, model) -> None:
    names, config = names_of(golden, model), config_of(model)
    with torch.device("meta"):
        ours = build(config)
    leaves = slotdiffusion_torch.leaves(config)
    shapes = {name: tuple(value.shape) for name, value in ours.state_dict().items()}
    placed = {leaf.path: leaf.write(np.empty(shapes[leaf.name], np.float32)).shape for leaf in leaves}
    tables = {name: table.shape for name, table in slotdiffusion_torch.schedule(config.diffusion).items()}
    assert placed | tables == full_size.shapes(names)
    counts = {True: 0, False: 0}
    for parameter in ours.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    assert sum(counts.values()) == names["total_params"] and counts[True] == names["trainable_params"]
    assert slotdiffusion_torch.from_shapes(full_size.shapes(names)) == config


@pytest.mark.slow
@pytest.mark.parametrize("model", ["savi_ldm_movie", "savi_ldm_movisolid"])
def test_full_models_compute_what_was_recorded(golden, model) -> None:
    config, recorded = config_of(model), full_size.read_digests(golden, model)
    ours, leaves = build(config).eval(), slotdiffusion_torch.leaves(config)
    parameters = layouts.to_theirs(leaves, dict(ours.named_parameters()))
    hashed = full_size.weights(
        golden, "SAViDiffusion", {name: array.shape for name, array in parameters.items()}
    )
    buffers = layouts.to_theirs(leaves, dict(ours.named_buffers()))
    ours.load_state_dict(layouts.to_ours(leaves, buffers | hashed, model))
    noise = normal(int(recorded["noise_salt"]), tuple(recorded["eps_pred/shape"]))
    video = full_size.video(golden, "SAViDiffusion", num_frames=1).numpy()
    batch = slotdiffusion_golden.to_batch({"img": video, "t": recorded["t"], "noise": noise})
    decoder = cast(DiffusionDecoder, ours.decoder)
    with torch.no_grad():
        clip = ours.encode(batch)
        latent = decoder.latents(batch["video"])
        noised = decoder.diffusion.noised(latent, batch["latent_noise"], batch["timesteps"])
        predicted = decoder.unet(noised, batch["timesteps"], clip.slots.flatten(0, 1))
        loss = ours.loss(batch)["denoise"]
    np.testing.assert_allclose(clip.slots, recorded["slots"], rtol=1e-4, atol=1e-4)
    full_size.assert_equal(recorded, "masks", decoder.decode(clip, recon=False).masks.numpy())
    full_size.assert_equal(recorded, "latent", latent.numpy())
    full_size.assert_equal(recorded, "eps_pred", predicted.numpy())
    assert loss.item() == pytest.approx(float(recorded["denoise_loss"]), rel=1e-5)

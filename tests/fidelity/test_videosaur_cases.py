"""Recordings of VideoSAUR, SlotContrast and their DINOSAUR, and the published models by names and shapes."""

import gzip
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fidelity import videosaur as videosaur_golden
from fidelity.cases import read_case
from fidelity.loading import load
from fidelity.systems import failed, verify
from torchslots.convert import convert, systems
from torchslots.convert.layouts import to_ours, to_theirs
from torchslots.convert.originals import videosaur
from torchslots.hub import load_model
from torchslots.io.errors import UserError
from torchslots.models.decoders.features import (
    Explained,
    next_frame_similarity,
    similarity_error,
    temporal_contrast,
)
from torchslots.models.layers.position import resample_positions
from torchslots.models.types import Features
from torchslots.recipes import catalog
from torchslots.recipes.backbones import BackboneConfig
from torchslots.recipes.feature_slots import FeatureSlotsConfig, LossConfig, MixerConfig
from torchslots.recipes.videosaur import VideosaurConfig
from torchslots.training import checkpoint

CASES = ("slotcontrast_ytvis_mini", "videosaur_ytvis_mini", "dinosaur_mixer_mini")
PUBLISHED = {
    "videosaur_movi_c": "videosaur_movi_c",
    "videosaur_movi_e": "videosaur_movi_e",
    "videosaur_ytvis": "videosaur_ytvis",
    "videosaur_ytvis_dinov2": "videosaur_ytvis_dinov2",
    "slotcontrast_movi_c": "slotcontrast_movi_c",
    "slotcontrast_movi_e": "slotcontrast_movi_e",
    "slotcontrast_ytvis": "slotcontrast_ytvis2021",
    "dinosaur_coco_dinov2": "dinosaur_coco_base14_dinov2",
}


@pytest.mark.parametrize("name", CASES)
def test_equal_to_the_original(golden, name):
    (result,) = verify([golden / name])
    assert result.passed, [check for check in result.checks if not check.passed]
    names = {check.name for check in result.checks}
    assert {
        "slots",
        "attn",
        "masks",
        "segmentation_decoder",
        "metric_image_mbo",
        "train_loss",
        "train_lr",
    } <= names
    assert "no other gradient" in names
    assert len(names) > 150


def test_changed_recordings_fail(golden, tmp_path):
    """Among them one that is not computed here."""
    changed = {"slots", "masks", "loss_ss", "metric_ari", "segmentation_attn"}
    folder = Path(shutil.copytree(golden / CASES[0], tmp_path / "case"))
    outputs = dict(np.load(folder / "outputs.npz"))
    for key in changed:
        by = 1 if outputs[key].dtype == np.uint8 else 1e-4
        outputs[key] = outputs[key] + np.asarray(by, outputs[key].dtype)
    np.savez(folder / "outputs.npz", **outputs, something=np.zeros(3))
    assert set(failed(folder)) == {*changed, "something"}


def test_a_gradient_in_the_frozen_backbone_fails(golden, tmp_path, monkeypatch):
    case = read_case(golden / CASES[0])
    run = videosaur_golden.ours(case)
    assert run["no other gradient"] == np.array(True)
    from_reference = videosaur.from_reference

    def tuned(reference, shapes):
        config = from_reference(reference, shapes)
        return replace(config, backbone=replace(config.backbone, trainable_from=1))

    program = next(program for program in systems.PROGRAMS if program.mark == videosaur.MARK)
    changed = [replace(program, from_reference=tuned) if p is program else p for p in systems.PROGRAMS]
    monkeypatch.setattr(systems, "PROGRAMS", changed)
    assert "no other gradient" in failed(golden / CASES[0])


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_published_models_by_names_and_shapes(golden, recipe):
    recorded = json.loads(
        gzip.decompress((golden / "features_params" / f"{PUBLISHED[recipe]}.json.gz").read_bytes())
    )
    found = catalog.recipe(recipe)
    assert isinstance(found.model, FeatureSlotsConfig)
    with torch.device("meta"):
        model = catalog.build(found.model)
    sizes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: tuple(shape) for name, shape in recorded["state_dict"].items()}
    blank = {name: np.broadcast_to(np.float32(0), shape) for name, shape in theirs.items()}
    ours = to_ours(videosaur.leaves(found.model), blank, "published")
    assert {name: tuple(value.shape) for name, value in ours.items()} == sizes
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert trained == recorded["trainable"]
    assert sum(value.numel() for value in model.parameters()) == recorded["total"]
    assert found.optim.learning_rate == pytest.approx(recorded["lr"])
    assert set(recorded["optimizer_order"]) <= set(theirs)
    guessed = videosaur.from_shapes(theirs)
    assert replace(guessed, num_slots=found.model.num_slots) == found.model


@pytest.mark.parametrize("form", ["trainer's", "bare"])
def test_converted_and_back(golden, tmp_path, form):
    source = golden / CASES[1] / "checkpoint.ckpt"
    if form == "bare":
        state = torch.load(source, weights_only=True)["state_dict"]
        source = tmp_path / "weights.ckpt"
        torch.save(state, source)
    done = convert.convert(source, tmp_path / "out", config=golden / CASES[1] / "config.json")
    assert done.config.family == "videosaur" and done.step is None
    model = load_model(tmp_path / "out")
    program, read = systems.open_original(source)
    back = to_theirs(program.leaves(model.config), model.state_dict())
    assert back.keys() == read.params.keys()
    assert all(np.array_equal(back[name], read.params[name]) for name in back)


def test_a_training_of_the_original_goes_on(golden, tmp_path):
    """Adam's moments are those of the trained parameters alone, after five updates."""
    case = read_case(golden / CASES[0])
    loaded = load(case, "trained.ckpt")
    moments = loaded.adam()
    trained = {name for name, value in loaded.model.named_parameters() if value.requires_grad}
    assert {name.split("/", 1)[1] for name in moments} == trained
    assert loaded.read.step == 5 and moments[f"step/{min(trained)}"] == 5
    adam = torch.load(case.folder / "trained.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    torch.testing.assert_close(moments["exp_avg/slot_encoder.initializer.slots"], adam[0]["exp_avg"][0])
    run = tmp_path / "run"
    convert.convert(
        case.folder / "trained.ckpt",
        tmp_path / "out",
        run=run,
        recipe="slotcontrast_ytvis",
        config=case.folder / "config.json",
    )
    assert checkpoint.list_steps(run) == [5]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.pop("decoder.module.pos_emb"), "pos_emb"),
        (lambda state: state.pop("processor.module.corrector.norm_slots.bias"), "norm_slots.bias"),
        (lambda state: state.update(extra=torch.zeros(2)), "extra"),
        (
            lambda state: state.update({"processor.module.corrector.to_k.weight": torch.zeros(3, 3)}),
            "another shape",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(golden, tmp_path, change, message):
    content = torch.load(golden / CASES[0] / "checkpoint.ckpt", weights_only=True)
    change(content["state_dict"])
    torch.save(content, tmp_path / "broken.ckpt")
    with pytest.raises(UserError, match=message):
        convert.convert(tmp_path / "broken.ckpt", tmp_path / "out", config=golden / CASES[0] / "config.json")
    assert not (tmp_path / "out").exists()


def test_another_recipe_is_refused_in_one_message(golden, tmp_path):
    with pytest.raises(UserError, match="do not fit the model") as caught:
        convert.convert(golden / CASES[0] / "checkpoint.ckpt", tmp_path / "out", recipe="videosaur_movi_c")
    assert "--recipe" in str(caught.value)
    with pytest.raises(UserError, match="of another system"):
        convert.convert(golden / CASES[0] / "checkpoint.ckpt", tmp_path / "out", recipe="steve_movi_solid")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"predictor": {"n_blocks": 2}}, "has `n_blocks` 2, the checkpoint 1 of them"),
        ({"predictor": {"pre_norm": False}}, "pre_norm"),
        ({"losses": {"other": {"name": "L1"}}}, "L1"),
        ({"input_type": "image"}, "a model of images, the checkpoint of videos"),
        ({"grouper": {}}, "`n_iters` is missing. Give"),
        ({"grouper": 3}, "a field is ill-typed or of another shape"),
    ],
)
def test_settings_that_are_not_built_are_refused(golden, tmp_path, change, message):
    values = json.loads((golden / CASES[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"model": values["model"] | change}))
    with pytest.raises(UserError, match=message):
        convert.convert(
            golden / CASES[0] / "checkpoint.ckpt", tmp_path / "out", config=tmp_path / "config.json"
        )


# ------------------------------------------------------------------------------------------------- units


@pytest.fixture(scope="module")
def units(golden) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(np.asarray(array))
        for name, array in np.load(golden / "features_units.npz").items()
    }


def test_similarity_of_patches_in_the_next_frame(units):
    keys, temperature = units["timesim/keys"], float(units["timesim/tau"])
    torch.testing.assert_close(
        next_frame_similarity(keys, temperature), units["timesim/target"], rtol=0, atol=1e-6
    )
    logits = units["timesim/logits"].clone().requires_grad_()
    explained = Explained(logits, Features(keys, keys), keys)
    loss = similarity_error(explained, temperature=temperature, first_channel=0)
    loss.backward()
    torch.testing.assert_close(loss.detach(), units["timesim/loss"], rtol=2e-6, atol=0)
    torch.testing.assert_close(logits.grad, units["timesim/grad"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["batch", "video"])
def test_contrast_between_frames(units, form):
    slots = units["contrast/slots"].clone().requires_grad_()
    explained = Explained(slots, Features(slots), slots)
    temperature = float(units["contrast/tau"])
    loss = temporal_contrast(explained, temperature=temperature, whole_batch=form == "batch")
    loss.backward()
    torch.testing.assert_close(loss.detach(), units[f"contrast/{form}_loss"], rtol=2e-6, atol=0)
    torch.testing.assert_close(slots.grad, units[f"contrast/{form}_grad"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("grid", [(16, 16), (24, 24), (37, 37), (12, 20)])
def test_positions_of_another_grid(units, grid):
    recorded = units[f"pos_embed/{grid[0]}x{grid[1]}"][0, 1:]
    found = resample_positions(units["pos_embed/stored"][0, 1:], (37, 37), grid)
    torch.testing.assert_close(found, recorded, rtol=0, atol=1e-6)


def test_a_predictor_of_several_blocks_by_the_names_of_its_module_list(golden):
    """Each block reads what the one before wrote; a checkpoint tells how many there are."""
    case = read_case(golden / CASES[0])
    config = replace(load(case, "checkpoint.ckpt").model.config, predictor_layers=3)
    model = catalog.build(config).eval()
    theirs = to_theirs(videosaur.leaves(config), model.state_dict())
    names = {name.split("predictor.")[1] for name in theirs if ".predictor." in name}
    assert {name.split(".")[1] for name in names} == {"0", "1", "2"} and len(names) == 36
    settings = json.loads((case.folder / "config.json").read_text())
    settings["model"]["predictor"]["n_blocks"] = 3
    shapes = {name: array.shape for name, array in theirs.items()}
    assert videosaur.from_reference(settings, shapes) == config
    back = to_ours(videosaur.leaves(config), theirs, "three blocks")
    assert all(torch.equal(torch.as_tensor(back[name]), value) for name, value in model.state_dict().items())
    with torch.no_grad():
        clip = model.encode({"video": torch.rand(1, 2, 3, *config.resolution)})
        expected = clip.slots
        for block in model.slot_encoder.predictor.block:
            expected = torch.stack([block(frame) for frame in expected.unbind(1)], 1)
    torch.testing.assert_close(clip.predicted, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(clip.predicted, clip.slots, atol=1e-2)
    with pytest.raises(UserError, match=r"predictor_layers is 0\. Give 1 or more"):
        replace(config, predictor_layers=0)


def test_a_threshold_of_similarity_hides_what_is_below_it():
    keys = torch.randn(1, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    found = next_frame_similarity(keys, 0.2, 0.3)[0].numpy()
    given = keys[0].double().numpy()
    for frame, patch in np.ndindex(2, 7):
        here, there = given[frame, patch], given[frame + 1]
        cosine = there @ here / np.linalg.norm(there, axis=1) / np.linalg.norm(here)
        weights = np.where(cosine < 0.3, 0, np.exp(cosine / 0.2))
        expected = weights / weights.sum() if weights.any() else np.full(7, 1 / 7)
        np.testing.assert_allclose(found[frame, patch], expected, rtol=0, atol=1e-6)


def test_a_recorded_threshold_is_part_of_the_configuration(golden):
    case = json.loads((golden / CASES[1] / "config.json").read_text())
    shapes = {
        name: tuple(value.shape)
        for name, value in torch.load(golden / CASES[1] / "checkpoint.ckpt", weights_only=True)[
            "state_dict"
        ].items()
    }
    (loss,) = (loss for loss in case["model"]["losses"].values() if "target_transform" in loss)
    loss["target_transform"]["threshold"] = 0.3
    assert videosaur.from_reference(case, shapes).losses.similarity_threshold == 0.3


def test_one_to_one_matching_of_masks_against_every_assignment():
    """Spec: slots are used once, an object without one counts 0."""
    draw = np.random.default_rng(0)
    labels = np.eye(5, dtype=bool)[draw.integers(0, 5, (2, 3, 6, 6))][..., :4].transpose(0, 1, 4, 2, 3)
    labels[0, :, 3] = False
    segmentation = draw.integers(0, 3, (2, 3, 6, 6))
    kind = {"name": "VideoIoU", "matching": "hungarian"}
    best = []
    for own, slots in zip(labels, segmentation):
        masks = [slots == slot for slot in range(3)]
        objects = [own[:, index] for index in range(4) if own[:, index].any()]
        iou = np.array([[(a & b).sum() / (a | b).sum() for b in masks] for a in objects])
        chosen = [
            sum(iou[index, slot] for index, slot in enumerate(order) if slot < 3)
            for order in itertools.permutations(range(3 + len(objects)), len(objects))
        ]
        best.append(max(chosen) / len(objects))
    np.testing.assert_allclose(
        videosaur_golden.score(kind, labels, segmentation), np.mean(best), rtol=0, atol=1e-12
    )


# ------------------------------------------------------------------------------------ sizes without recordings


@pytest.mark.parametrize("use", ["none", "concat"])
@pytest.mark.parametrize("position_size", [8, 20])
def test_queries_of_another_width_than_the_slots(tmp_path, position_size, use):
    """The allocator then has queries apart from keys and values, and positions are not added to the mixture."""
    config = VideosaurConfig(
        resolution=(16, 16),
        backbone=BackboneConfig("dino", 64, 2, 1, 4, 4),
        token_hidden=30,
        num_slots=7,
        slot_size=12,
        predictor_mlp=18,
        decoder=MixerConfig(
            hidden=(20, 24), num_blocks=3, position_size=position_size, mlp_size=14, use_positions=use
        ),
        losses=LossConfig(similarity=0.1, similarity_temperature=0.25),
    )
    model = catalog.build(config)
    arrays = to_theirs(videosaur.leaves(config), model.state_dict())
    attention = "decoder.module.allocator.blocks.2.self_attn"
    beside = position_size if use == "concat" else 0
    assert arrays["decoder.module.renderer.layers.0.weight"].shape == (20, 12 + beside)
    assert arrays[f"{attention}.q.weight"].shape == (position_size, position_size)
    assert arrays[f"{attention}.kv.weight"].shape == (2 * position_size, 12)
    file = tmp_path / "model.ckpt"
    torch.save({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, file)
    done = convert.convert(file, tmp_path / "out")
    assert done.config == config and "4 heads of the decoder. If" in str(done)
    again = load_model(tmp_path / "out").state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_a_mixture_without_positions_has_the_weights_of_one_with_them_which_is_said(tmp_path):
    decoder = MixerConfig(hidden=(20,), mlp_size=14, use_positions="none")
    vit = BackboneConfig("dino", 64, 1, 1, 4, 4)
    sizes = {"resolution": (16, 16), "token_hidden": 30, "slot_size": 12, "predictor_mlp": 18}
    config = VideosaurConfig(backbone=vit, decoder=decoder, losses=LossConfig(), **sizes)
    arrays = to_theirs(videosaur.leaves(config), catalog.build(config).state_dict())
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    torch.save(state, tmp_path / "model.ckpt")
    done = convert.convert(tmp_path / "model.ckpt", tmp_path / "out")
    assert isinstance(done.config, VideosaurConfig) and done.config.decoder.use_positions == "add"
    assert "added to the mixture (`pos_embed_mode: add`, not none). If that is wrong" in str(done)


def test_a_decoder_without_a_square_grid_needs_its_configuration(golden, tmp_path):
    state = torch.load(golden / CASES[1] / "checkpoint.ckpt", weights_only=True)["state_dict"]
    state["decoder.module.pos_emb"] = state["decoder.module.pos_emb"][:, :15]
    torch.save(state, tmp_path / "model.ckpt")
    with pytest.raises(UserError, match="15 patches, which are no square grid"):
        videosaur.from_shapes({name: tuple(value.shape) for name, value in state.items()} | _heads_of_64())


def _heads_of_64() -> dict[str, tuple[int, ...]]:
    """A width that the published width of a head divides."""
    return {"encoder.module.backbone.model.patch_embed.proj.weight": (64, 3, 14, 14)}

"""Recordings of DINOSAUR and FT-DINOSAUR, and the published models by names and shapes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fidelity.cases import read_case
from fidelity.systems import failed, verify
from torchslots.convert import convert, systems
from torchslots.convert.layouts import to_ours, to_theirs
from torchslots.convert.originals import dinosaur as oclf
from torchslots.convert.originals import ftdinosaur
from torchslots.hub import load_model
from torchslots.io.errors import UserError
from torchslots.models.weights import shapes
from torchslots.recipes import catalog
from torchslots.recipes.backbones import BackboneConfig
from torchslots.recipes.dinosaur import AutoregressiveConfig, DinosaurConfig
from torchslots.recipes.feature_slots import PerceptronConfig
from torchslots.recipes.ftdinosaur import FtDinosaurConfig, TopKConfig
from torchslots.training import checkpoint

TUNED, FROZEN = "ftdinosaur_mini", "dinosaur_oclf_auto_mini"
CHECKPOINTS = {TUNED: "dinosaur_mini_patch14_56_topk3-326aa1b2.pth", FROZEN: "checkpoint.ckpt"}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_equal_to_the_original(golden, name):
    (result,) = verify([golden / name])
    assert result.passed, [check for check in result.checks if not check.passed]
    names = {check.name for check in result.checks}
    assert {"checkpoint", "slots", "attn", "masks", "segmentation_decoder", "loss_mse"} <= names
    assert {"train_loss", "train_lr", "train_grad_norm", "no other gradient"} <= names
    if name == TUNED:
        assert {"topk_indices", "more_masks", "top1_masks", "hires_masks", "photo_segmentation"} <= names
        assert {"target", "digest", "published/dinosaur_base_patch14_518_topk3"} <= names


def without_published(golden, tmp_path):
    """A copy of the case without the published models' shapes, which take longest and are compared above."""
    wanted = shutil.ignore_patterns("published_params.json")
    return Path(shutil.copytree(golden / TUNED, tmp_path / "case", ignore=wanted))


def test_changed_recordings_fail_alone(golden, tmp_path):
    changed = {"slots", "topk_indices", "full_masks", "hires_pos_embed", "photo_segmentation", "target"}
    folder = without_published(golden, tmp_path)
    outputs = dict(np.load(folder / "outputs.npz"))
    for key in changed:
        outputs[key] = outputs[key] + outputs[key].dtype.type(1)
    np.savez(folder / "outputs.npz", **outputs)
    assert set(failed(folder)) == changed


@pytest.mark.parametrize(
    ("part", "change", "fails"),
    [
        ("training", {"layerwise_lr_decay": 0.9}, "train_lr"),
        ("training", {"weight_decay": 0.5}, "param_norm_after_train/encoder.blocks.2.mlp.fc1.weight"),
        ("training", {"gradient_clip_val": 1e-7}, "train_loss"),
        ("model", {"iters": 2}, "slots"),
        ("vit", {"num_heads": 4}, "backbone_features"),
    ],
    ids=["layers", "decay", "clip", "rounds", "heads"],
)
def test_another_setting_fails(golden, tmp_path, part, change, fails):
    folder = without_published(golden, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config[part] |= change
    (folder / "config.json").write_text(json.dumps(config))
    assert fails in failed(folder)


def test_a_renamed_checkpoint_fails(golden, tmp_path):
    folder = without_published(golden, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / config["checkpoint"]).rename(folder / "dinosaur-00000000.pth")
    config["checkpoint"] = "dinosaur-00000000.pth"
    (folder / "config.json").write_text(json.dumps(config))
    assert failed(folder) == ["digest"]


def test_what_cannot_be_compared_is_told(golden, tmp_path):
    folder = Path(shutil.copytree(golden / FROZEN, tmp_path / "case"))
    outputs = dict(np.load(folder / "outputs.npz"))
    np.savez(folder / "outputs.npz", **outputs, something=np.zeros(3))
    with pytest.raises(UserError, match="no way to compare `something`"):
        failed(folder)


# ------------------------------------------------------------------------------------------------- conversion


def described(folder: Path, name: str, out: Path) -> Path:
    """What the weights do not tell, as a file for --config."""
    config = json.loads((folder / "config.json").read_text())
    model = config["model"]
    file = out / "numbers.json"
    decoder = {"n_heads": 4} if name == FROZEN else {"top_k": model["decoder"]["top_k"]}
    given = {"n_slots": model["n_slots"], "iters": model["iters"], "decoder": decoder}
    file.write_text(json.dumps({"vit": {"num_heads": config["vit"]["num_heads"]}, "model": given}))
    return file


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_converted_and_computes_what_was_recorded(golden, tmp_path, name):
    folder = golden / name
    out = tmp_path / "model"
    done = convert.convert(folder / CHECKPOINTS[name], out, config=described(folder, name, tmp_path))
    model, case = load_model(out), read_case(folder)
    assert done.config == model.config and "teacher" not in " ".join(model.state_dict())
    model.slot_encoder.encoder.normalize = torch.nn.Identity()
    batch = {"video": torch.from_numpy(case.inputs["image"])[:, None]}
    with torch.no_grad():
        found = model.decode(model.encode({**batch, "noise": torch.from_numpy(case.inputs["noise"])}))
    masks = found.masks[:, 0].flatten(-2).numpy()
    np.testing.assert_allclose(masks, case.outputs["masks"], rtol=0, atol=1e-5)
    assert found.masks.shape[-2:] == (4, 4)


def test_heads_that_shapes_do_not_tell_are_asked_for(golden, tmp_path):
    with pytest.raises(UserError, match="heads of 64 do not divide"):
        convert.convert(golden / TUNED / CHECKPOINTS[TUNED], tmp_path / "out")


@pytest.mark.parametrize("name", ["dinosaur_coco_auto", "dinosaur_coco_mlp", "dinosaur_movi_e_mlp"])
def test_sizes_of_recipes_are_recognised_from_shapes(name):
    config = catalog.recipe(name).model
    assert isinstance(config, DinosaurConfig)
    with torch.device("meta"):
        ours = catalog.build(config).state_dict()
    blank = {key: torch.zeros((), device="cpu").expand(value.shape) for key, value in ours.items()}
    theirs = {key: array.shape for key, array in to_theirs(oclf.leaves(config), blank).items()}
    if isinstance(config.decoder, AutoregressiveConfig):
        theirs[oclf.MASK] = (196, 196)
    found = oclf.from_shapes(theirs)
    assert oclf.like(config, theirs) == config
    assert replace(found, num_slots=config.num_slots) == config


def test_published_files_are_recognised_as_recipes(golden):
    published = json.loads((golden / TUNED / "published_params.json").read_text())
    found = ftdinosaur.from_shapes(
        {k: tuple(v) for k, v in published["dinosaur_base_patch14_518_topk3"].items()}
    )
    assert found == catalog.recipe("ftdinosaur_base_518").model
    half = replace(found, num_slots=9, decoder=replace(found.decoder, top_k=0))
    named = {k: tuple(v) for k, v in published["dinosaur_base_patch14_518_topk3"].items()}
    assert ftdinosaur.like(half, named) == half


def state(golden: Path, name: str) -> dict[str, torch.Tensor]:
    content = torch.load(golden / name / CHECKPOINTS[name], weights_only=True)
    return content.get("state_dict", content)


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("fault", ["missing", "left over", "other shape"])
def test_tensors_that_do_not_fit_are_named(golden, tmp_path, name, fault):
    tensors = dict(state(golden, name))
    key = next(key for key in tensors if key.endswith("slots_logsigma"))
    if fault == "missing":
        del tensors[key]
    elif fault == "left over":
        key = "encoder.norm.weight" if name == TUNED else "models.other.weight"
        tensors[key] = torch.zeros(3)
    else:
        tensors[key] = torch.zeros(1, 1, 25)
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(UserError, match="initializer.log_sigma|" + key.replace(".", r"\.")):
        convert.convert(tmp_path / "x.pth", tmp_path / "out", config=described(golden / name, name, tmp_path))


def test_a_mask_that_hides_something_else_is_refused(golden, tmp_path):
    tensors = dict(state(golden, FROZEN))
    tensors[oclf.MASK] = torch.zeros_like(tensors[oclf.MASK])
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(UserError, match="not the mask of a causal decoder"):
        convert.convert(
            tmp_path / "x.pth", tmp_path / "out", config=described(golden / FROZEN, FROZEN, tmp_path)
        )
    tensors[oclf.MASK] = torch.full_like(tensors[oclf.MASK], -torch.inf).triu(1) + torch.eye(16)
    torch.save(tensors, tmp_path / "y.pth")
    with pytest.raises(UserError, match="not finite"):
        systems.open_original(tmp_path / "y.pth")


def test_a_recipe_of_another_system_is_refused(golden, tmp_path):
    where = golden / TUNED / CHECKPOINTS[TUNED]
    with pytest.raises(UserError, match=r"checkpoint of FT-DINOSAUR.*choose one of ftdinosaur_small_224"):
        convert.convert(where, tmp_path / "out", recipe="dinosaur_coco_mlp")


def test_moments_of_its_optimiser_count_frozen_weights_and_no_mask(golden, tmp_path):
    """Its optimiser owns all weights, of which those of the backbone have no state."""
    tensors = state(golden, FROZEN)
    weights = [name for name in tensors if name != oclf.MASK]
    trained = {i: name for i, name in enumerate(weights) if not name.startswith(oclf.NAMES.backbone)}
    adam = {
        i: {"step": torch.tensor(5.0), "exp_avg": tensors[name] / 2, "exp_avg_sq": tensors[name] ** 2}
        for i, name in trained.items()
    }
    optimizer = {"state": adam, "param_groups": [{"params": list(range(len(weights)))}]}
    torch.save({"state_dict": tensors, "optimizer_states": [optimizer]}, tmp_path / "x.ckpt")
    numbers = described(golden / FROZEN, FROZEN, tmp_path)
    options = {"recipe": "dinosaur_coco_auto", "config": numbers, "run": tmp_path / "run"}
    done = convert.convert(tmp_path / "x.ckpt", tmp_path / "out", **options)
    found = checkpoint.latest(tmp_path / "run", tell=print)
    assert found is not None and done.step == 5 and isinstance(done.config, DinosaurConfig)
    wanted = to_ours(
        oclf.leaves(done.config),
        oclf.without_mask({name: value.numpy() for name, value in tensors.items()}, done.config, ""),
        "x",
    )
    moments = {k: v for k, v in found.training.items() if k.startswith("optim/exp_avg/")}
    assert len(moments) == len([k for k in wanted if "backbone" not in k])
    for key, value in moments.items():
        torch.testing.assert_close(value, wanted[key.removeprefix("optim/exp_avg/")] / 2)


def test_settings_that_are_not_built_here_are_refused(golden):
    found = shapes(state(golden, FROZEN))
    case = read_case(golden / FROZEN).config
    given = {"vit": case["vit"], "model": {"decoder": {"positional_embedding": True}}}
    with pytest.raises(UserError, match="`positional_embedding` True is not built here"):
        oclf.from_reference(given, found)
    with pytest.raises(UserError, match="`eps` 1e-06 is not built here"):
        oclf.from_reference({**given, "model": {"eps": 1e-6}}, found)
    movi = {"decoder": {"use_decoder_masks": False, "n_heads": 2}}
    decoder = oclf.from_reference({**given, "model": movi}, found).decoder
    assert decoder == AutoregressiveConfig(num_layers=2, num_heads=2, masks="slot_attention")


def test_a_grid_that_is_no_square_is_refused(golden):
    found = {**shapes(state(golden, TUNED)), "decoder.pos_embed": (1, 15, 24)}
    with pytest.raises(UserError, match="15 patches, which are no square"):
        ftdinosaur.from_reference({"vit": {"num_heads": 2}, "model": {}}, found)


_SMALL = BackboneConfig("dinov2", 48, 2, 3, 7, 5, trainable_from=0)
_FROZEN = replace(_SMALL, kind="dino", trainable_from=None)
_OTHERS = {
    "perceptron of one layer": DinosaurConfig(
        (21, 21), _FROZEN, 33, 9, 20, 2, 36, decoder=PerceptronConfig((31,))
    ),
    "slot attention's masks": DinosaurConfig(
        (14, 14),
        replace(_SMALL, trainable_from=None),
        33,
        5,
        20,
        1,
        36,
        decoder=AutoregressiveConfig(1, 6, 50, "slot_attention"),
    ),
    "registers": FtDinosaurConfig(
        (28, 28), replace(_SMALL, num_registers=4), 33, 6, 20, 3, 36, decoder=TopKConfig((31, 32), 2)
    ),
    "all slots": FtDinosaurConfig(
        (35, 35), _SMALL, 33, 6, 20, 3, 36, decoder=TopKConfig((31, 32, 33, 34), 0)
    ),
}


@pytest.mark.parametrize("name", _OTHERS)
def test_other_sizes_go_there_and_back(tmp_path, name):
    config = _OTHERS[name]
    model = catalog.build_seeded(config, 0)
    if name == "registers":  # timm stores them without a position of the class token
        torch.nn.init.zeros_(model.slot_encoder.encoder.backbone.cls_position)
    program = next(program for program in systems.PROGRAMS if program.config is type(config))
    theirs = to_theirs(program.leaves(config), model.state_dict())
    if isinstance(config, DinosaurConfig) and isinstance(config.decoder, AutoregressiveConfig):
        theirs[oclf.MASK] = oclf.causal_mask(4)
    torch.save({key: torch.from_numpy(value.copy()) for key, value in theirs.items()}, tmp_path / "x.pth")
    decoder = config.decoder
    given = {"n_slots": config.num_slots, "iters": config.num_iterations}
    if isinstance(decoder, TopKConfig):
        given["decoder"] = {"top_k": decoder.top_k}
    elif isinstance(decoder, AutoregressiveConfig):
        given["decoder"] = {"n_heads": decoder.num_heads, "use_decoder_masks": False}
    (tmp_path / "numbers.json").write_text(json.dumps({"vit": {"num_heads": 3}, "model": given}))
    done = convert.convert(tmp_path / "x.pth", tmp_path / "out", config=tmp_path / "numbers.json")
    assert done.config == config
    loaded = load_model(tmp_path / "out")
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key

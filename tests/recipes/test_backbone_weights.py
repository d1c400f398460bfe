"""Pretrained weights of backbones: read from files, and taken by trainings and by models saved without them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from data.movi_files import copy_movi
from torchslots.cli import main
from torchslots.convert.layouts import to_theirs
from torchslots.convert.originals import vit as timm_names
from torchslots.hub import load_model
from torchslots.io.errors import UserError
from torchslots.models.backbones.names import entries
from torchslots.models.backbones.vit import ViT
from torchslots.models.model import ObjectCentricModel
from torchslots.models.weights import CONFIG_NAME
from torchslots.recipes import catalog
from torchslots.recipes.backbone_weights import load_backbone
from torchslots.recipes.backbones import TINY_VIT, build_backbone
from torchslots.recipes.feature_slots import MixerConfig, build
from torchslots.recipes.videosaur import VideosaurConfig
from torchslots.training import checkpoint, run
from torchslots.training.warm_start import assemble

HUB = "nobody/tiny-vit"
CONFIG = VideosaurConfig(
    resolution=(16, 16),
    backbone=replace(TINY_VIT, pretrained=HUB),
    token_hidden=30,
    num_slots=3,
    slot_size=12,
    predictor_heads=2,
    predictor_mlp=18,
    decoder=MixerConfig(hidden=(20,), num_heads=2),
)
OFFLINE = "fetch model.safetensors, or pytorch_model.bin .* --backbone FILE"


def backbone(seed: int = 1) -> ViT:
    torch.manual_seed(seed)
    return build_backbone(TINY_VIT)


def stored(vit: ViT, form: str) -> dict[str, torch.Tensor]:
    """Its weights as others store them, with what is not used."""
    state = vit.state_dict()
    if form == "timm":
        arrays = to_theirs(timm_names.leaves(TINY_VIT, "", ""), state)
        return {name: torch.from_numpy(array) for name, array in arrays.items()} | {
            "norm.weight": torch.ones(24)
        }
    table = entries("dinov2", 2, form="transformers4")
    parts = {entry.theirs: [] for entry in table}
    for entry in table:
        parts[entry.theirs].append(entry.write(state[entry.ours]))
    axes = {entry.theirs: entry.axis for entry in table}
    found = {name: torch.cat(several, axes[name]) for name, several in parts.items()}
    return {name: value.contiguous() for name, value in found.items()} | {"layernorm.bias": torch.ones(24)}


def write(folder: Path, vit: ViT, form: str = "safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    if form == "safetensors":
        save_file(stored(vit, "transformers"), folder / "model.safetensors")
        return folder / "model.safetensors"
    name = "pytorch_model.bin" if form == "bin" else "dinov2_tiny.pth"
    torch.save(
        {"state_dict": stored(vit, "timm")} if form == "pth" else stored(vit, "transformers"), folder / name
    )
    return folder / name


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """The hub's client without a network and with an empty cache."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "no cache"))


@pytest.mark.parametrize("form", ["safetensors", "bin", "pth"])
def test_files_and_folders(form: str, tmp_path) -> None:
    vit = backbone()
    file = write(tmp_path / "vit", vit, form)
    for source in (file, str(file), *([] if form == "pth" else [file.parent])):
        other = backbone(2)
        load_backbone(other, source)
        assert all(torch.equal(value, vit.state_dict()[name]) for name, value in other.state_dict().items())


def test_what_is_no_backbone_is_refused(tmp_path) -> None:
    vit = backbone()
    with pytest.raises(UserError, match="does not exist"):
        load_backbone(vit, tmp_path / "nothing.bin")
    with pytest.raises(UserError, match=r"has neither model\.safetensors nor pytorch_model\.bin"):
        load_backbone(vit, tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"abc")
    with pytest.raises(UserError, match="truncated"):
        load_backbone(vit, tmp_path / "broken.safetensors")
    torch.save({"a": 1}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="no state dict"):
        load_backbone(vit, tmp_path / "other.pth")
    with pytest.raises(UserError, match=OFFLINE):
        load_backbone(vit, HUB)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cls_token": torch.ones(24)}, r"cls_token is float32 \[24\], wanted are real numbers with 3 axes"),
        ({"pos_embed": torch.tensor(1.0)}, r"pos_embed is float32 \[\], wanted are real numbers with 3 axes"),
        ({"blocks.0.attn.qkv.bias": torch.tensor(0.0)}, r"qkv.bias is float32 \[\], wanted .* 1 axes"),
        ({"blocks.0.attn.qkv.weight": torch.ones(71, 24)}, r"3 of another shape .*\[23, 24\] stored"),
        ({"patch_embed.proj.bias": torch.ones(24).long()}, r"proj.bias is int64 \[24\], wanted are real"),
        ({"blocks.1.norm1.bias": torch.full((24,), torch.nan)}, r"not finite, in 1 tensors .blocks.1.norm1"),
        ({3: torch.ones(2)}, "no state dict, tensors by their names"),
    ],
)
def test_tensors_that_are_none_of_a_transformer(changes, message, tmp_path) -> None:
    file = tmp_path / "vit.pth"
    torch.save(stored(backbone(), "timm") | changes, file)
    with pytest.raises(UserError, match=message):
        load_backbone(backbone(), file)
    torch.save({}, file)
    with pytest.raises(UserError, match="no state dict, tensors by their names"):
        load_backbone(backbone(), file)


@pytest.mark.parametrize(
    "changes", [{"depth": 10**6}, {"patch_size": 0}, {"grid_size": -1}, {"num_registers": 10**9}]
)
def test_sizes_that_no_transformer_has(changes) -> None:
    numbers = replace(TINY_VIT, **changes)
    with pytest.raises(UserError, match=rf"backbone\.{next(iter(changes))}`? should be a whole number"):
        replace(CONFIG, backbone=numbers)


def test_without_a_network_the_hubs_client_is_not_asked(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *_: pytest.fail("it tries for half a minute")
    )
    with pytest.raises(UserError, match=f"no connection .*refused.*{OFFLINE}"):
        load_backbone(backbone(), HUB)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"size": 48}, "has 48 channels, wanted are 24"),
        ({"depth": 3}, "has 3 blocks, wanted are 2"),
        ({"num_registers": 4}, "has 4 registers, wanted are 0"),
        ({"patch_size": 8}, "has 8 pixels along a patch, wanted are 4"),
        ({"grid_size": 5}, "has 25 patches with a position, wanted are 16"),
        ({"kind": "dino"}, "of the kind dino"),
    ],
)
def test_another_backbone_is_refused_at_the_start_of_a_training(changes, message, tmp_path) -> None:
    config = replace(TINY_VIT, **changes)
    other = build_backbone(config)
    other.cls_position.data.zero_()
    arrays = to_theirs(timm_names.leaves(config, "", ""), other.state_dict())
    file = tmp_path / "other.pth"
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, file)
    recipe = replace(catalog.recipe("videosaur_demo"), model=CONFIG)
    with pytest.raises(UserError, match=message):
        assemble(recipe, tmp_path / "run", backbone=file)


def test_a_training_starts_from_the_given_backbone_and_goes_on_without_it(tmp_path) -> None:
    """The file may be gone: checkpoints hold the backbone too, and it is not trained."""
    copy_movi("a", tmp_path / "data")
    vit = backbone()
    file = write(tmp_path / "vit", vit)
    changes = {
        "dataset": "movi_a",
        "num_plots": 0,
        "data.num_frames": 2,
        "data.resolution": 16,
        "train.batch_size": 2,
        "train.checkpoint_every": 2,
        "evaluation.split": "train",
        "evaluation.num_frames": 2,
        "optim.warmup_steps": 1,
    }
    recipe = replace(catalog.recipe("videosaur_demo"), model=CONFIG)
    with pytest.raises(UserError, match=OFFLINE):
        run.train(recipe, tmp_path / "data", tmp_path / "run", **changes)
    steps = {"optim.num_steps": 4}
    given = changes | steps | {"backbone": str(file)}
    assert run.train(recipe, tmp_path / "data", tmp_path / "run", **given).step == 4
    file.unlink()
    found = load_model(tmp_path / "run").state_dict()
    frozen = {name: found[f"slot_encoder.encoder.backbone.{name}"] for name in vit.state_dict()}
    assert all(torch.equal(frozen[name], value) for name, value in vit.state_dict().items())
    assert checkpoint.list_steps(tmp_path / "run") == [2, 4]
    last = max((tmp_path / "run" / "checkpoints").iterdir())
    for folder in (tmp_path / "run" / "model", last):
        shutil.rmtree(folder)
    assert checkpoint.list_steps(tmp_path / "run") == [2]
    assert run.train(recipe, tmp_path / "data", tmp_path / "run", **changes, **steps).step == 4
    again = load_model(tmp_path / "run").state_dict()
    for name, value in found.items():
        torch.testing.assert_close(again[name], value, rtol=1e-5, atol=1e-7)
    moved = again["decoder.renderer.positions.table"]
    assert not torch.equal(
        moved, catalog.build_seeded(CONFIG, 42).state_dict()["decoder.renderer.positions.table"]
    )


def test_recipes_without_a_backbone_take_none(tmp_path) -> None:
    with pytest.raises(UserError, match="no pretrained backbone"):
        assemble(catalog.recipe("savi_demo"), tmp_path / "run", backbone=tmp_path)


def model(seed: int = 0) -> ObjectCentricModel:
    torch.manual_seed(seed)
    return build(CONFIG).eval()


def test_saved_without_its_backbone(tmp_path) -> None:
    whole = model()
    file = write(tmp_path / "vit", whole.slot_encoder.encoder.backbone)
    whole.save_pretrained(tmp_path / "small", backbone=False)
    whole.save_pretrained(tmp_path / "whole")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("small", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    given = {"video": torch.rand(1, 2, 3, 16, 16), "noise": torch.randn(1, 3, 12)}
    expected = whole.predict(given).masks
    for folder, source in (("small", file), ("small", file.parent), ("whole", None)):
        found = load_model(tmp_path / folder, backbone=source)
        assert found.config == CONFIG
        torch.testing.assert_close(found.predict(given).masks, expected, rtol=0, atol=0)
    with pytest.raises(UserError, match=OFFLINE):
        load_model(tmp_path / "small")


def test_another_backbones_weights_are_refused(tmp_path) -> None:
    model().save_pretrained(tmp_path / "small", backbone=False)
    with pytest.raises(UserError, match="has other weights than the backbone"):
        load_model(tmp_path / "small", backbone=write(tmp_path / "vit", backbone(5)))


def test_from_the_hubs_cache(tmp_path, monkeypatch) -> None:
    """As `hf download` leaves it: a model saved without its backbone needs no network."""
    import huggingface_hub.constants as constants

    whole = model()
    snapshot = tmp_path / "cache" / f"models--{HUB.replace('/', '--')}"
    (snapshot / "snapshots" / "abc").mkdir(parents=True)
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("abc")
    write(snapshot / "snapshots" / "abc", whole.slot_encoder.encoder.backbone, "bin")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    whole.save_pretrained(tmp_path / "small", backbone=False)
    given = {"video": torch.rand(1, 2, 3, 16, 16), "noise": torch.randn(1, 3, 12)}
    found = load_model(tmp_path / "small").predict(given)
    torch.testing.assert_close(found.masks, whole.predict(given).masks, rtol=0, atol=0)


def test_a_backbone_that_is_trained_or_not_published_is_not_left_out(tmp_path) -> None:
    for changes in ({"trainable_from": 1}, {"pretrained": ""}):
        config = replace(CONFIG, backbone=replace(CONFIG.backbone, **changes))
        with pytest.raises(UserError, match="no frozen backbone whose weights are published"):
            build(config).save_pretrained(tmp_path, backbone=False)


@pytest.mark.parametrize("value", [{"slot_encoder.corrector.": "abc"}, ["x"], {"nothing.": "abc"}])
def test_a_damaged_configuration_is_refused(value, tmp_path) -> None:
    model().save_pretrained(tmp_path)
    file = tmp_path / CONFIG_NAME
    values = json.loads(file.read_text()) | {"elsewhere": value}
    del values["crc32c"]
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"elsewhere|unexpected|where to get it"):
        load_model(tmp_path)


@pytest.mark.parametrize("command", ["compose", "concepts"])
def test_commands_over_a_data_set_take_the_backbones_file(command: str, tmp_path, capsys) -> None:
    whole = model()
    file = write(tmp_path / "vit", whole.slot_encoder.encoder.backbone)
    whole.save_pretrained(tmp_path / "small", backbone=False)
    copy_movi("a", tmp_path / "data")
    line = [command, str(tmp_path / "small"), "--root", str(tmp_path / "data"), "--data", "movi_a"]
    line += ["--split", "train", "--num-workers", "0"]
    assert main(line) == 2
    assert "not in the cache of the Hugging Face hub" in " ".join(capsys.readouterr().err.split())
    assert main([*line, "--backbone", str(file)]) == 2
    assert "decodes features, not frames" in " ".join(capsys.readouterr().err.split())

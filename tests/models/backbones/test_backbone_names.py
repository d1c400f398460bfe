"""Pretrained transformers are read from every form in which they are published."""

import numpy as np
import pytest
import torch

from torchslots.convert.layouts import to_ours, to_theirs
from torchslots.convert.originals import vit as originals
from torchslots.io.errors import UserError
from torchslots.models.backbones.names import Form, entries, to_vit
from torchslots.recipes.backbones import BackboneConfig, build_backbone

KINDS = {
    "dino": BackboneConfig("dino", 12, 2, 2, 4, 3),
    "dinov2": BackboneConfig("dinov2", 12, 2, 2, 4, 3),
    "registers": BackboneConfig("dinov2", 12, 2, 2, 4, 3, num_registers=2),
}


def stored(config: BackboneConfig, state: dict[str, torch.Tensor], form: Form) -> dict[str, torch.Tensor]:
    table = entries(config.kind, config.depth, num_registers=config.num_registers, form=form)
    parts: dict[str, list[torch.Tensor]] = {}
    axes = {entry.theirs: entry.axis for entry in table}
    for entry in table:
        parts.setdefault(entry.theirs, []).append(entry.write(state[entry.ours]))
    return {name: torch.cat(found, axes[name]) for name, found in parts.items()}


@pytest.mark.parametrize("form", ["timm", "transformers", "transformers4"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_gives_the_same_features(kind: str, form: Form) -> None:
    config = KINDS[kind]
    vit = build_backbone(config)
    if kind == "registers" and form == "timm":
        vit.cls_position.data.zero_()
    theirs = stored(config, vit.state_dict(), form) | {
        "layernorm.weight": torch.ones(12),
        "mask_token": torch.ones(1),
    }
    read = to_vit({f"vit.{name}": value for name, value in theirs.items()}, vit.state_dict(), "file")
    other = build_backbone(config)
    other.load_state_dict(read)
    frames = torch.rand(2, 3, 16, 12)
    torch.testing.assert_close(other(frames).tokens, vit(frames).tokens, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["dinov2", "registers"])
def test_files_of_transformers_itself(kind: str) -> None:
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    numbers = {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 4,
        "image_size": 12,
    }
    config = KINDS[kind]
    if kind == "registers":
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**numbers, num_register_tokens=2)).eval()
        model.embeddings.register_tokens.data.normal_()
    else:
        model = Dinov2Model(Dinov2Config(**numbers)).eval()
    vit = build_backbone(config)
    vit.load_state_dict(to_vit(model.state_dict(), vit.state_dict(), "file"))
    frames = torch.rand(2, 3, 12, 12)
    with torch.no_grad():
        expected = model(frames, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(vit(frames).tokens, expected[:, 1 + config.num_registers :], rtol=0, atol=1e-6)


def test_dinov2s_own_files_with_registers_keep_the_class_tokens_position() -> None:
    config = KINDS["registers"]
    vit = build_backbone(config)
    theirs = stored(config, vit.state_dict() | {"cls_position": torch.zeros(12)}, "timm")
    theirs["register_tokens"] = theirs.pop("reg_token")
    theirs["pos_embed"] = torch.cat([vit.cls_position[None, None], theirs["pos_embed"]], 1)
    other = build_backbone(config)
    other.load_state_dict(to_vit(theirs, vit.state_dict(), "file"))
    frames = torch.rand(1, 3, 12, 12)
    torch.testing.assert_close(other(frames).tokens, vit(frames).tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind: str) -> None:
    config = KINDS[kind]
    vit = build_backbone(config)
    if kind == "registers":
        vit.cls_position.data.zero_()
    state = {f"mine.{name}": value for name, value in vit.state_dict().items()}
    leaves = originals.leaves(config, "theirs.", "mine.")
    arrays = to_theirs(leaves, state)
    assert arrays["theirs.blocks.1.attn.qkv.weight"].shape == (36, 12)
    np.testing.assert_array_equal(
        arrays["theirs.blocks.1.attn.qkv.bias"][12:24],
        vit.state_dict()["blocks.1.attention.k_proj.bias"].numpy(),
    )
    back = to_ours(leaves, arrays, "file")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    found = originals.from_shapes({name: a.shape for name, a in arrays.items()}, "theirs.", num_heads=2)
    assert found == config


@pytest.mark.parametrize(
    "other, message",
    [
        (KINDS["dino"], "of the kind dino, wanted is dinov2"),
        (KINDS["registers"], "registers, wanted are 0"),
        (BackboneConfig("dinov2", 24, 2, 2, 4, 3), "has 24 channels, wanted are"),
        (BackboneConfig("dinov2", 12, 3, 2, 4, 3), "has 3 blocks, wanted are 2"),
    ],
)
def test_another_backbone_is_refused(other: BackboneConfig, message: str) -> None:
    config = KINDS["dinov2"]
    built = build_backbone(other)
    built.cls_position.data.zero_()
    theirs = stored(other, built.state_dict(), "timm")
    with pytest.raises(UserError, match=message):
        to_vit(theirs, build_backbone(config).state_dict(), "file.safetensors")


def test_a_trained_position_of_the_class_token_is_not_lost() -> None:
    config = KINDS["registers"]
    with pytest.raises(UserError, match="no position of the class token"):
        to_theirs(originals.leaves(config, "", ""), build_backbone(config).state_dict())


def test_widths_without_heads_of_64_need_a_configuration() -> None:
    config = KINDS["dino"]
    arrays = to_theirs(originals.leaves(config, "", ""), build_backbone(config).state_dict())
    with pytest.raises(UserError, match="--config"):
        originals.from_shapes({name: a.shape for name, a in arrays.items()}, "")

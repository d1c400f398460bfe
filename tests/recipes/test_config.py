"""Changing and reading configurations: dotted names, names of older versions, types."""

import pytest

from torchslots.io.errors import UserError
from torchslots.recipes import catalog
from torchslots.recipes.config import current_flags, current_item, from_dict, with_changes
from torchslots.recipes.isa import IsaConfig
from torchslots.recipes.savi import CnnConfig, ResNetConfig, SaviConfig


def test_fields_are_changed_by_dotted_name() -> None:
    config = SaviConfig()
    changed = with_changes(config, num_slots=8, conditioning="learned", **{"encoder.channels": [8, 8, 8, 16]})
    assert (changed.num_slots, changed.conditioning) == (8, "learned")
    assert changed.encoder == CnnConfig((8, 8, 8, 16)) and changed.decoder == config.decoder
    assert with_changes(config, encoder=ResNetConfig(width=32)).encoder == ResNetConfig(width=32)
    assert with_changes(config) == config


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_slot": 3}, "SaviConfig has no field `num_slot`. Did you mean num_slots"),
        ({"decoder.gird": (4, 4)}, "DecoderConfig has no field `gird`. Did you mean grid"),
        ({"num_slots": "8"}, "SaviConfig.num_slots should be int, got '8'"),
        ({"conditioning": "boxen"}, "should be one of boxes, centers"),
        ({"transformer.num_layers": 2}, "nothing to change in None by num_layers"),
        ({"decoder.grid": (4, 4)}, "Change decoder.grid or decoder.strides"),
    ],
)
def test_wrong_changes_are_refused(changes, says) -> None:
    with pytest.raises(UserError, match=says):
        with_changes(SaviConfig(), **changes)


def test_old_names_are_read_changed_and_given_as_flags() -> None:
    assert from_dict(IsaConfig, {"frames": "drawn", "tell_frames": True}, "test") == IsaConfig(
        append_pose=True
    )
    assert with_changes(IsaConfig(), draws="correlated").scale_sampling == "correlated"
    recipe = catalog.recipe("steve_demo")
    assert current_item(recipe, "model.writer.forget", 0.5) == ("model.transformer.token_dropout", 0.5)
    words = ["--root", "data", "--model.writer.forget=0.5", "--model.writer.num-layers", "2", "--draw", "0"]
    assert current_flags(recipe, words) == [
        "--root",
        "data",
        "--model.transformer.token-dropout=0.5",
        "--model.transformer.num-layers",
        "2",
        "--draw",
        "0",
    ]
    pose = current_flags(catalog.recipe("isa_demo"), ["--model.frames", "drawn", "--model.frames=drawn"])
    assert pose == ["--model.initial-pose", "sampled", "--model.initial-pose=sampled"]

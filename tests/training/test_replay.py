from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from torchslots.io.errors import UserError
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe, to_json, with_changes
from torchslots.training.checkpoint import to_bytes
from torchslots.training.replay import first_not_finite, replay
from torchslots.training.step import TrainStep
from torchslots.training.stops import explained


@pytest.fixture
def recipe() -> Recipe:
    known = catalog.recipe("savi_demo")
    model = with_changes(known.model, resolution=(16, 16), **{"decoder.grid": (4, 4)})
    return replace(known, model=model, train=replace(known.train, batch_size=2, accumulation=1))


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(2, 2, 3, 16, 16, generator=generator)
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.6], [0.3, 0.2, 0.9, 0.8]]).expand(2, 2, 2, 4).clone()
    return {
        "video": video,
        "flow": video.flip(0),
        "boxes": boxes,
        "padding_mask": torch.ones(2, 2, 16, 16, dtype=torch.bool),
    }


def test_a_saved_step_is_repeated_and_its_first_bad_tensor_named(tmp_path: Path, recipe: Recipe) -> None:
    model = catalog.build(recipe.model)
    place = next(name for name, part in model.named_modules() if isinstance(part, nn.GRUCell | nn.Linear))
    for name, parameter in model.named_parameters():
        if name.startswith(place):
            nn.init.constant_(parameter, 3e38)
    stepper = TrainStep(model, recipe.optim, replace(recipe.train, compile=False), "cpu")
    said = r"train --replay .*nonfinite_batch_step_8\.safetensors"
    with pytest.raises(UserError, match=said), explained(tmp_path, recipe, 0, model):
        stepper(7, batch())
    assert (tmp_path / "nonfinite_weights_step_8.safetensors").exists()
    said = replay(tmp_path / "nonfinite_batch_step_8.safetensors", "cpu")
    assert said.startswith(f"Step 8: the first tensor that is not finite is the output of `{place}`"), said


def test_bad_inputs_weights_and_gradients_are_told_apart(recipe: Recipe) -> None:
    model, bad = catalog.build(recipe.model), batch()
    bad["video"][1, 0, 2, 3, 4] = float("nan")
    assert (
        first_not_finite(model, recipe, 0, bad, "cpu")
        == "`video` of the batch, [2, 2, 3, 16, 16]: 1 of 3,072 values"
    )
    assert first_not_finite(model, recipe, 0, batch(), "cpu") is None
    name, parameter = next(iter(model.named_parameters()))
    parameter.data.fill_(float("inf"))
    assert str(first_not_finite(model, recipe, 0, batch(), "cpu")).startswith(f"`{name}` of the weights")


def test_what_cannot_be_replayed_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs a file nonfinite_batch_step_N"):
        replay(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        replay(tmp_path / "nonfinite_batch_step_3.safetensors")


@pytest.mark.parametrize(
    ("change", "about", "says"),
    [
        (lambda found: found.pop("video"), {}, "does not fit the recipe that it holds: 'video' is missing"),
        (lambda found: found.update(boxes=found["boxes"][:, :0]), {}, "does not fit the recipe"),
        (lambda found: found.update(boxes=found["boxes"].to(torch.int8)), {}, "does not fit the recipe"),
        (lambda found: None, {"step": "-5"}, "`step` should be a whole number"),
        (lambda found: None, {"recipe": "[" * 5000}, "does not say its recipe"),
    ],
    ids=["no video", "no boxes", "integers", "step", "nested"],
)
def test_files_that_the_run_did_not_save_are_refused(
    tmp_path: Path,
    recipe: Recipe,
    change: Callable[[dict[str, torch.Tensor]], None],
    about: dict[str, str],
    says: str,
) -> None:
    found, file = batch(), tmp_path / "nonfinite_batch_step_8.safetensors"
    change(found)
    file.write_bytes(to_bytes(found, {"recipe": to_json(recipe), "step": "7"} | about))
    weights = tmp_path / "nonfinite_weights_step_8.safetensors"
    weights.write_bytes(to_bytes(catalog.build(recipe.model).state_dict()))
    with pytest.raises(UserError, match=says):
        replay(file, "cpu")

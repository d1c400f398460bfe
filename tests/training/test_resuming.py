"""Resume a run from its folder, with other numbers; the figure that marks the best model; needs of recipes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from torchslots.io.errors import UserError
from torchslots.models.model import ObjectCentricModel
from torchslots.models.sketch import sketching
from torchslots.recipes import catalog
from torchslots.recipes.config import to_json, with_changes
from torchslots.training import checkpoint
from torchslots.training.best import Figure, check_name, watched
from torchslots.training.needs import check_needs
from torchslots.training.resume import TrainOptions, read_start, start_of
from training.tiny_run import same, tiny_recipe, train, weights


def test_a_run_goes_on_with_more_steps_and_notes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_recipe(3), tmp_path)
    assert train(tiny_recipe(5), tmp_path).step == 5
    assert "From step 3 on: optim.num_steps was 3, now 5." in capsys.readouterr().err
    (line,) = (tmp_path / "changes.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 3, "change": "optim.num_steps was 3, now 5"}
    before = weights(tmp_path)
    with pytest.raises(UserError, match=r"has done 5 steps, more than optim\.num_steps 4"):
        train(tiny_recipe(4), tmp_path)
    assert same(weights(tmp_path), before)


def test_a_start_is_read_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = TrainOptions(num_plots=2, skip_corrupt=True, dataset="sim_a", tokenizer="somewhere")
    recipe = catalog.recipe("savi_demo")
    with pytest.raises(UserError, match=r"is no run folder: it has no recipe\.json"):
        read_start(run)
    run.mkdir()
    (run / "recipe.json").write_text(to_json(recipe))
    assert read_start(run) == (recipe, None, TrainOptions())
    (run / "start.json").write_text(json.dumps(start_of(tmp_path, options)))
    found = read_start(run / "recipe.json")
    assert found == (recipe, tmp_path.resolve(), TrainOptions(num_plots=2, skip_corrupt=True))


def test_the_watched_figure() -> None:
    assert watched({"fg_ari": 0.5, "mse": 2.0}, "fg_ari", False) == ("fg_ari", 0.5)
    assert watched({"psnr": 14.0, "mse": 2.0}, "fg_ari", False) == ("mse", 2.0)
    assert watched({"loss_a": 1.0, "loss_b": 2.0}, "fg_ari", False) == ("loss", 3.0)
    assert watched({}, "fg_ari", False) is None
    with pytest.raises(UserError, match=r"no figure `fg_ari` to watch\. There are: mse"):
        watched({"mse": 2.0}, "fg_ari", True)
    assert Figure("mse", 1.0).better(2.0) and not Figure("mse", 3.0).better(2.0)
    assert Figure("fg_ari", 3.0).better(2.0) and not Figure("fg_ari", float("nan")).better(None)


def test_what_data_lack_is_said_with_the_switches() -> None:
    recipe = catalog.recipe("savi_demo")
    model = catalog.build_seeded(recipe.model, 0)
    frames = {"video": torch.zeros(2, 3, 64, 64)}
    with pytest.raises(
        UserError, match=r"boxes and flow, .*--model\.conditioning learned --model\.targets video\."
    ):
        check_needs(recipe, model, frames)
    check_needs(recipe, model, {**frames, "boxes": torch.zeros(1), "flow": torch.zeros(1)})


_NEED_MORE = (
    "savi_small savi_plus_plus savi_demo savi_sim savi_sim_small slots_sim statm_savi_small statm_savi statm_demo"
).split()


_VALUES = {"learned": "learned", "video": ("video",)}


@pytest.mark.parametrize("name", _NEED_MORE)
def test_the_switches_that_are_told_make_a_model_that_needs_frames_alone(name: str) -> None:
    """Of every recipe that starts from hints or has other targets than frames."""
    recipe = catalog.recipe(name)
    with sketching():
        model = catalog.build(recipe.model)
    with pytest.raises(UserError, match=f"^{name} needs .*Without them: --model") as told:
        check_needs(recipe, model, {"video": torch.zeros(1)})
    flags = re.findall(r"--(model\S+) (\w+)", str(told.value))
    values = {path.replace("-", "_"): _VALUES.get(text) or (float(text),) for path, text in flags}
    with sketching():
        changed = catalog.build(with_changes(recipe, **values).model)
    assert isinstance(changed, ObjectCentricModel) and not changed.needs


def test_the_rates_of_parts_may_change(tmp_path: Path) -> None:
    recipe = tiny_recipe(3)
    checkpoint.claim(tmp_path, recipe)
    for field in ("decoder_learning_rate", "backbone_learning_rate"):
        changed = replace(recipe, optim=replace(recipe.optim, **{field: 0.01}))
        assert checkpoint.claim(tmp_path, changed, write=False) == [f"optim.{field} was None, now 0.01"]


def test_a_name_that_no_figure_has_is_refused_before_a_run() -> None:
    for name in ("fg_ari", "ap_inf", "psnr", "mse", "loss", "loss_recon", "j_and_f"):
        check_name(name)
    with pytest.raises(UserError, match=r"no figure `fgari` to watch\. Did you mean fg_ari"):
        check_name("fgari")

"""Models, runs and configurations that version 0.1 saved, before fields and files were renamed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.movi_files import copy_movi
from recorded import GOLDEN
from torchslots.data.catalog import open_dataset
from torchslots.evaluation.videos import whole_videos
from torchslots.hub import load_model
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes import catalog
from torchslots.recipes.config import to_json, with_changes
from torchslots.training import loop
from torchslots.training.warm_start import assemble

RUNS = GOLDEN / "saved_runs"
"""Runs of 4 steps without their last checkpoint: model/ is what resuming from step 2 must give again."""
NAMES = ("savi", "steve", "isa")
CONFIGS = json.loads((GOLDEN / "saved_configs.json").read_text())
"""Recipes of every family, as they were written to recipe.json."""


@pytest.mark.parametrize("name", NAMES)
def test_saved_models_load_and_predict(name: str) -> None:
    model = load_model(RUNS / name)
    assert isinstance(model, ObjectCentricModel)
    video = torch.rand(1, 2, 3, *model.config.resolution, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([0.1, 0.2, 0.6, 0.7]).expand(1, 1, 3, 4)
    found = model.predict({"video": video, "boxes": boxes})
    assert found.masks.isfinite().all() and found.slots.isfinite().all()
    torch.testing.assert_close(found.masks.sum(2), torch.ones_like(found.masks.sum(2)))


@pytest.mark.parametrize("name", NAMES)
def test_saved_runs_resume_to_the_same_weights(name: str, tmp_path: Path) -> None:
    copy_movi("a", tmp_path / "data")
    run = Path(shutil.copytree(RUNS / name, tmp_path / "run"))
    shutil.rmtree(run / "model")
    recipe, model = assemble(catalog.read_recipe(run / "recipe.json"), run)
    train_set = open_dataset(
        recipe.data.dataset, tmp_path / "data", recipe.data.train_split, recipe.data, True
    )
    eval_set = whole_videos(recipe.data, recipe.evaluation, tmp_path / "data")
    assert loop.train(recipe, model, train_set, eval_set, run, device="cpu", num_plots=0).step == 4
    found, wanted = (load_file(folder / "model" / "model.safetensors") for folder in (run, RUNS / name))
    assert found.keys() == wanted.keys()
    for key, weight in wanted.items():
        torch.testing.assert_close(
            found[key], weight, rtol=1e-5, atol=1e-7, msg=lambda text, key=key: f"{key}: {text}"
        )


_TESTED = {"evaluation.test_split": "test"}
_CLIPPED = {"optim.clip_epsilon": 0.0}
_HALF = {"train.precision": "fp16"}
CHANGED: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("savi_small", "savi_plus_plus", "statm_savi_small"), _CLIPPED),
    **dict.fromkeys(
        (
            "isa_tetrominoes_baseline",
            "isa_clevr_with_masks_transl_scale_v2",
            "isa_waymo_open_transl_rot_scale",
        ),
        _CLIPPED,
    ),
    **dict.fromkeys(("savi_pytorch_movi_d", "savi_pytorch_clevrtex", "steve_movi_solid"), _TESTED),
    **dict.fromkeys(("vqvae_movi_d", "slotdiffusion_clevrtex"), _TESTED | _HALF),
    "slot_attention_clevr6": {
        "data.train_split": "all[512:70000]",
        "evaluation.split": "all[:512]",
        "evaluation.test_split": "all[70000:71000]",
        "evaluation.test_videos": 320,
    },
    "steve_demo": {"model.transformer.xavier_start": True},
    "steve_joint_movi_e": {
        "model.transformer.xavier_start": True,
        "data.windows": "end_to_end",
        "data.train_split": "train[:70%]",
        "optim.num_steps": 1_137_000,
        "train.eval_every": 2274,
        "train.best_metric": "loss",
        "evaluation.split": "train[70%:85%]",
        "evaluation.test_split": "test",
    },
}
"""What has become otherwise in recipes since: they were not as in the original program."""


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_recipes_are_todays(name: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(CONFIGS[name]))
    saved = catalog.read_recipe(file)
    assert with_changes(saved, **CHANGED.get(name, {})) == catalog.recipe(name)
    file.write_text(to_json(catalog.recipe(name)))
    assert catalog.read_recipe(file) == catalog.recipe(name)


def test_every_family_has_a_saved_recipe() -> None:
    assert {catalog.recipe(name).model.family for name in CONFIGS} == set(catalog.FAMILIES)

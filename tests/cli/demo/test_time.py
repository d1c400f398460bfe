"""The demonstration's number of steps follows from its time."""

from dataclasses import replace
from pathlib import Path

import pytest

from torchslots.cli.demo.plan import Plan, Sets, as_begun, as_trained, in_time
from torchslots.data.batch import ClipDataset
from torchslots.recipes import catalog
from torchslots.recipes.config import to_json
from torchslots.recipes.demos import DEMOS
from torchslots.training.step import TrainStep


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Plan:
    """A plan on a machine where a step of whole clips takes 0.1 s and one of short clips 0.05 s."""
    monkeypatch.setattr(
        TrainStep, "trial", lambda self, batches: 0.1 if batches[0]["video"].shape[1] == 6 else 0.05
    )
    return Plan(DEMOS["savi"], catalog.recipe("savi_sim_small"), tmp_path, 1, 1, 0, "cpu")


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> Sets:
    import torch

    batch = {"video": torch.rand(8, 6, 3, 32, 32)}
    monkeypatch.setattr("torchslots.data.loader.train_batches", lambda dataset, **options: iter([batch]))
    nothing: ClipDataset = None  # type: ignore[assignment]
    return Sets(nothing, nothing)


def test_steps_fill_the_time(plan: Plan, sets: Sets) -> None:
    chosen = in_time(plan, sets, 143.8).recipe  # an eighth is left for what is beside steps
    assert chosen.train.short_steps == 500  # 25 s, and 100.8 s of whole clips
    assert chosen.optim.num_steps == 500 + 1008
    assert chosen.optim.warmup_steps == 150


def test_short_clips_take_a_third_at_most(plan: Plan, sets: Sets) -> None:
    chosen = in_time(plan, sets, 34.4).recipe
    assert chosen.train.short_steps == 200 and chosen.optim.num_steps == 400


def test_a_fast_machine_does_the_recipe(plan: Plan, sets: Sets) -> None:
    assert in_time(plan, sets, 1e6).recipe == plan.recipe


def test_a_run_that_has_begun_keeps_its_number(plan: Plan) -> None:
    begun = replace(plan.recipe, optim=replace(plan.recipe.optim, num_steps=77, warmup_steps=7))
    plan.run.mkdir()
    (plan.run / "recipe.json").write_text(to_json(begun))
    kept = as_begun(plan, None)
    assert kept is not None and kept.recipe == begun
    longer = as_begun(plan, 90)
    assert longer is not None and longer.recipe.optim.num_steps == 90
    assert longer.recipe.optim.warmup_steps == begun.optim.warmup_steps
    assert as_trained(plan).recipe.optim.num_steps == 77


def test_a_run_that_has_not_begun_has_nothing_to_keep(plan: Plan) -> None:
    assert as_begun(plan, None) is None

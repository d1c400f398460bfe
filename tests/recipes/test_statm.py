"""STATM's recipes: the spec's table, and numbers that survive being written."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny_models import TINY, batch
from torchslots.hub import load_model
from torchslots.models.weights import save_pretrained
from torchslots.recipes import catalog
from torchslots.recipes.config import to_json
from torchslots.recipes.statm import StatmConfig, build
from torchslots.training.step import TrainStep

TABLE = {
    "statm_savi_small": ("movi_a", 64, 1, 128, 256, 64, 10, 6),
    "statm_savi": ("movi_e", 128, 1, 256, 1024, 64, 23, 24),
    "statm_savi_plus_plus": ("movi_a", 128, 2, 256, 1024, 32, 10, 6),
}


@pytest.mark.parametrize("name", TABLE)
def test_published_numbers(name: str) -> None:
    found = catalog.recipe(name)
    model = found.model
    assert isinstance(model, StatmConfig) and model.fusion == "sum" and not model.pre_norm
    savi = model.savi
    assert (
        found.data.dataset,
        found.data.resolution,
        savi.num_iterations,
        savi.predictor_qkv,
        savi.predictor_mlp,
        found.train.batch_size,
        found.data.max_instances,
        found.evaluation.slice_size,
    ) == TABLE[name]
    assert savi.qkv_size == savi.predictor_qkv and savi.predictor_heads == 4
    assert model.resolution == (found.data.resolution,) * 2 and model.conditioning == "boxes"
    assert (found.optim.num_steps, found.optim.warmup_steps, found.optim.max_grad_norm) == (
        100_000,
        2500,
        0.05,
    )


@pytest.mark.parametrize("name", TABLE)
def test_written_and_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(to_json(catalog.recipe(name)))
    assert catalog.read_recipe(tmp_path / "recipe.json") == catalog.recipe(name)


def test_the_demonstration_learns_in_half_precision() -> None:
    """Fewer errors after some steps on one batch; memory in bf16 included."""
    demo = catalog.recipe("statm_demo")
    model = catalog.build_seeded(demo.model, 0)
    step = TrainStep(model, replace(demo.optim, warmup_steps=1), demo.train, "cpu")
    draw = torch.Generator().manual_seed(0)
    clip = {
        "video": torch.rand(1, 6, 1, 1, 1, generator=draw).expand(2, 6, 3, 32, 32).contiguous(),
        "boxes": torch.rand(2, 6, 4, 4, generator=draw),
    }
    clip["flow"] = clip["video"].flip(2)
    with torch.no_grad():
        before = sum(model.loss(clip).values())
    for i in range(1, 9):
        step(i, clip)
    with torch.no_grad():
        assert sum(model.loss(clip).values()) < 0.9 * before


def test_a_saved_model_remembers(tmp_path: Path) -> None:
    config = StatmConfig(TINY, fusion="time_then_space", pre_norm=True, max_frames=4)
    model = build(config).eval()
    save_pretrained(model, config, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == config
    assert torch.equal(loaded.predict(batch()).slots, model.predict(batch()).slots)

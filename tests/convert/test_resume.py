"""A converted checkpoint trains on, by the trainer's own step, along the original's trajectory."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from fidelity.cases import read_case
from fidelity.slot_attention import load, to_batch
from torchslots.convert.convert import write_run
from torchslots.io.errors import UserError
from torchslots.recipes.config import OptimConfig, TrainConfig
from torchslots.recipes.slot_attention import build, slot_attention_set_prediction
from torchslots.training import checkpoint
from torchslots.training.step import TrainStep

CASE = "slot_attention_set_prediction_mini"


@pytest.fixture
def recipe(golden):
    numbers = json.loads((golden / CASE / "config.json").read_text())["trajectory"]
    return replace(
        slot_attention_set_prediction(),
        optim=OptimConfig(
            learning_rate=numbers["base_learning_rate"],
            warmup_steps=numbers["warmup_steps"],
            num_steps=100,
            max_grad_norm=None,
            schedule="exponential",
            decay_rate=numbers["decay_rate"],
            decay_steps=numbers["decay_steps"],
            epsilon_hat=True,
        ),
        train=TrainConfig(batch_size=3),
    )


def test_training_goes_on_along_the_recorded_trajectory(golden, recipe, tmp_path):
    case = read_case(golden / CASE)
    loaded = load(case)
    config, read = loaded.config, loaded.read
    recipe = replace(recipe, model=config)
    write_run(tmp_path, recipe, loaded.model, loaded.adam(), read.step)
    saved = checkpoint.latest(tmp_path, print)
    assert saved is not None and saved.state.step == read.step == 2
    step = TrainStep(build(config), recipe.optim, recipe.train, "cpu")
    step.load(saved.model, saved.training, saved.state.loss_scale, "here")
    recorded = np.load(golden / CASE / "trajectory.npz")
    losses, rates = [], []
    for index, noise in enumerate(recorded["resume/slot_noise"]):
        report = step(saved.state.step + index, {**to_batch(case.inputs), "noise": torch.from_numpy(noise)})
        losses.append(sum(value.item() for value in report.losses.values()))
        rates.append(report.learning_rate)
    np.testing.assert_allclose(losses, recorded["resume/loss"], rtol=2e-6)
    np.testing.assert_allclose(rates, recorded["resume/lr"], rtol=1e-6)


def test_what_cannot_go_on_is_refused(golden, recipe, tmp_path):
    loaded = load(read_case(golden / CASE))
    model, memory = loaded.model, loaded.adam()
    with pytest.raises(UserError, match="weights alone"):
        write_run(tmp_path, recipe, model, {}, 3)
    write_run(tmp_path, recipe, model, memory, 3)
    with pytest.raises(UserError, match="already a run"):
        write_run(tmp_path, recipe, model, memory, 3)


def test_tensors_whose_header_begins_like_a_pickle_are_read(tmp_path):
    """The header's length is a multiple of eight, so one file in thirty-two begins with a pickle's first byte."""
    found = 0
    for length in range(1, 300):
        tensors = {"w" * length: torch.ones(2)}
        data = checkpoint.to_bytes(tensors)
        found += data[0] == 0x80
        assert checkpoint.read_tensors(tmp_path, data).keys() == tensors.keys()
    assert found
    with pytest.raises(UserError, match="pickle"):
        checkpoint.read_tensors(tmp_path, pickle.dumps({"a": 1}))

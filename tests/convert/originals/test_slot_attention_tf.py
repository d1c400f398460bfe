"""Slot Attention's checkpoints: three generations of optimisers, both tasks, two ways."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from convert.bundle_writer import graph_of, write_bundle
from torchslots.convert import layouts, systems
from torchslots.convert.convert import adam_state
from torchslots.convert.originals import slot_attention as tf
from torchslots.convert.originals import slot_attention_layout as layout
from torchslots.convert.readers.checkpoint import Checkpoint
from torchslots.convert.readers.tensorflow import VALUE
from torchslots.io.errors import UserError
from torchslots.models.weights import shapes
from torchslots.recipes.slot_attention import build, slot_attention_clevr6, slot_attention_set_prediction
from torchslots.training import optim

DISCOVERY = "slot_attention_object_discovery_mini/checkpoint"
PREDICTION = "slot_attention_set_prediction_mini/checkpoint"


def in_order(checkpoint: Checkpoint) -> list[str]:
    return layout.names(layout.task_of(checkpoint.params))


def as_keras_3(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """The same checkpoint in the layout in which the optimiser's lists hold everything."""
    arrays = {f"optimizer/_iterations{VALUE}": np.array(2)}
    for i, path in enumerate(in_order(checkpoint)):
        arrays[f"optimizer/_trainable_variables/{i}{VALUE}"] = checkpoint.params[path]
        arrays[f"optimizer/_variables/{2 + 2 * i}{VALUE}"] = checkpoint.first_moments[path]
        arrays[f"optimizer/_variables/{3 + 2 * i}{VALUE}"] = checkpoint.second_moments[path]
    return arrays | {f"optimizer/_variables/{i}{VALUE}": np.array(0) for i in (0, 1)}


def same(one: Checkpoint, other: Checkpoint) -> bool:
    parts = ("params", "first_moments", "second_moments")
    return one.step == other.step and all(
        set(getattr(one, part)) == set(getattr(other, part))
        and all(
            np.array_equal(getattr(one, part)[path], value) for path, value in getattr(other, part).items()
        )
        for part in parts
    )


@pytest.mark.parametrize(
    ("folder", "kept", "step"),
    [(PREDICTION, "moments beside them", 2), (DISCOVERY, "moments in the optimiser's list", 1)],
)
def test_weights_and_moments_go_both_ways(golden, folder, kept, step):
    read = tf.read(golden / folder)
    assert read.layout == f"weights by name, {kept}"
    assert read.step == step
    config = tf.from_shapes(shapes(read.params))
    for arrays in (read.params, read.first_moments, read.second_moments):
        ours = layouts.to_ours(layout.leaves(config), arrays, "here")
        back = layouts.to_theirs(layout.leaves(config), ours)
        assert set(back) == set(arrays)
        assert all(np.array_equal(back[path], arrays[path]) for path in arrays)
    assert all(value.min() >= 0 for value in read.second_moments.values())


@pytest.mark.parametrize("folder", [PREDICTION, DISCOVERY])
@pytest.mark.parametrize("packed", [False, True])
def test_keras_3_keeps_weights_in_the_optimiser(golden, tmp_path, folder, packed):
    read = tf.read(golden / folder)
    arrays = as_keras_3(read)
    arrays[f"optimizer/_iterations{VALUE}"] = np.array(read.step)
    write_bundle(tmp_path / "ckpt-7", arrays, packed=packed)
    again = tf.read(tmp_path)
    assert again.layout == "weights in the optimiser's list, moments in the optimiser's list"
    assert same(again, read)


def test_weights_under_other_names_are_found_by_the_graph(golden, tmp_path):
    read = tf.read(golden / PREDICTION)
    keys = {path: f"bag/{i}{VALUE}" for i, path in enumerate(read.params)}
    arrays = {keys[path]: value for path, value in read.params.items()}
    write_bundle(tmp_path / "a", arrays, graph_of({tf.NETWORK + path: key for path, key in keys.items()}))
    again = tf.read(tmp_path / "a")
    assert all(np.array_equal(again.params[path], value) for path, value in read.params.items())
    assert again.layout.endswith("no moments")
    assert not again.first_moments and not again.second_moments


def test_moments_fill_the_optimiser(golden):
    read = tf.read(golden / DISCOVERY)
    config = tf.from_shapes(shapes(read.params))
    model, program = build(config), systems.program_of(read, systems.TENSORFLOW)
    optimizer = optim.adam(model)
    memory = adam_state(model, *systems.moments(program, read, config), read.step)
    optim.load_optimizer(model, optimizer, memory, "here")
    state = optimizer.state[model.slot_encoder.initializer.mean]
    assert state["step"] == 1
    expected = read.first_moments["slot_attention/slots_mu"].ravel()
    torch.testing.assert_close(state["exp_avg"], torch.from_numpy(expected))


def test_moments_of_another_program_are_refused(golden, tmp_path):
    arrays = as_keras_3(tf.read(golden / PREDICTION))
    arrays[f"optimizer/_variables/2{VALUE}"] = np.zeros((2, 2), np.float32)
    write_bundle(tmp_path / "a", arrays)
    with pytest.raises(UserError, match="moments do not fit"):
        tf.read(tmp_path / "a")


def test_the_wrong_recipe_is_answered_with_the_right_one(golden):
    discovery, prediction = tf.read(golden / DISCOVERY), tf.read(golden / PREDICTION)
    with pytest.raises(UserError, match=r"object discovery.*slot_attention_clevr6"):
        tf.like(slot_attention_set_prediction().model, shapes(discovery.params))
    with pytest.raises(UserError, match=r"set prediction.*slot_attention_set_prediction"):
        tf.like(slot_attention_clevr6().model, shapes(prediction.params))


def test_published_sizes_are_recognised():
    for recipe in (slot_attention_clevr6(), slot_attention_set_prediction()):
        params = layouts.to_theirs(layout.leaves(recipe.model), build(recipe.model).state_dict())
        assert tf.from_shapes(shapes(params)) == recipe.model


def test_foreign_checkpoints_are_refused(golden, tmp_path: Path):
    write_bundle(tmp_path / "a", {f"generator/w{VALUE}": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="not of Slot Attention: it holds generator"):
        tf.read(tmp_path / "a")
    listed = {f"optimizer/_trainable_variables/{i}{VALUE}": np.zeros(3, np.float32) for i in range(5)}
    write_bundle(tmp_path / "b", listed)
    with pytest.raises(UserError, match="5 weights, 0 of them"):
        tf.read(tmp_path / "b")
    params = dict(tf.read(golden / PREDICTION).params)
    params["extra/kernel"] = params.pop("layer_norm/gamma")
    with pytest.raises(UserError, match=r"1 missing \(layer_norm/gamma\), 1 unexpected \(extra/kernel\)"):
        tf.from_shapes(shapes(params))


def test_the_model_has_the_checkpoints_weights(golden):
    program, read = systems.open_original(golden / PREDICTION)
    config = tf.from_shapes(shapes(read.params))
    model = build(config)
    layouts.fill(model, systems.weights(program, read, config), "here")
    assert model.config == config
    assert np.array_equal(
        model.slot_encoder.initializer.mean.detach(), read.params["slot_attention/slots_mu"].ravel()
    )
    bent = replace(read, params={**read.params, "layer_norm/gamma": np.ones(3, np.float32)})
    with pytest.raises(UserError, match=r"here: .* 1 of another shape .*\[3\] stored, \[16\] wanted"):
        layouts.fill(model, systems.weights(program, bent, config), "here")

"""`torchslots convert` on TensorFlow checkpoints: a model that loads, a run that goes on, and refusals."""

import shutil

import pytest
import torch

from fidelity.cases import read_case
from fidelity.slot_attention import load, to_batch
from torchslots import hub
from torchslots.convert.convert import convert
from torchslots.io.errors import UserError
from torchslots.training import checkpoint, optim

PREDICTION, DISCOVERY = "slot_attention_set_prediction_mini", "slot_attention_object_discovery_mini"


@pytest.mark.parametrize(("name", "step"), [(PREDICTION, 2), (DISCOVERY, 1)])
def test_a_converted_model_predicts_as_the_original(golden, tmp_path, name, step):
    case = read_case(golden / name)
    done = convert(golden / name / "checkpoint", tmp_path / "out", config=golden / name / "config.json")
    assert done.step == step
    assert f"of the family slot_attention after {step} updates" in str(done)
    assert done.num_weights == sum(p.numel() for p in load(case).model.parameters())
    found = hub.load_model(tmp_path / "out").predict(to_batch(case.inputs))
    slots = torch.from_numpy(case.outputs["slots_iter"][-1])
    torch.testing.assert_close(found.slots[:, 0], slots, rtol=1e-4, atol=1e-5)


def test_published_sizes_need_no_more_than_the_folder(golden, tmp_path):
    done = convert(golden / PREDICTION / "checkpoint", tmp_path)
    assert done.config.resolution == (128, 128) and done.config.num_slots == 10


def test_a_run_is_written_to_go_on_from(golden, tmp_path):
    recipe, run = "slot_attention_set_prediction", tmp_path / "run"
    convert(golden / PREDICTION / "checkpoint", tmp_path / "out", recipe=recipe, run=run)
    saved = checkpoint.latest(run, print)
    assert saved is not None and saved.state.step == 2
    assert sum(key.startswith("optim/exp_avg_sq/") for key in saved.training) == len(saved.model)
    with pytest.raises(UserError, match="--run needs --recipe"):
        convert(golden / PREDICTION / "checkpoint", tmp_path / "out", run=tmp_path / "other")


def test_flax_runs_go_on_too(golden, tmp_path):
    source, run = golden / "savi_small_mini", tmp_path / "run"
    done = convert(
        source / "checkpoints-0",
        tmp_path / "out",
        recipe="savi_small",
        config=source / "config.json",
        run=run,
    )
    saved = checkpoint.latest(run, print)
    assert saved is not None and saved.state.step == done.step
    model = hub.load_model(tmp_path / "out")
    optimizer = optim.adam(model)
    memory = {key[6:]: value for key, value in saved.training.items() if key.startswith("optim/")}
    optim.load_optimizer(model, optimizer, memory, "here")
    assert {float(state["step"]) for state in optimizer.state.values()} == {done.step}
    assert all(state["exp_avg_sq"].min() >= 0 for state in optimizer.state.values())


def test_wrong_systems_are_answered_with_the_right_one(golden, tmp_path):
    with pytest.raises(UserError, match="slot_attention_set_prediction"):
        convert(golden / PREDICTION / "checkpoint", tmp_path, recipe="slot_attention_clevr6")
    with pytest.raises(UserError, match="slot_attention_clevr6"):
        convert(golden / DISCOVERY / "checkpoint", tmp_path, recipe="savi_small")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["[1, 2]", "{", '{"resolution": [3]}', '{"resolution": ["a", "b"]}'])
def test_a_configuration_that_is_none_is_refused(golden, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError):
        convert(golden / PREDICTION / "checkpoint", tmp_path / "out", config=tmp_path / "config.json")
    assert not (tmp_path / "out").exists()


def test_damage_is_found_before_anything_is_written(golden, tmp_path):
    source = shutil.copytree(golden / PREDICTION / "checkpoint", tmp_path / "source")
    shard = source / "ckpt-1.data-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-50_000])
    with pytest.raises(UserError, match="damaged"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""Files of the torch originals' trainer: what is read, and every way in which a file can be wrong."""

import os
import pickle

import numpy as np
import pytest
import torch

from torchslots.convert.readers import torch as torch_checkpoint
from torchslots.io.errors import UserError
from torchslots.models.weights import shapes

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.zeros(2), "grid": torch.ones(1, 4)}


def trained() -> dict:
    """What nerv's trainer writes, numpy's scalar of the best score among it."""
    adam = {
        0: {"step": torch.tensor(7.0), "exp_avg": torch.ones(2, 3), "exp_avg_sq": torch.full((2, 3), 2.0)}
    }
    return {
        "state_dict": STATE,
        "opt_state_dict": {
            "state": adam,
            "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0, 1]}],
        },
        "it": 8,
        "epoch": 1,
        "best_metric_dict": {"loss": np.float64(0.5), "epoch": np.int64(3)},
        "scheduler_state_dict": {"last_epoch": 8, "_last_lr": [1e-3]},
        "scheduler_method": "iter",
    }


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model_8.pth"
    torch.save(trained(), path)
    return path


def refused(path, match):
    with pytest.raises(UserError, match=match) as caught:
        torch_checkpoint.read(path)
    assert path.name in str(caught.value) and "Traceback" not in str(caught.value)


def test_bare_and_with_the_optimiser(file, tmp_path):
    torch.save(STATE, tmp_path / "best.pth")
    bare, whole = torch_checkpoint.read(tmp_path / "best.pth"), torch_checkpoint.read(file)
    assert list(bare.params) == list(whole.params) == list(STATE)
    assert shapes(whole.params) == {"a.weight": (2, 3), "a.bias": (2,), "grid": (1, 4)}
    assert (bare.step, bare.adam, bare.moments([["a.weight", "a.bias"]])) == (None, {}, ({}, {}))
    assert whole.step == 7 and whole.groups == [[0, 1]]
    first, second = whole.moments([["a.weight", "a.bias"]])
    assert first.keys() == second.keys() == {"a.weight"} and second["a.weight"].max() == 2


def test_half_precision_and_the_old_format_are_read(tmp_path):
    path = tmp_path / "model.pth"
    halves = {name: value.half() for name, value in STATE.items()} | {
        "mask": torch.ones(2, 2, dtype=torch.bool)
    }
    torch.save(halves, path, _use_new_zipfile_serialization=False)
    found = torch_checkpoint.read(path).params
    assert found["a.weight"].dtype == np.float32 and found["mask"].dtype == np.bool_


def test_of_a_folder_the_best_and_else_the_newest(file, tmp_path):
    models = tmp_path / "run" / "models"
    models.mkdir(parents=True)
    for index, name in enumerate(("model_9.pth", "model_10.pth")):
        torch.save({"x": torch.tensor([float(index)])}, models / name)
        os.utime(models / name, (1000 + index, 1000 + index))
    assert torch_checkpoint.holds(tmp_path / "run")
    assert torch_checkpoint.read(tmp_path / "run").path.name == "model_10.pth"
    torch.save(STATE, models / "best.pth")
    os.utime(models / "best.pth", (1, 1))
    assert torch_checkpoint.read(tmp_path / "run").path.name == "best.pth"
    assert not torch_checkpoint.holds(models.parent.parent / "nothing")


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("way", ["torch", "pickle", "old"])
def test_nothing_in_a_file_is_run(tmp_path, way):
    path, trace = tmp_path / "model.pth", tmp_path / "trace"
    content = {"state_dict": STATE, "more": Runs(trace)}
    if way == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "torch")
    refused(path, "it holds code.* not opened.* torch.save\\(model.state_dict")
    assert not trace.exists()


@pytest.mark.parametrize("missing", [3, 0.4, 0.8], ids=str)
def test_an_old_file_that_was_cut_off_holds_no_code(tmp_path, missing):
    path = tmp_path / "model.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data[: -(missing if missing == 3 else int(missing * len(data)))])
    refused(path, "(not a whole file|ends too early).* Copy or download it again")


def test_a_pickle_of_plain_values_is_called_one(tmp_path):
    (tmp_path / "model.pth").write_bytes(pickle.dumps({"epoch": 3}))
    refused(tmp_path / "model.pth", "is a pickle, but not of torch.save. Save the tensors alone")


def test_whole_modules_and_programs_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    refused(tmp_path / "module.pth", "pickle of more than tensors")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99], ids=str)
def test_files_that_were_cut_off(file, keep):
    data = file.read_bytes()
    file.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    refused(file, "is empty|not a whole file")


@pytest.mark.parametrize(
    "data", [b"hello", b"PK\x03\x04" + bytes(200), b"\x80\x04N.", b"\x1f\x8b" + bytes(50)], ids=repr
)
def test_foreign_files(tmp_path, data):
    (tmp_path / "model.pth").write_bytes(data)
    refused(tmp_path / "model.pth", "not a whole file|holds a|but not of torch.save")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"epoch": 3},
        {"state_dict": {}},
        {"state_dict": {"a": 1.0}},
        {"state_dict": 3, "it": 1},
        {1: torch.ones(1)},
    ],
    ids=str,
)
def test_files_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "no state dict")


def test_a_tensor_alone_is_no_state_dict(tmp_path):
    torch.save(torch.ones(3), tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "holds a Tensor")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (torch.tensor([1.0, float("nan")]), "not finite"),
        (torch.eye(2).to_sparse(), "plain tensor"),
        (torch.ones(2, dtype=torch.complex64), "plain tensor"),
    ],
    ids=["nan", "sparse", "complex"],
)
def test_tensors_that_no_model_has(tmp_path, value, match):
    torch.save({**STATE, "b": value}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", f"`b`.*{match}")


def test_places_where_nothing_is(tmp_path):
    refused(tmp_path / "model.pth", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"No \.pth file")


@pytest.mark.parametrize("spoil", ["groups", "state", "kind"])
def test_an_optimiser_of_another_kind(tmp_path, spoil):
    content, path = trained(), tmp_path / "model.pth"
    content["opt_state_dict"] = {
        "groups": {"state": {}},
        "state": {"state": {"x": {}}, "param_groups": []},
        "kind": [1, 2],
    }[spoil]
    torch.save(content, path)
    refused(path, "opt_state_dict")


def test_moments_of_another_model(file):
    read = torch_checkpoint.read(file)
    with pytest.raises(UserError, match=r"optimiser has \[2\] parameters"):
        read.moments([["a.weight"]])
    with pytest.raises(UserError, match=r"`exp_avg` of a\.bias should be"):
        read.moments([["a.bias", "a.weight"]])

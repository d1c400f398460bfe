"""Results that are kept until a job is done belong to one process."""

import multiprocessing
from pathlib import Path

import pytest
import torch

from torchslots.evaluation.kept import Kept
from torchslots.io.errors import UserError


def _begin(folder: Path, begun, end) -> None:
    kept = Kept(folder, "job")
    kept.write("0", {"a": torch.zeros(1)})
    begun.set()
    end.wait(30)
    kept.remove()


@pytest.mark.parametrize("key", ["job", "another job"])
def test_a_second_process_is_refused_and_removes_nothing(tmp_path: Path, key: str) -> None:
    context = multiprocessing.get_context("fork")
    begun, end = context.Event(), context.Event()
    other = context.Process(target=_begin, args=(tmp_path, begun, end))
    other.start()
    try:
        assert begun.wait(30)
        with pytest.raises(UserError, match="Another process writes results in"):
            Kept(tmp_path, key, anew=True)
        assert (tmp_path / ".unfinished_0" / "0.safetensors").is_file()
    finally:
        end.set()
        other.join(30)
    assert not (tmp_path / ".unfinished_0").exists()
    Kept(tmp_path, key).write("0", {"a": torch.zeros(1)})


def test_a_job_goes_on_in_the_same_process(tmp_path: Path) -> None:
    Kept(tmp_path, "job").write("0", {"a": torch.ones(1)})
    again = Kept(tmp_path, "job")
    found = again.read("0")
    assert again.resumes and found is not None and found["a"] == 1
    again.write("1", {"a": torch.ones(1)})
    again.remove()
    assert list(tmp_path.iterdir()) == []

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
        assert (tmp_path / ".unfinished_0" / "0.kept").is_file()
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


def test_a_file_that_is_not_as_it_was_written_is_computed_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "job")
    kept.write("0", {"frames": torch.arange(6.0).reshape(2, 3)})
    file = tmp_path / ".unfinished_0" / "0.kept"
    whole = file.read_bytes()
    for place in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        assert kept.read("0") is None, place
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert kept.read("0") is None, length
    file.write_bytes(whole)
    found = kept.read("0")
    assert found is not None and torch.equal(found["frames"], torch.arange(6.0).reshape(2, 3))
    kept.remove()

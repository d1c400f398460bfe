"""What errors say, also those that say nothing."""

import pickle

import pytest

from torchslots.io.errors import first_line, memory_is_full


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (EOFError(), "EOFError"),
        (ValueError(" \n "), "ValueError"),
        (ValueError("\nA reason.\nMore"), "A reason"),
        (OSError(), "OSError"),
        (OSError("a reason"), "a reason"),
        (OSError(5, None), "[Errno 5] None"),
        (FileNotFoundError(2, "No such file or directory", "a/b"), "No such file or directory"),
        (KeyError("model"), "'model' is missing"),
        (KeyError("no such key in archive"), "'no such key in archive'"),
        (KeyError(), "KeyError"),
        (KeyError(1, 2), "(1, 2)"),
        (pickle.UnpicklingError(), "UnpicklingError"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_first_lines(error: Exception, says: str) -> None:
    assert first_line(error) == says


def test_full_memory_is_told_from_other_errors() -> None:
    import torch

    assert memory_is_full(MemoryError()) and memory_is_full(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    assert memory_is_full(error.value)
    assert not memory_is_full(RuntimeError("shapes")) and not memory_is_full(
        ValueError("DefaultCPUAllocator: ")
    )

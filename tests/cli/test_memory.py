"""Freed memory is kept where the C library can, and saying so is harmless elsewhere."""

import platform
import subprocess
import sys

import pytest

from torchslots.cli.memory import keep_freed_memory

_FAULTS = """
import resource, {module}
from torchslots.cli.memory import keep_freed_memory
if {keep}: keep_freed_memory()
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before = count()
for _ in range(40): {module}.ones(10_000_000)
print(count() - before)
"""


def faults(module: str, keep: bool) -> int:
    program = [sys.executable, "-c", _FAULTS.format(module=module, keep=keep)]
    return int(subprocess.run(program, capture_output=True, check=True).stdout)


@pytest.mark.parametrize("module", ["numpy", pytest.param("torch", marks=pytest.mark.slow)])
def test_kept_memory_is_touched_once(module: str) -> None:
    if platform.libc_ver()[0] != "glibc":
        assert not keep_freed_memory()
        return
    assert faults(module, keep=True) < 0.8 * faults(module, keep=False)

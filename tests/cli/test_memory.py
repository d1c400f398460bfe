"""Freed memory is kept where the C library can, and saying so is harmless elsewhere."""

import platform
import subprocess
import sys

from torchslots.cli.memory import keep_freed_memory

_FAULTS = """
import resource, torch
from torchslots.cli.memory import keep_freed_memory
if {keep}: keep_freed_memory()
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before = count()
for _ in range(40): torch.ones(10_000_000)
print(count() - before)
"""


def faults(keep: bool) -> int:
    done = subprocess.run([sys.executable, "-c", _FAULTS.format(keep=keep)], capture_output=True, check=True)
    return int(done.stdout)


def test_kept_memory_is_touched_once() -> None:
    if platform.libc_ver()[0] != "glibc":
        assert not keep_freed_memory()
        return
    assert faults(keep=True) < 0.8 * faults(keep=False)

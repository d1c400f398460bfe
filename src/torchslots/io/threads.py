"""Threads of this process and of those that it starts: how they wait, and how many there are.

Torch's threads wait for each other in a loop (up to 300,000 rounds) before they sleep. Beside other busy processes a
thread may wait for one that has no core, so the loop takes the core that the other needs: a training step beside four
busy processes took four times its CPU seconds. A short loop keeps the speed of an idle machine and takes next to
nothing from a busy one; `benchmarks/waiting.py` measures both.
"""

import os
import sys
from collections.abc import Container, Iterator, MutableMapping
from contextlib import contextmanager

SPIN_COUNT = 1500
"""Rounds that a thread waits in a loop before it sleeps."""
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_NUMBERS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def wait_briefly(
    environment: MutableMapping[str, str] = os.environ, loaded: Container[str] = sys.modules
) -> None:
    """Set GOMP_SPINCOUNT for this process and those that it starts.

    Nothing is changed where GOMP_SPINCOUNT or OMP_WAIT_POLICY is set, or torch is loaded, which reads them only then.
    """
    if "torch" not in loaded and not any(name in environment for name in _WAITING):
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Limit processes started in the block to one thread each."""
    before = {name: os.environ.get(name) for name in _NUMBERS}
    os.environ.update(dict.fromkeys(_NUMBERS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})

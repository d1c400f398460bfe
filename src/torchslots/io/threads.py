"""Threads of this process and of those that it starts: how they wait, and how many there are.

Torch's threads wait for each other in a loop (up to 300,000 rounds) before they sleep. Beside other busy processes a
thread may wait for one that has no core, so the loop takes the core that the other needs: a training step beside four
busy processes took four times its CPU seconds. Fewer rounds mend that, and cost time where every thread has its core.
So the rounds are few where the cores are taken when the process starts, and more where they are not;
`benchmarks/waiting.py` measures both.
"""

import os
import sys
import time
from collections.abc import Container, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

SPINS_IDLE, SPINS_BUSY = 6000, 500
"""Rounds that a thread waits in a loop before it sleeps: where each has its core, and beside busy processes."""
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_NUMBERS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_LOAD = Path("/proc/loadavg")
_LOOKS, _SECONDS_BETWEEN = 3, 0.001
"""How often the running threads are counted, so that one that runs for a moment is not taken for a busy process."""


def wait_briefly(
    environment: MutableMapping[str, str] = os.environ, loaded: Container[str] = sys.modules
) -> None:
    """Set GOMP_SPINCOUNT for this process and those that it starts.

    Nothing is changed where GOMP_SPINCOUNT or OMP_WAIT_POLICY is set, or torch is loaded, which reads them only then.
    """
    if "torch" not in loaded and not any(name in environment for name in _WAITING):
        wanted = environment.get("OMP_NUM_THREADS", "").split(",")[0]
        threads = (int(wanted) if wanted.isdecimal() else 0) or count_cores()
        busy = threads > 1 and others_running() + threads > (os.cpu_count() or 1)
        environment["GOMP_SPINCOUNT"] = str(SPINS_BUSY if busy else SPINS_IDLE)


def others_running(load: Path = _LOAD) -> int:
    """Threads of this machine that run or wait for a core now, without this one; 0 where the system does not say.

    Args:
        load: in the form of Linux's /proc/loadavg, whose fourth word is RUNNING/ALL.
    """
    counts = []
    try:
        for _ in range(_LOOKS):
            counts.append(int(load.read_text().split()[3].split("/")[0]) - 1)
            time.sleep(_SECONDS_BETWEEN)
    except (OSError, ValueError, IndexError):
        return 0
    return max(0, sorted(counts)[_LOOKS // 2])


def count_cores() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # missing on macOS and Windows
        return os.cpu_count() or 1


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

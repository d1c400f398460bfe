"""Start several processes on this machine as torchrun does."""

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_TESTS = str(Path(__file__).parents[1])


class Ended(NamedTuple):
    """A process's exit status and what it wrote."""

    code: int
    out: str
    err: str


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(processes: int, command: Sequence[str]) -> list[subprocess.Popen]:
    """Start the command `processes` times, each with its rank."""
    shared = {
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([_TESTS, os.environ.get("PYTHONPATH", "")]),
    }
    pipe = subprocess.PIPE
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        for rank in range(processes)
    ]


def ends(running: Sequence[subprocess.Popen], timeout: float = 900) -> list[Ended]:
    """Wait for all; none is left behind. The time is that of a machine with much other work."""
    try:
        found = []
        for process in running:
            out, err = process.communicate(timeout=timeout)
            found.append(Ended(process.returncode, out, err))
        return found
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()


def launch(processes: int, command: Sequence[str]) -> list[Ended]:
    """Start the command `processes` times, each with its rank, and wait for all."""
    return ends(start(processes, command))

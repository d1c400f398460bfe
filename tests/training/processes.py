"""Start several processes on this machine as torchrun does."""

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from forked import Forked

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


def _ranks(processes: int) -> list[dict[str, str]]:
    """What torchrun adds to the environment of each process."""
    shared = {
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([_TESTS, os.environ.get("PYTHONPATH", "")]),
    }
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def start(processes: int, command: Sequence[str]) -> list[subprocess.Popen]:
    """Start the command `processes` times, each with its rank."""
    pipe = subprocess.PIPE
    return [
        subprocess.Popen(command, env={**os.environ, **rank}, stdout=pipe, stderr=pipe, text=True)
        for rank in _ranks(processes)
    ]


def ends(running: Sequence[subprocess.Popen | Forked], timeout: float = 900) -> list[Ended]:
    """Wait for all; none is left behind. The time is that of a machine with much other work."""
    try:
        found = []
        for process in running:
            out, err = process.communicate(timeout=timeout)
            found.append(Ended(process.returncode or 0, out, err))
        return found
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()


def launch(processes: int, command: Sequence[str]) -> list[Ended]:
    """Start the command `processes` times, each with its rank, and wait for all."""
    return ends(start(processes, command))


def launch_file(processes: int, program: Path, *words: str) -> list[Ended]:
    """The same with a Python file, sooner."""
    return ends([Forked(program, words, rank) for rank in _ranks(processes)])

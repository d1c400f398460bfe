"""Training, evaluating, predicting and loading again and again in one process: what it holds must stay flat."""

import gc
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from stress.commands import Inputs, commands
from torchslots.cli import main
from torchslots.convert.pretrained import load_model
from torchslots.models.model import ObjectCentricModel

_CHOSEN = ("train", "evaluate --recon", "predict")


class Held(NamedTuple):
    """What a process holds."""

    memory: float
    """MiB that it does not share."""
    descriptors: int
    threads: int
    temporary: int
    """Files in the folder for temporary ones."""


def held() -> Held:
    """What this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    own = [path for path in Path(tempfile.gettempdir()).iterdir() if path.stat().st_uid == os.getuid()]
    return Held(
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(list(Path("/proc/self/fd").iterdir())),
        threading.active_count(),
        len(own),
    )


def soak(given: Inputs, work: Path, seconds: float, least: int = 3) -> list[Held]:
    """Rounds of all four for some seconds; what the process holds after each.

    Args:
        work: a folder to be current, and the folder for temporary files is in it.
        least: rounds that there are in any case.

    Raises:
        RuntimeError: a command fails.
    """
    until, found = time.monotonic() + seconds, []
    chosen = [command for command in commands(given) if command.name in _CHOSEN]
    temporary, before = tempfile.tempdir, Path.cwd()
    tempfile.tempdir = str(work / "temporary")
    Path(tempfile.tempdir).mkdir(parents=True)
    try:
        while len(found) < least or time.monotonic() < until:
            place = work / "round"
            place.mkdir()
            os.chdir(place)
            for command in chosen:
                if main(command.words) != 0:
                    raise RuntimeError(f"{command.name} failed in round {len(found) + 1}.")
            assert isinstance(load_model(place / "run"), ObjectCentricModel)
            os.chdir(before)
            shutil.rmtree(place)
            found.append(held())
    finally:
        tempfile.tempdir = temporary
        os.chdir(before)
    return found


def growth(found: list[Held]) -> Held:
    """What is held more after the last round than after the second, which has loaded everything."""
    last, first = found[-1], found[1]
    return Held(
        last.memory - first.memory,
        last.descriptors - first.descriptors,
        last.threads - first.threads,
        last.temporary - first.temporary,
    )

"""Commands of a user without a home: none known, one that is no folder, one that may not be written.

Each runs in a process of its own, since libraries look for the home when they are imported. Its data may not be written
either, so that nothing can be stored beside them.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torchslots
from stress.commands import Command, contents, copy_of
from stress.disk import Outcome
from stress.kills import Tally, chosen, differences, untold, whole

_NOBODY = "import pwd\ndef unknown(user): raise KeyError(user)\npwd.getpwuid = unknown\n"
_START = "import sys\nfrom torchslots.cli import main\nsys.exit(main(sys.argv[1:]))\n"
_FOLDERS = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "MPLCONFIGDIR", "TORCH_HOME")
_CAPABILITIES = (1, 2)
"""Linux's numbers of root's rights to write and read in spite of modes."""
_DROP = 24
"""Linux's number for taking one away (PR_CAPBSET_DROP)."""
_HOMES = ("unknown", "no folder", "not writable")


def homeless(
    command: Command, folder: Path, count: int | None, seed: int, until: float = float("inf")
) -> Tally:
    """Run a command for each kind of home: it must end as always, or with one message, and write nowhere else."""
    expected = whole(command, folder)
    tally = Tally(len(expected.operations), Counter(), [])
    for number in chosen(len(_HOMES), count, seed):
        if time.monotonic() > until:
            break
        kind, work = _HOMES[number - 1], copy_of(expected.start, folder / "work")
        home = _home(folder / "home", kind)
        ended = _run(command.words, work, home)
        faults = untold(ended)
        if not faults and ended.status == 0:
            faults = differences(contents(work), expected)
        elif not faults and not command.needs_cache:
            faults = [("failed", ended.text[-700:])]
        tally.add(f"{command.name}, home {kind}", faults)
    return tally


def _home(place: Path, kind: str) -> Path | None:
    """A home of this kind; None: none is known."""
    if kind == "unknown":
        return None
    if kind == "no folder":
        return Path(os.devnull)
    place.mkdir(exist_ok=True)
    place.chmod(0o555)
    return place


def _run(words: tuple[str, ...], work: Path, home: Path | None) -> Outcome:
    environment = {name: value for name, value in os.environ.items() if name not in _FOLDERS}
    environment["PYTHONPATH"] = str(Path(torchslots.__file__).parents[1])
    if home is not None:
        environment["HOME"] = str(home)
    ended = subprocess.run(
        [sys.executable, "-c", (_NOBODY if home is None else "") + _START, *words],
        cwd=work,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=obey_modes,
        timeout=600,
    )
    return Outcome(ended.returncode, ended.stdout.decode(errors="replace"), [])


def obey_modes() -> None:
    """Let the modes of files hold for the programs that this process starts, root's too."""
    for capability in _CAPABILITIES:
        ctypes.CDLL(None).prctl(_DROP, capability, 0, 0, 0)


def without_rights(folder: Path) -> None:
    """Take away the rights to write a folder and all in it, and what is stored beside the files."""
    for stored in [*folder.rglob(".torchslots")]:
        shutil.rmtree(stored)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)

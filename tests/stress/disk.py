"""Disk operations of a forked process, counted, and one of them made to kill the process or to fail.

Operations are what Python's audit events tell (files opened to be written, renamed, removed, truncated, chmod; folders
made and removed) and `os.fsync`, below one folder. Those of libraries in other languages are between two of these.
"""

import faulthandler
import io
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

KILLED = 77
"""Exit status of a process that ended at a disk operation."""
PATIENCE = 300.0
"""Seconds until a process counts as hanging."""
_PATHS = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1, "os.chmod": 1}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Fault(NamedTuple):
    """What happens at an operation."""

    at: int
    """Its number, from 1."""
    code: int | None = None
    """An error of the operating system, of this operation and all later ones; None: the process is killed."""
    pause: bool = False
    """The process stops there, until it gets SIGCONT, and is not killed."""


class Outcome(NamedTuple):
    """How a forked call ended."""

    status: int | None
    """Exit status; None: it hung."""
    text: str
    """All that it printed."""
    operations: list[str]
    """Disk operations, in order."""

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.text


class _Watch:
    """The audit hook of a forked process."""

    def __init__(self, folder: Path, fault: Fault | None, journal: int) -> None:
        self._folder, self._fault, self._journal = str(folder), fault, journal
        self._count = 0

    def __call__(self, event: str, details: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(details[2], int) and details[2] & _WRITES:
            self._seen("open", details[0])
        elif event in _PATHS:
            folders = [item for item in details[_PATHS[event] :] if isinstance(item, int) and item > 2]
            self._seen(event.removeprefix("os."), details[_PATHS[event] - 1], anywhere=bool(folders))

    def fsync(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        """`os.fsync`, counted; the system's is left out, which is slow and changes nothing here."""

        def counted(handle: int) -> None:
            self._seen("fsync", Path(f"/proc/self/fd/{handle}").readlink())

        return counted

    def _seen(self, kind: str, path: Any, anywhere: bool = False) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        place = str(Path(os.fsdecode(path)).absolute())
        if not anywhere and not place.startswith(self._folder):
            return
        self._count += 1
        os.write(self._journal, f"{kind} {Path(place).name}\n".encode(errors="replace"))
        if self._fault is None or self._count < self._fault.at:
            return
        if self._fault.pause:
            if self._count == self._fault.at:
                os.kill(os.getpid(), signal.SIGSTOP)
            return
        if self._fault.code is None:
            os._exit(KILLED)
        if kind not in ("remove", "rmdir"):
            raise OSError(self._fault.code, os.strerror(self._fault.code), place)


class Started(NamedTuple):
    """A forked process, and the files of what it prints and does."""

    process: int
    told: Path
    journal: Path

    def ended(self, patience: float = PATIENCE) -> Outcome:
        """Wait for its end; it is killed when that takes longer than `patience` seconds."""
        status = _waited(self.process, patience)
        operations = self.journal.read_text(errors="replace").splitlines()
        return Outcome(status, self.told.read_text(errors="replace"), operations)


def begin(
    call: Callable[[], int],
    folder: Path,
    fault: Fault | None = None,
    *,
    space: int | None = None,
    name: str = "",
) -> Started:
    """Call a function in a forked process and watch the disk operations below a folder.

    Args:
        space: bytes that a file may have, as on a disk that is nearly full; None: any.
        name: of the files of what it prints and does, beside the folder.
    """
    told, journal = (folder.with_name(f"{folder.name}{name}.{ending}") for ending in ("told", "journal"))
    for file in (told, journal):
        file.write_bytes(b"")
    child = os.fork()
    if not child:
        _become(call, folder, fault, told, journal, space)
    return Started(child, told, journal)


def forked(
    call: Callable[[], int], folder: Path, fault: Fault | None = None, *, space: int | None = None
) -> Outcome:
    """`begin`, and wait for the end."""
    return begin(call, folder, fault, space=space).ended()


def _become(
    call: Callable[[], int],
    folder: Path,
    fault: Fault | None,
    told: Path,
    journal: Path,
    space: int | None,
) -> NoReturn:
    """The forked process: it ends here, whatever happens."""
    code = 1
    try:
        os.setpgid(0, 0)
        output = os.open(told, os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), line_buffering=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), errors="backslashreplace", line_buffering=True)
        faulthandler.dump_traceback_later(0.8 * PATIENCE, file=output)
        watch = _Watch(folder, fault, os.open(journal, os.O_WRONLY | os.O_APPEND))
        os.fsync = watch.fsync(os.fsync)
        if space is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (space, space))
        sys.addaudithook(watch)
        code = call()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _waited(child: int, patience: float) -> int | None:
    """The exit status of a process, negative for a signal; None: it took too long and was killed."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def one_message(text: str) -> bool:
    """Whether what a command printed ends with one sentence of its own, and has no traceback."""
    return (
        "Traceback" not in text and len(re.findall(r"^torchslots [a-z]+(, process \d+)?: ", text, re.M)) == 1
    )

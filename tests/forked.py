"""Programs in processes of their own, forked from one that has imported the library: each start takes a moment."""

import atexit
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

_PRELOADED = [
    "torchslots.training.run",
    "torchslots.evaluation.evaluate",
    "accelerate",
    "diffusers",
    "torch._dynamo",
]


@cache
def forkserver() -> ForkServerContext:
    """Starts processes in which the heavy imports are done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


class Forked:
    """A running Python file, with the methods of `subprocess.Popen` that tests use; its output goes to files.

    Args:
        environment: added to that of the tests.
        own_group: lead a new group of processes.
    """

    def __init__(
        self,
        program: Path,
        words: Sequence[str],
        environment: Mapping[str, str] | None = None,
        own_group: bool = False,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp())
        self._files = (str(self._folder / "out"), str(self._folder / "err"))
        wanted = {**os.environ, **(environment or {})}
        arguments = (str(program), list(words), wanted, self._files, own_group)
        self._process = forkserver().Process(target=_run, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> None:
        """Wait for the end; what was written is gone."""
        self._process.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; what was written to stdout and stderr.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._folder), timeout or 0)
        out, err = (Path(file).read_text() if Path(file).exists() else "" for file in self._files)
        self.wait()
        return out, err


def _run(
    program: str, words: list[str], environment: dict[str, str], files: tuple[str, str], own_group: bool
) -> None:
    """What Python does with a file, from its start to its exit status."""
    if own_group:
        os.setsid()
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [program, *words]
    code: object = 0
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)

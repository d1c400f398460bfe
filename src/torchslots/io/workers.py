"""Run tasks in several processes; results come in order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from torchslots.io.errors import UserError
from torchslots.io.threads import single_threaded

Result = TypeVar("Result")
_AHEAD = 8
"""Results for each worker that may wait to be fetched."""


@contextmanager
def in_order(
    make: Callable[..., Result], tasks: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[Iterator[Result]]:
    """Results of `make(*task)` in the order of the tasks, computed by other processes for more than one worker.

    Args:
        make: a function that another process can import, so not a local one.

    Raises:
        UserError: a worker process died.
    """
    if workers <= 1:
        yield (make(*task) for task in tasks)
        return
    with single_threaded():
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_become_worker)
        try:
            yield _fetched(pool, make, tasks, workers * _AHEAD)
        except BrokenProcessPool as error:
            raise UserError(
                "A worker process died, probably because memory ran out: run again with fewer workers. A script that "
                'calls this has to do so below `if __name__ == "__main__":`, or with workers=1.'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _fetched(
    pool: ProcessPoolExecutor, make: Callable[..., Result], tasks: Sequence[tuple[Any, ...]], ahead: int
) -> Iterator[Result]:
    """Results in order; at most `ahead` wait in memory."""
    waiting: deque[Future[Result]] = deque()
    for task in tasks:
        waiting.append(pool.submit(make, *task))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _become_worker() -> None:
    """Ignore the signals that ask to stop, which the parent handles, and exit when the parent does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent) -> None:
    parent.join()
    os._exit(1)

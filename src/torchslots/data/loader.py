"""Batches of a data set, in an order fixed by the seed, over any number of processes and workers.

Training reads one endless stream of items: epoch after epoch, each a permutation sampled from (seed, epoch). Global
batch s is items [s * batch_size, (s + 1) * batch_size) of that stream. What is sampled for an item (its window, its
crop) follows from (seed, its position in the stream) alone. So an interrupted run resumes exactly, and any number of
processes reads together what one process would read.
"""

import atexit
import gc
import itertools
import logging
import multiprocessing
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from torchslots.data.batch import ClipDataset, check_sample, collate
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.transforms import Sample
from torchslots.io.errors import UserError, first_line
from torchslots.models.types import Batch

_LOG = logging.getLogger("torchslots.data")
_ORDER, _SAMPLES, _REPLACEMENT = 0, 1, 2
_MOST_REPLACEMENTS = 100
_DEATH_SHOWS_IN = 1.0
"""Seconds in which the system tells that a process has died, after what it sent broke off."""


class Item(NamedTuple):
    """One item of the stream: the example's index, and its position in the stream (None: evaluation)."""

    index: int
    position: int | None


def train_batches(
    dataset: ClipDataset,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    skip_corrupt: bool = False,
    on_skip: Callable[[CorruptRecord], None] | None = None,
) -> Iterator[Batch]:
    """Endless training batches.

    Args:
        batch_size: Items over all processes; each reads the contiguous part of its rank.
        start_step: Number of the first global batch.
        num_workers: Loading processes; 0 loads in this one.
        skip_corrupt: Replace corrupt examples by others, sampled from (seed, position).
        on_skip: Called for each replaced example, with its batch; None: log a warning.

    Raises:
        UserError: the data set is empty; `batch_size` does not divide among the processes; data cannot be read.
    """
    if batch_size < 1 or batch_size % world_size:
        raise UserError(
            f"A batch of {batch_size} clips does not divide among {world_size} processes. Choose a multiple."
        )
    _demand_examples(dataset)
    steps = _train_items(len(dataset), batch_size, seed, start_step, rank, world_size)
    reader = _BatchReader(dataset, seed, skip_corrupt)
    return _load(reader, steps, num_workers, on_skip)


def eval_batches(
    dataset: ClipDataset,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    limit: int | None = None,
    skip_corrupt: bool = False,
    on_skip: Callable[[CorruptRecord], None] | None = None,
) -> Iterator[Batch]:
    """Each video exactly once over all processes, in order; the last batch may be smaller.

    Args:
        batch_size: Videos at once in each process.
        limit: Only the first so many videos of the data set; None: all.
        skip_corrupt: Leave out corrupt examples.
        on_skip: Called for each example left out; None: log a warning.

    Raises:
        UserError: the data set is empty, or data cannot be read.
    """
    _demand_examples(dataset)
    total = number_read(dataset, limit)
    mine = [Item(index, None) for index in range(rank, total, world_size)]
    steps = [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]
    return _load(_BatchReader(dataset, 0, skip_corrupt), steps, num_workers, on_skip)


def number_read(dataset: ClipDataset, limit: int | None) -> int:
    """Number of examples that `eval_batches` reads, over all processes."""
    return len(dataset) if limit is None else min(limit, len(dataset))


def _demand_examples(dataset: ClipDataset) -> None:
    if len(dataset) == 0:
        raise UserError("The data set holds no examples. Check its folder, its split and its files.")


def _train_items(
    size: int, batch_size: int, seed: int, start_step: int, rank: int, world_size: int
) -> Iterator[list[Item]]:
    share = batch_size // world_size
    epoch, order = -1, np.zeros(0, np.int64)
    for step in itertools.count(start_step):
        items = []
        for position in range(step * batch_size + rank * share, step * batch_size + (rank + 1) * share):
            if position // size != epoch:
                epoch = position // size
                order = np.random.default_rng((seed, _ORDER, epoch)).permutation(size)
            items.append(Item(int(order[position % size]), position))
        yield items


class _Loaded(NamedTuple):
    """One batch from a loading process. Errors are returned as values, so that they arrive without a traceback."""

    batch: Batch | None
    skipped: list[CorruptRecord]
    error: UserError | None = None


class _BatchReader(Dataset):
    """Reads whole batches, in this process or, as a copy, in each worker."""

    def __init__(self, dataset: ClipDataset, seed: int, skip_corrupt: bool) -> None:
        self.dataset, self.seed, self.skip_corrupt = dataset, seed, skip_corrupt

    def __getitem__(self, items: Sequence[Item]) -> _Loaded:
        skipped: list[CorruptRecord] = []
        try:
            samples = [sample for item in items for sample in self._samples(item, skipped)]
            return _Loaded(collate(samples) if samples else None, skipped)
        except UserError as error:
            return _Loaded(None, skipped, error)

    def _samples(self, item: Item, skipped: list[CorruptRecord]) -> list[Sample]:
        """The item's sample, in training a replacement of a corrupt one, in evaluation none of a corrupt one."""
        index = item.index
        for attempt in range(_MOST_REPLACEMENTS):
            try:
                return [self._sample(index, item.position)]
            except CorruptRecord as error:
                if not self.skip_corrupt:
                    raise
                skipped.append(error)
            if item.position is None:
                return []
            rng = np.random.default_rng((self.seed, _REPLACEMENT, item.position, attempt))
            index = int(rng.integers(len(self.dataset)))
        raise UserError(f"{_MOST_REPLACEMENTS} examples in a row are corrupt, the last: {skipped[-1]}")

    def _sample(self, index: int, position: int | None) -> Sample:
        rng = None if position is None else np.random.default_rng((self.seed, _SAMPLES, position))
        return check_sample(self.dataset.sample(index, rng), self.dataset.name(index))


def _load(
    reader: _BatchReader,
    steps: Iterable[list[Item]],
    num_workers: int,
    on_skip: Callable[[CorruptRecord], None] | None,
) -> Iterator[Batch]:
    report = on_skip or (lambda error: _LOG.warning("left out: %s", error))
    for loaded in _in_workers(reader, steps, num_workers) if num_workers else map(reader.__getitem__, steps):
        for error in loaded.skipped:
            report(error)
        if loaded.error is not None:
            raise loaded.error
        if loaded.batch is not None:
            yield loaded.batch


def _in_workers(reader: _BatchReader, steps: Iterable[list[Item]], num_workers: int) -> Iterator[_Loaded]:
    """Batches in order from loading processes, two ahead in each."""
    with warnings.catch_warnings():
        # More workers than cores, and forking a process with threads: harmless, workers run no parallel code.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        loader = DataLoader(
            reader,
            batch_size=None,
            sampler=steps,  # type: ignore[arg-type]
            num_workers=num_workers,
            collate_fn=_unchanged,  # type: ignore[arg-type]
            worker_init_fn=_start_worker,
            multiprocessing_context="fork" if sys.platform == "linux" else None,
            pin_memory=torch.cuda.is_available(),
        )
        others = set(multiprocessing.active_children())
        with _without_child_handler(), _garbage_kept():
            batches = iter(loader)
        workers = set(multiprocessing.active_children()) - others
    end = partial(_end, workers)
    atexit.register(end)  # a program may leave before it has closed the loader
    try:
        yield from batches
    except Exception as error:  # a death in the middle of a message shows as whatever reading it raises
        if not connection.wait([worker.sentinel for worker in workers], timeout=_DEATH_SHOWS_IN):
            raise
        raise UserError(
            f"A data loading process died ({first_line(error)}). Mostly memory or /dev/shm ran out: "
            "lower the number of workers or the batch size."
        ) from error
    finally:
        del batches, loader
        atexit.unregister(end)
        end()


def _end(workers: Iterable[BaseProcess]) -> None:
    """Kill what still runs: loading processes ignore the signal with which the loader, or Python's exit, ends them."""
    for worker in workers:
        worker.kill()


@contextmanager
def _without_child_handler() -> Iterator[None]:
    """Drop the handler by which torch raises an error, wherever the program is, when a loading process dies.

    Without it the next batch raises, where a run can save.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Processes that are forked here never free what this one has.

    The scaler of a film's frames, for one, joins its threads when it is freed, and waits forever in a process that
    lacks them.
    """
    frozen_before = gc.get_freeze_count() > 0
    gc.freeze()
    try:
        yield
    finally:
        if not frozen_before:
            gc.unfreeze()


def _unchanged(loaded: _Loaded) -> _Loaded:
    return loaded


def _start_worker(_: int) -> None:
    """Ignore the signals that ask to stop, which the parent handles, and use one thread."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = _report_unless_disconnected
    torch.set_num_threads(1)


def _report_unless_disconnected(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print no traceback where the parent stopped while it received a tensor, which breaks the connection."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)

"""Kills at every disk operation of every command that writes: the same command again must end as if never killed."""

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from stress.commands import Command, contents, copy_of, run
from stress.disk import KILLED, Fault, Outcome, forked, one_message

KINDS = ("whole", "lost", "wrong", "left", "traceback", "failed", "hang")


class Tally(NamedTuple):
    """What faults in one command led to."""

    operations: int
    counts: Counter[str]
    reports: list[str]
    """What went wrong, in words."""


class Whole(NamedTuple):
    """A command's start and end without faults."""

    start: Path
    end: dict[str, Any]
    volatile: set[str]
    """Files that differ between two runs."""
    operations: list[str]


def whole(command: Command, folder: Path) -> Whole:
    """Run a command twice without faults.

    Raises:
        RuntimeError: it fails.
    """
    start = folder / "start"
    shutil.rmtree(start, ignore_errors=True)
    start.mkdir(parents=True)
    for words in command.before:
        _succeed(forked(partial(run, words, start), start))
    ends = []
    operations: list[str] = []
    for _ in range(2):
        work = copy_of(start, folder / "work")
        outcome = forked(partial(run, command.words, work), work)
        _succeed(outcome)
        operations = outcome.operations
        ends.append(contents(work))
    volatile = {name for name in ends[0] if ends[0][name] != ends[1].get(name)}
    return Whole(start, ends[0], volatile, operations)


def kill(command: Command, folder: Path, count: int | None, seed: int, until: float = float("inf")) -> Tally:
    """Kill a command at its disk operations, and give it again.

    Args:
        count: as many operations, chosen at random; None: all.
        until: a time by the monotonic clock, at which to stop.
    """
    expected = whole(command, folder)
    counts: Counter[str] = Counter()
    reports: list[str] = []
    for at in _chosen(len(expected.operations), count, seed):
        if time.monotonic() > until:
            break
        work = copy_of(expected.start, folder / "work")
        killed = forked(partial(run, command.words, work), work, Fault(at))
        if killed.status != KILLED:
            counts["failed"] += 1
            reports.append(f"{command.name}: not killed at {at}: {killed.status} {killed.text[-500:]}")
            continue
        again = forked(partial(run, command.words, work), work)
        problems = _problems(again, expected, work)
        for kind, text in problems or [("whole", "")]:
            counts[kind] += 1
            if text:
                reports.append(
                    f"{command.name}, killed at {at} ({expected.operations[at - 1]}): {kind}: {text}"
                )
    return Tally(len(expected.operations), counts, reports)


def fail(
    command: Command,
    folder: Path,
    code: int,
    count: int | None,
    seed: int,
    until: float = float("inf"),
) -> Tally:
    """Let a command's disk operations fail, from one on; it must say so in one message, and go on when given again."""
    expected = whole(command, folder)
    counts: Counter[str] = Counter()
    reports: list[str] = []
    for at in _chosen(len(expected.operations), count, seed):
        if time.monotonic() > until:
            break
        work = copy_of(expected.start, folder / "work")
        failed = forked(partial(run, command.words, work), work, Fault(at, code))
        problems = (
            [] if failed.status in (0, 2) else [("failed", f"status {failed.status} {failed.text[-700:]}")]
        )
        if failed.traceback:
            problems.append(("traceback", failed.text[-1500:]))
        elif failed.status == 2 and not one_message(failed.text):
            problems.append(("failed", f"not one message: {failed.text[-700:]}"))
        again = forked(partial(run, command.words, work), work)
        problems += _problems(again, expected, work)
        for kind, text in problems or [("whole", "")]:
            counts[kind] += 1
            if text:
                what = f"{os.strerror(code)} from {at} on ({expected.operations[at - 1]})"
                reports.append(f"{command.name}, {what}: {kind}: {text}")
    return Tally(len(expected.operations), counts, reports)


def table(tallies: dict[str, Tally]) -> str:
    """The counts of every command as rows."""
    rows = [("command", "operations", *KINDS)]
    for name, tally in tallies.items():
        rows.append((name, str(tally.operations), *(str(tally.counts[kind]) for kind in KINDS)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    )


def _chosen(operations: int, count: int | None, seed: int) -> Sequence[int]:
    """Operations in random order, so that those done in a bounded time are spread over all."""
    return random.Random(seed).sample(range(1, operations + 1), min(operations, count or operations))


def _problems(again: Outcome, expected: Whole, work: Path) -> list[tuple[str, str]]:
    if again.status is None:
        return [("hang", again.text[-500:])]
    if again.traceback:
        return [("traceback", again.text[-1500:])]
    if again.status != 0:
        return [("failed", f"status {again.status}: {again.text[-700:]}")]
    found = contents(work)
    missing, more = sorted(expected.end.keys() - found.keys()), sorted(found.keys() - expected.end.keys())
    same = expected.end.keys() & found.keys() - expected.volatile
    other = sorted(name for name in same if expected.end[name] != found[name])
    listed = (("lost", missing), ("left", more), ("wrong", other))
    return [(kind, ", ".join(names[:6])) for kind, names in listed if names]


def _succeed(outcome: Outcome) -> None:
    if outcome.status != 0:
        raise RuntimeError(f"status {outcome.status} without a fault: {outcome.text[-2000:]}")

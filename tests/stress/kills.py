"""Kills and errors at every disk operation of every command that writes: the same command again must end as if none.

What it finds is told as faults, pairs of a kind and a text.
"""

import os
import random
import re
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

    def add(self, case: str, faults: list[tuple[str, str]]) -> None:
        """Count one case: its faults by kind, or `whole`."""
        self.counts.update(kind for kind, _ in faults or [("whole", "")])
        self.reports.extend(f"{case}: {kind}: {text}" for kind, text in faults)


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


def strike(
    command: Command,
    folder: Path,
    code: int | None,
    count: int | None,
    seed: int,
    until: float = float("inf"),
) -> Tally:
    """Kill a command at its disk operations, or let them fail from one on; given again it must end as if not.

    Args:
        code: of the operating system's error, which the command must tell in one message; None: it is killed.
        count: as many operations, chosen at random; None: all.
        until: a time by the monotonic clock, at which to stop.
    """
    expected = whole(command, folder)
    tally = Tally(len(expected.operations), Counter(), [])
    what = "killed at" if code is None else f"{os.strerror(code)} from"
    for at in chosen(len(expected.operations), count, seed):
        if time.monotonic() > until:
            break
        work = copy_of(expected.start, folder / "work")
        first = forked(partial(run, command.words, work), work, Fault(at, code))
        faults = untold(first) if code is not None else _unkilled(first)
        again = forked(partial(run, command.words, work), work)
        tally.add(
            f"{command.name}, {what} {at} ({expected.operations[at - 1]})",
            faults + problems(again, expected, work),
        )
    return tally


def _unkilled(first: Outcome) -> list[tuple[str, str]]:
    """A command that should have been killed may have done fewer operations than another time, nothing else."""
    return [] if first.status in (KILLED, 0) else [("failed", f"{first.status} {first.text[-700:]}")]


def untold(ended: Outcome) -> list[tuple[str, str]]:
    """What is wrong about a command that met a fault: it may end well, or with one message, of several inputs too."""
    if ended.status is None:
        return [("hang", ended.text[-500:])]
    if ended.traceback:
        return [("traceback", ended.text[-1500:])]
    some_of_several = ended.status == 1 and re.search(r": \d+ of \d+ inputs failed:", ended.text)
    if ended.status not in (0, 2) and not some_of_several:
        return [("failed", f"status {ended.status} {ended.text[-700:]}")]
    if ended.status and not one_message(ended.text):
        return [("failed", f"not one message: {ended.text[-700:]}")]
    return []


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


def chosen(operations: int, count: int | None, seed: int) -> Sequence[int]:
    """Operations in random order, so that those done in a bounded time are spread over all."""
    return random.Random(seed).sample(range(1, operations + 1), min(operations, count or operations))


def problems(again: Outcome, expected: Whole, work: Path) -> list[tuple[str, str]]:
    """What differs between the end of a command that met no fault and the expected one."""
    if again.status is None:
        return [("hang", again.text[-500:])]
    if again.traceback:
        return [("traceback", again.text[-1500:])]
    if again.status != 0:
        return [("failed", f"status {again.status}: {again.text[-700:]}")]
    return differences(contents(work), expected)


def differences(found: dict[str, Any], expected: Whole) -> list[tuple[str, str]]:
    """Files that are missing, that are too many, and that say something else."""
    missing, more = sorted(expected.end.keys() - found.keys()), sorted(found.keys() - expected.end.keys())
    same = expected.end.keys() & found.keys() - expected.volatile
    other = sorted(name for name in same if expected.end[name] != found[name])
    listed = (("lost", missing), ("left", more), ("wrong", other))
    return [(kind, ", ".join(names[:6])) for kind, names in listed if names]


def _succeed(outcome: Outcome) -> None:
    if outcome.status != 0:
        raise RuntimeError(f"status {outcome.status} without a fault: {outcome.text[-2000:]}")

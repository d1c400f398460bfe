"""The same command twice at once: one stops at a disk operation while the other runs, then goes on.

Both must end well or with one message, at least one of them well, and what is there must be as of one alone.
"""

import os
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

from stress.commands import Command, contents, copy_of, run
from stress.disk import Fault, Started, begin
from stress.kills import Tally, chosen, differences, untold, whole

_IDLE = 2.0
"""Seconds without work after which a process is taken to wait for the other."""
_MOST = 120.0
"""Seconds until the one that stopped goes on in any case."""


def two_writers(
    command: Command, folder: Path, count: int | None, seed: int, until: float = float("inf")
) -> Tally:
    """Run a command beside itself, for disk operations at which the first stops.

    Args:
        count: as many operations, chosen at random; None: all.
        until: a time by the monotonic clock, at which to stop.
    """
    expected = whole(command, folder)
    tally = Tally(len(expected.operations), Counter(), [])
    for at in chosen(len(expected.operations), count, seed):
        if time.monotonic() > until:
            break
        work = copy_of(expected.start, folder / "work")
        call = partial(run, command.words, work)
        first = begin(call, work, Fault(at, pause=True), name=".first")
        _wait(first)
        second = begin(call, work, name=".second")
        _wait(second)
        for each in (first, second):
            _go_on(each)
        ends = first.ended(), second.ended()
        faults = [fault for ended in ends for fault in untold(ended)]
        if not faults and all(ended.status for ended in ends):
            faults = [("failed", f"both: {ends[0].text[-400:]} {ends[1].text[-400:]}")]
        elif not faults and command.needs_cache and any(ended.status for ended in ends):
            faults = [("failed", f"one: {ends[0].text[-400:]} {ends[1].text[-400:]}")]
        faults = faults or differences(contents(work), expected)
        tally.add(f"{command.name}, stopped at {at} ({expected.operations[at - 1]})", faults)
    return tally


def _wait(started: Started) -> None:
    """Wait until a process has ended, stopped, or does nothing."""
    until, busy, last = time.monotonic() + _MOST, time.monotonic(), -1
    while time.monotonic() < min(until, busy + _IDLE):
        state, used = _state(started.process)
        if state in "TZ":
            return
        if used != last or state != "S":
            busy, last = time.monotonic(), used
        time.sleep(0.01)


def _state(process: int) -> tuple[str, int]:
    """What a process is doing, as Linux's letter, and its time on the processor."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[11]) + int(fields[12])


def _go_on(started: Started) -> None:
    if _state(started.process)[0] == "T":
        os.kill(started.process, signal.SIGCONT)

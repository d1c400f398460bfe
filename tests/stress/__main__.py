"""`python -m stress [--parts PART...] [--seconds S] [--seed N] [--only WORD]`: tables; status 1 for a fault.

Parts: `mutants` (changed inputs over all readers), `kills` (at every disk operation of every command that writes),
`full` and `readonly` (a disk that fails from an operation on), `homes` (no home), `paths` (strange ones), `writers`
(every command twice at once), `ranks` (a process of a training killed, resumed on another number of processes), `soak`
(all in one process for a part of the time). The last table counts all of them.
"""

import argparse
import errno
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from stress.commands import Command, commands, prepared_inputs
from stress.homes import homeless, without_rights
from stress.kills import KINDS, Tally, strike
from stress.kills import table as tally_table
from stress.mutants import attack
from stress.mutants import table as mutant_table
from stress.paths import strange
from stress.ranks import kill_ranks
from stress.readers import cases
from stress.soak import growth, soak
from stress.writers import two_writers

_MOST_MIB = 100
"""Memory that a soak may add after its second round."""
_NUMBERS = (1, 4)
"""Processes to go on with."""

Counts = Counter[str]
"""Of one part: the kinds of `KINDS` and `slow`."""


def main() -> int:
    """Run the parts one after the other, each in its share of the time; print their tables and one of all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument(
        "--count", type=int, help="mutants of each kind of file (4000), cases of a command (all)"
    )
    parser.add_argument("--seconds", type=float, default=3600.0, help="time for all of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds of files, or commands, with this word")
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if set(words.parts) - {"mutants"}:
        import_module("stress.warm")
    end, counts = time.monotonic() + words.seconds, {}
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(words.parts):
            now, place = time.monotonic(), Path(folder) / part
            place.mkdir()
            counts[part] = PARTS[part](place, words, now + (end - now) / (len(words.parts) - number))
            shutil.rmtree(place)
    print(_summary(counts), flush=True)
    return int(any(number for count in counts.values() for kind, number in count.items() if kind != "whole"))


def _mutants(folder: Path, words: argparse.Namespace, until: float) -> Counts:
    chosen = [case for case in cases(folder) if words.only in case.name]
    outcomes = {}
    for number, case in enumerate(chosen):
        end = time.monotonic() + (until - time.monotonic()) / (len(chosen) - number)
        outcomes[case.name] = attack(case, words.count or 4000, words.seed, end)
    for name, outcome in outcomes.items():
        for text in dict.fromkeys(outcome.tracebacks[:3]):
            print(f"--- {name}\n{text}", file=sys.stderr)
    print(mutant_table(outcomes), flush=True)
    found = sum((outcome.counts for outcome in outcomes.values()), Counter())
    return Counter(whole=found["ok"] + found["error"], traceback=found["traceback"], slow=found["slow"])


def _commands(
    strain: Callable[..., Tally], folder: Path, words: argparse.Namespace, until: float, rights: bool = True
) -> Counts:
    """Each command by `strain(command, folder, count, seed, until)`.

    Args:
        rights: False: the inputs may not be written.
    """
    tallies: dict[str, Tally] = {}
    with prepared_inputs(folder / "inputs") as given:
        if not rights:
            without_rights(given.data)
        chosen = [command for command in commands(given) if words.only in command.name]
        for number, command in enumerate(chosen):
            end = time.monotonic() + (until - time.monotonic()) / (len(chosen) - number)
            tallies[command.name] = strain(command, folder / "work", words.count, words.seed, end)
            _report(tallies[command.name], command.name)
    return _told(folder.name, tallies)


def _struck(code: int | None, command: Command, folder: Path, count: int, seed: int, until: float) -> Tally:
    return strike(command, folder, code, count, seed, until)


def _paths(folder: Path, words: argparse.Namespace, until: float) -> Counts:
    with prepared_inputs(folder / "inputs") as given:
        tallies = strange(given, words.only, folder / "work", words.count, words.seed, until)
    for name, tally in tallies.items():
        _report(tally, name)
    return _told(folder.name, tallies)


def _ranks(folder: Path, words: argparse.Namespace, until: float) -> Counts:
    with prepared_inputs(folder / "inputs") as given:
        count = words.count or sys.maxsize
        tallies = kill_ranks(given.data, folder / "work", _NUMBERS, count, words.seed, until)
    for name, tally in tallies.items():
        _report(tally, name)
    return _told(folder.name, tallies)


def _soak(folder: Path, words: argparse.Namespace, until: float) -> Counts:
    with prepared_inputs(folder / "inputs") as given:
        found = soak(given, folder / "work", until - time.monotonic())
    more = growth(found)
    print(
        f"soak: {len(found)} rounds; at their end {found[-1]}; more than after the second: {more}", flush=True
    )
    grown = more.memory > _MOST_MIB or any(number > 0 for number in more[1:])
    return Counter(whole=len(found), left=int(grown))


def _report(tally: Tally, name: str) -> None:
    print(f"{name}: {tally.counts['whole']} of {tally.counts.total()} whole", file=sys.stderr, flush=True)
    for text in tally.reports:
        print(f"--- {text}", file=sys.stderr, flush=True)


def _told(part: str, tallies: dict[str, Tally]) -> Counts:
    print(f"{part}\n{tally_table(tallies)}", flush=True)
    return sum((tally.counts for tally in tallies.values()), Counter())


def _summary(counts: dict[str, Counts]) -> str:
    kinds = (*KINDS, "slow")
    rows = {**counts, "all": sum(counts.values(), Counter())}
    lines = [f"{'part':<10}{'cases':>8}" + "".join(f"{kind:>11}" for kind in kinds)]
    for part, row in rows.items():
        lines.append(f"{part:<10}{row.total():>8}" + "".join(f"{row[kind]:>11}" for kind in kinds))
    return "\n".join(lines)


PARTS: dict[str, Callable[[Path, argparse.Namespace, float], Counts]] = {
    "mutants": _mutants,
    "kills": partial(_commands, partial(_struck, None)),
    "full": partial(_commands, partial(_struck, errno.ENOSPC)),
    "readonly": partial(_commands, partial(_struck, errno.EROFS)),
    "homes": partial(_commands, homeless, rights=False),
    "paths": _paths,
    "writers": partial(_commands, two_writers),
    "ranks": _ranks,
    "soak": _soak,
}

if __name__ == "__main__":
    sys.exit(main())

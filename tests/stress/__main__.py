"""`python -m stress [--parts PART...] [--seconds S] [--seed N] [--only WORD]`: tables; status 1 for a fault.

Parts: `mutants` (changed inputs over all readers), `kills` (at every disk operation of every command that writes),
`full` and `readonly` (a disk that fails from an operation on), `soak` (all in one process for a part of the time).
"""

import argparse
import errno
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from stress.commands import Inputs, commands, prepared_inputs
from stress.kills import Tally, fail, kill
from stress.kills import table as kill_table
from stress.mutants import attack
from stress.mutants import table as mutant_table
from stress.readers import cases
from stress.soak import growth, soak

PARTS = ("mutants", "kills", "full", "readonly", "soak")
_CODES = {"full": errno.ENOSPC, "readonly": errno.EROFS}
_MOST_MIB = 100
"""Memory that a soak may add after its second round."""


def main() -> int:
    """Run the parts one after the other, each in its share of the time; print their tables."""
    parser = argparse.ArgumentParser(description="Faults: mutated inputs, kills, full disks, long processes.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--count", type=int, help="mutants of each kind of file (4000), operations (all)")
    parser.add_argument("--seconds", type=float, default=3600.0, help="time for all of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds of files, or commands, with this word")
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    share, bad = words.seconds / len(words.parts), False
    if set(words.parts) - {"mutants"}:
        import_module("stress.warm")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for part in words.parts:
            until = time.monotonic() + share
            if part == "mutants":
                (place / "mutants").mkdir()
                bad |= _mutants(place / "mutants", words, until)
                continue
            with prepared_inputs(place / part) as given:
                bad |= (
                    _soaked(given, place, share)
                    if part == "soak"
                    else _faults(given, place, part, words, until)
                )
    return int(bad)


def _mutants(folder: Path, words: argparse.Namespace, until: float) -> bool:
    chosen = [case for case in cases(folder) if words.only in case.name]
    outcomes = {}
    for number, case in enumerate(chosen):
        end = time.monotonic() + (until - time.monotonic()) / (len(chosen) - number)
        outcomes[case.name] = attack(case, words.count or 4000, words.seed, end)
    for name, outcome in outcomes.items():
        for text in dict.fromkeys(outcome.tracebacks[:3]):
            print(f"--- {name}\n{text}", file=sys.stderr)
    print(mutant_table(outcomes), flush=True)
    return any(outcome.counts["traceback"] + outcome.counts["slow"] for outcome in outcomes.values())


def _faults(given: Inputs, folder: Path, part: str, words: argparse.Namespace, until: float) -> bool:
    chosen = [command for command in commands(given) if words.only in command.name]
    tallies: dict[str, Tally] = {}
    for number, command in enumerate(chosen):
        end = time.monotonic() + (until - time.monotonic()) / (len(chosen) - number)
        attempt: Callable[..., Tally] = kill if part == "kills" else partial(fail, code=_CODES[part])
        tallies[command.name] = attempt(
            command, folder / "faults", count=words.count, seed=words.seed, until=end
        )
        for text in tallies[command.name].reports:
            print(f"--- {text}", file=sys.stderr, flush=True)
    print(f"{part}\n{kill_table(tallies)}", flush=True)
    return any(tally.counts[kind] for tally in tallies.values() for kind in tally.counts if kind != "whole")


def _soaked(given: Inputs, folder: Path, seconds: float) -> bool:
    found = soak(given, folder / "soaked", seconds)
    more = growth(found)
    print(
        f"soak: {len(found)} rounds; at their end {found[-1]}; more than after the second: {more}", flush=True
    )
    return more.memory > _MOST_MIB or any(number > 0 for number in more[1:])


if __name__ == "__main__":
    sys.exit(main())

"""Mutated inputs over all readers: a file is changed at random and read; each outcome is counted.

An outcome is `ok` (read, whatever it now says), `error` (a `UserError`), `traceback` (anything else) or `slow` (over
`SLOW` seconds). The seed gives the same mutants again.
"""

import random
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torchslots.io.errors import UserError

SLOW = 10.0
"""Seconds."""
_VALUES = [
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b'"x"',
    b"[]",
    b"{}",
    b"[[1]]",
    b"4611686018427387904",
]


class Case(NamedTuple):
    """A kind of file: one that is mutated, and how it is read."""

    name: str
    file: Path
    read: Callable[[], object]


class Outcome(NamedTuple):
    """What mutants of one case led to, and the texts of the first tracebacks."""

    counts: Counter[str]
    tracebacks: list[str]


def mutant(data: bytes, rng: random.Random) -> bytes:
    """The content with flipped bits, a cut, an insertion, a run of other bytes, or another JSON value."""
    kind = rng.choice(("flip", "flip", "cut", "insert", "fill", "value"))
    if not data or kind == "insert":
        place = rng.randrange(len(data) + 1)
        return data[:place] + rng.randbytes(rng.choice((1, 2, 4, 64))) + data[place:]
    if kind == "cut":
        return data[: rng.randrange(len(data))]
    values = list(re.finditer(rb'(?<=[:\[,])\s*("[^"]*"|-?[\d.]+|true|false|null)', data[:65536]))
    if kind == "value" and values:
        start, end = rng.choice(values).span()
        return data[:start] + rng.choice(_VALUES) + data[end:]
    changed = bytearray(data)
    limit = rng.choice((len(data), min(len(data), 512)))
    if kind == "fill":
        start = rng.randrange(limit)
        changed[start : start + 8] = bytes([rng.choice((0, 255))]) * len(changed[start : start + 8])
        return bytes(changed)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(limit)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def attack(case: Case, count: int, seed: int, until: float = float("inf")) -> Outcome:
    """Read `count` mutants of a case's file, or fewer where `until`, a time by the monotonic clock, comes before."""
    whole, rng = case.file.read_bytes(), random.Random(f"{case.name} {seed}")
    counts: Counter[str] = Counter()
    tracebacks: list[str] = []
    try:
        for _ in range(count):
            if time.monotonic() > until:
                break
            case.file.write_bytes(mutant(whole, rng))
            start = time.monotonic()
            try:
                case.read()
                outcome = "ok"
            except UserError:
                outcome = "error"
            except Exception:
                outcome = "traceback"
                tracebacks.append(traceback.format_exc())
            counts["slow" if time.monotonic() - start > SLOW else outcome] += 1
    finally:
        case.file.write_bytes(whole)
    return Outcome(counts, tracebacks)


def table(outcomes: dict[str, Outcome]) -> str:
    """Counts of each case, and their sums."""
    kinds = ("ok", "error", "traceback", "slow")
    rows = {name: outcome.counts for name, outcome in outcomes.items()}
    rows["all"] = sum(rows.values(), Counter())
    lines = [f"{'reader':<16}" + "".join(f"{kind:>11}" for kind in kinds)]
    lines += [f"{name:<16}" + "".join(f"{row[kind]:>11}" for kind in kinds) for name, row in rows.items()]
    return "\n".join(lines)

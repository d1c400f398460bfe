"""`python -m stress [--count N] [--seconds S] [--seed N] [--only WORD]`: a table; status 1 for a traceback."""

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

from stress.mutants import attack, table
from stress.readers import cases


def main() -> int:
    """Mutate every kind of input; print the table and the first traceback of each kind."""
    parser = argparse.ArgumentParser(description="Mutated inputs over all readers.")
    parser.add_argument("--count", type=int, default=4000, help="mutants of each kind of file")
    parser.add_argument("--seconds", type=float, default=3600.0, help="time for all of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds of files with this word")
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        chosen = [case for case in cases(Path(folder)) if words.only in case.name]
        begun, outcomes = time.monotonic(), {}
        for number, case in enumerate(chosen, 1):
            until = begun + words.seconds * number / len(chosen)
            outcomes[case.name] = attack(case, words.count, words.seed, until)
    for name, outcome in outcomes.items():
        for text in dict.fromkeys(outcome.tracebacks[:3]):
            print(f"--- {name}\n{text}", file=sys.stderr)
    print(table(outcomes))
    return int(any(outcome.counts["traceback"] + outcome.counts["slow"] for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())

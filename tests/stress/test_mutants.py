import random
from pathlib import Path

import pytest

from stress.mutants import Case, attack, mutant, table
from stress.readers import cases

QUICK = (
    "recipe.json",
    "boxes.json",
    "state.json",
    "prepared index",
    "masks.npz",
    "flax",
    "zip",
    "dataset_info",
)


@pytest.mark.filterwarnings("ignore")
def test_mutants_of_small_files_are_read_or_refused(tmp_path: Path) -> None:
    outcomes = {case.name: attack(case, 12, seed=1) for case in cases(tmp_path) if case.name in QUICK}
    assert len(outcomes) == len(QUICK)
    assert not [text for outcome in outcomes.values() for text in outcome.tracebacks], table(outcomes)
    assert all(sum(outcome.counts.values()) == 12 for outcome in outcomes.values())
    assert sum(outcome.counts["error"] for outcome in outcomes.values()) > 40


def test_other_outcomes_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"12345678")

    def read() -> None:
        raise ZeroDivisionError

    counts, texts = attack(Case("bad", file, read), 5, seed=0)
    assert counts["traceback"] == 5 == len(texts) and file.read_bytes() == b"12345678"


def test_the_seed_gives_the_same_mutants() -> None:
    made = [[mutant(b'{"a": 1, "b": [2, 3]}', random.Random(seed)) for seed in range(40)] for _ in range(2)]
    assert made[0] == made[1] and len(set(made[0])) > 30

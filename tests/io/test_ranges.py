"""Ranges of numbers in configurations."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from torchslots.io.errors import UserError
from torchslots.io.ranges import COUNT, PART, POSITIVE, check_number, check_ranges


@dataclass(frozen=True)
class _Inner:
    rate: float | None = 0.5
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class _Outer:
    inner: _Inner = field(default_factory=_Inner)
    steps: int = 3
    name: str = "steps"


_RANGES = {"rate": PART, "sizes": COUNT, "steps": COUNT}


def test_nested_fields_are_checked_and_named():
    check_ranges(_Outer(_Inner(None), steps=1), _RANGES)
    check_ranges(_Outer(_Inner(1)), _RANGES)
    for config, says in (
        (_Outer(steps=0), "`Outer.steps` should be a whole number of at least 1, got 0"),
        (_Outer(_Inner(1.01)), "`Outer.inner.rate` should be a number of at least 0 and at most 1, got 1.01"),
        (_Outer(_Inner(float("nan"))), "got nan"),
        (_Outer(_Inner(float("inf"))), "got inf"),
        (_Outer(steps=0 - 10**400), "got -1000"),
        (_Outer(_Inner(sizes=(4, 0))), "`Outer.inner.sizes` should be a whole number"),
    ):
        with pytest.raises(UserError, match=says):
            check_ranges(config, _RANGES, "Outer.")


def test_numbers_of_numpy_are_numbers_and_truth_values_are_not():
    check_number("n", np.int64(2), COUNT)
    check_number("x", np.float32(0.1), POSITIVE, (float,))
    for value in (True, "2", 2.0, None, np.nan):
        with pytest.raises(UserError, match="`n` should be a whole number"):
            check_number("n", value, COUNT)
    with pytest.raises(UserError, match="`x` should be a number above 0, got 0"):
        check_number("x", 0, POSITIVE, (float,))


def test_no_number_is_infinite_and_none_too_long_to_compare():
    check_number("rate", 10**400, POSITIVE, (float,))
    with pytest.raises(UserError, match="should be a number above 0, got inf"):
        check_number("rate", float("inf"), POSITIVE, (float,))

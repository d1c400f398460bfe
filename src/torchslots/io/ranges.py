"""Check the values in a configuration: numbers against a table of ranges, choices against their type."""

import dataclasses
import math
from collections.abc import Mapping
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from torchslots.io.errors import UserError


class Range(NamedTuple):
    """Finite numbers from `low` to `high`."""

    low: float
    high: float = math.inf
    above: bool = False
    """Whether `low` itself is out of range."""

    def holds(self, value: Any) -> bool:
        """Whether a number is in the range; NaN never is."""
        return (
            (self.low < value if self.above else self.low <= value)
            and value <= self.high
            and value < math.inf
        )

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        return low if self.high == math.inf else f"{low} and at most {self.high:g}"


COUNT, FROM_ZERO, POSITIVE, PART = Range(1), Range(0), Range(0, above=True), Range(0, 1)


def check_ranges(config: Any, ranges: Mapping[str, Range], where: str = "") -> None:
    """Check the numbers of a dataclass, and of those inside it, that are named in `ranges`, and all choices.

    Args:
        ranges: By a field's name, or `Class.field`.
        where: Put before the field's name in the message, such as `OptimConfig.`.

    Raises:
        UserError: a number of the wrong type or out of range, or none of the choices of a `Literal`.
    """
    hints = get_type_hints(type(config))
    for name, value in vars(config).items():
        allowed = ranges.get(f"{type(config).__name__}.{name}") or ranges.get(name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, ranges, f"{where}{name}.")
        elif allowed:
            for number in value if isinstance(value, tuple) else (value,):
                check_number(where + name, number, allowed, get_args(hints[name]) or (hints[name],))
        elif (
            get_origin(hints[name]) is not tuple
            and (choices := _choices(hints[name]))
            and value not in choices
        ):
            known = ", ".join(map(str, choices))
            raise UserError(f"`{where}{name}` should be one of {known}, got {value!r}.")


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a `Literal`, None among them where it may be; () for any other type."""
    parts = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
    found = tuple(value for part in parts for value in get_args(part))
    return (*found, None) if found and NoneType in get_args(hint) else found


def check_number(name: str, value: Any, allowed: Range, types: tuple[Any, ...] = (int,)) -> None:
    """Check the argument `name`.

    Args:
        types: Those of its annotation; only with `float` need it not be whole, only with `NoneType` may it be None.

    Raises:
        UserError: it is no such number, or out of range.
    """
    if value is None and NoneType in types:
        return
    kind, what = (Real, "a number") if float in types else (Integral, "a whole number")
    if isinstance(value, bool) or not isinstance(value, kind) or not allowed.holds(value):
        raise UserError(f"`{name}` should be {what} {allowed}, got {value!r}.")

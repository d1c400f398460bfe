"""Parts of a split by their bounds, written as TFDS does: `all[512:70000]`, `train[:70%]`."""

import logging
import re
from typing import NamedTuple

from torchslots.io.counts import count_text
from torchslots.io.errors import UserError

_LOG = logging.getLogger("torchslots.data")
_PATTERN = re.compile(r"(?P<split>[^\[\]]+)\[(?P<start>\d+%?)?:(?P<stop>\d+%?)?\]")


class Bound(NamedTuple):
    """A number of records from the first, or per cent of all."""

    number: int
    percent: bool

    def of(self, count: int) -> int:
        """As a number of `count` records, rounded down."""
        return count * self.number // 100 if self.percent else min(self.number, count)


class Part(NamedTuple):
    """Records of a split between two bounds; None: its first or last."""

    start: Bound | None = None
    stop: Bound | None = None

    @property
    def last(self) -> int | None:
        """Number of records that are enough to have the part; None: that depends on how many there are."""
        return None if self.stop is None or self.stop.percent else self.stop.number

    def of(self, count: int, where: str) -> range:
        """The part's records, of `count`.

        A split that ends before the part begins is taken as a whole, with a warning that begins with `where`.
        """
        start = 0 if self.start is None else self.start.of(count)
        stop = count if self.stop is None else self.stop.of(count)
        if count and start >= stop:
            _LOG.warning(
                f"{where} holds only {count_text(count, 'record')}, none of them in this part: the part is the "
                "whole split, which "
                "other parts share."
            )
            return range(count)
        return range(start, stop)


def parse_split(split: str) -> tuple[str, Part | None]:
    """A split's name, and which part of it is meant; None: all of it.

    Raises:
        UserError: brackets that hold no bounds, or bounds in the wrong order.
    """
    if "[" not in split:
        return split, None
    found = _PATTERN.fullmatch(split)
    part = None if found is None else Part(_bound(found["start"]), _bound(found["stop"]))
    if found is None or part is None or not _in_order(part):
        raise UserError(
            f"A part of a split is written as train[512:70000] or train[70%:85%], the bounds in order and up to 100%, "
            f"got `{split}`."
        )
    return found["split"], part


def _bound(text: str | None) -> Bound | None:
    return None if text is None else Bound(int(text.rstrip("%")), text.endswith("%"))


def _in_order(part: Part) -> bool:
    bounds = [bound for bound in part if bound is not None]
    if any(bound.percent and bound.number > 100 for bound in bounds):
        return False
    return len(bounds) < 2 or bounds[0].percent != bounds[1].percent or bounds[0].number < bounds[1].number

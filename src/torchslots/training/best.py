"""The figure that marks a run's best model."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from torchslots.io.errors import UserError, nearest


class Figure(NamedTuple):
    """A figure by name."""

    name: str
    value: float

    def better(self, best: float | None) -> bool:
        """Whether it is better than the best so far; None: there is none yet."""
        from torchslots.evaluation.report import (
            lower_is_better,  # seconds, not before a training's first step
        )

        if not math.isfinite(self.value):
            return False
        if best is None:
            return True
        return self.value < best if lower_is_better(self.name) else self.value > best


def check_name(name: str) -> None:
    """Check, before a run begins, that there may be a figure of this name.

    Raises:
        UserError: no evaluation has one.
    """
    from torchslots.evaluation.report import LABELS  # seconds, and only where a name was chosen

    known = [*LABELS, "loss"]
    if name not in known and not name.startswith("loss_"):
        otherwise = "See docs/metrics.md; the losses are called loss_NAME."
        raise UserError(f"There is no figure `{name}` to watch. {nearest(name, known, otherwise)}")


def watched(metrics: Mapping[str, float], monitor: str, chosen: bool) -> Figure | None:
    """The figure to watch: `monitor`, on data without labels the error of reconstruction, or the sum of the losses.

    Args:
        chosen: the user chose `monitor`, so that nothing replaces it.

    Returns:
        None: there are no figures.

    Raises:
        UserError: there is no such figure.
    """
    if monitor in metrics:
        return Figure(monitor, metrics[monitor])
    losses = [value for name, value in metrics.items() if name.startswith("loss_")]
    if not chosen and "mse" in metrics:
        return Figure("mse", metrics["mse"])
    if not chosen and losses:
        return Figure("loss", sum(losses))
    if metrics:
        raise UserError(f"There is no figure `{monitor}` to watch. There are: {', '.join(metrics)}.")
    return None

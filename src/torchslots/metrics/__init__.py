"""Metrics of slots: those of plain integer maps here; modules hold those of whole data sets and of reconstructions.

Imported when first used: `torchmetrics`, on which they are built, takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchslots.metrics.functional import (
        ari,
        average_precision,
        corloc,
        fg_ari,
        fg_miou,
        jf,
        mbo,
        miou,
        recall,
    )

__all__ = ["ari", "average_precision", "corloc", "fg_ari", "fg_miou", "jf", "mbo", "miou", "recall"]


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'torchslots.metrics' has no attribute '{name}'")
    return getattr(import_module("torchslots.metrics.functional"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)

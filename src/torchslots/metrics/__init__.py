"""Metrics of slots: those of plain integer maps here; modules hold those of whole data sets and of reconstructions."""

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


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)

"""Metrics of slots: those of plain integer maps here; modules hold those of whole data sets and of reconstructions."""

from torchslots.metrics.functional import ari, average_precision, fg_ari, fg_miou, mbo, miou

__all__ = ["ari", "average_precision", "fg_ari", "fg_miou", "mbo", "miou"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)

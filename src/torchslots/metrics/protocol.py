"""What published evaluations do differently, as facts; `torchslots.recipes.protocols` has them by name."""

from dataclasses import dataclass
from typing import Literal

CLASSES: dict[str, str] = {
    f"class_{name}": f"As {name}, over classes: all objects of a class are one; void and what has no class is left out."
    for name in ("fg_miou", "mbo", "fg_miou_frame", "mbo_frame")
}
"""What the figures of a map of classes mean."""


@dataclass(frozen=True)
class Protocol:
    """How figures are computed where published evaluations disagree.

    Where a data set labels objects alone (`num_background` 0), pixels of id 0 are uncovered: ARI leaves them out, but
    they count in the union of slots that cover them.
    """

    without_objects: Literal["one", "left_out"] = "one"
    """FG-ARI of a video (or frame) in which no pixel has a label: 1, or the video is left out of the mean. Where
    background is a label, pixels of background are enough for a figure, which is 1."""
    figures: tuple[str, ...] = ()
    """Figures that are reported only where a protocol asks for them, of `metrics.scores.EXTRA`."""
    boundaries: Literal["exact", "tolerant"] | None = None
    """J&F with boundaries that coincide in their pixels, or that lie within the tolerance of DAVIS' official program;
    None: J&F is not reported."""

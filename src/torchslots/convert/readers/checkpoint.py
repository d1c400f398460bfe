"""Content of an original's checkpoint in any format."""

from dataclasses import dataclass, field
from pathlib import Path

from torchslots.convert.layouts import Arrays


@dataclass(frozen=True)
class Checkpoint:
    """Weights by the original's names, and Adam's moments where the file has them."""

    path: Path
    params: Arrays
    first_moments: Arrays = field(default_factory=dict)
    second_moments: Arrays = field(default_factory=dict)
    step: int | None = None
    """Updates done."""
    layout: str = ""
    """How the file stores weights and moments, in words."""

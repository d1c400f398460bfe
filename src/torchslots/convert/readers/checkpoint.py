"""What a checkpoint of an original holds, whatever its format."""

from dataclasses import dataclass, field
from pathlib import Path

from torchslots.convert.layouts import Arrays


@dataclass(frozen=True)
class Checkpoint:
    """Weights under the original's names, and what Adam remembers of their gradients where the file has it."""

    path: Path
    params: Arrays
    first_moments: Arrays = field(default_factory=dict)
    second_moments: Arrays = field(default_factory=dict)
    step: int | None = None
    """Updates done."""
    layout: str = ""
    """How the file stores them, in words."""

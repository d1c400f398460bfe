"""Content of an original's checkpoint in any format."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torchslots.convert.layouts import Arrays
from torchslots.io.errors import UserError


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


def find_file(
    source: Path, candidates: Callable[[Path], list[Path]], kind: str, folder: str, example: str
) -> Path:
    """A checkpoint file: `source` itself, or the first of its `candidates`.

    Args:
        kind: of file, `folder` that may hold it, and `example` of a name, for messages.

    Raises:
        UserError: nothing there.
    """
    if source.is_file():
        return source
    found = candidates(source)
    if found:
        return found[0]
    if not source.exists():
        raise UserError(f"{source} does not exist. Give a checkpoint file such as {folder}/{example}.")
    raise UserError(f"No {kind} in {source} or its {folder}. Give the checkpoint file itself.")

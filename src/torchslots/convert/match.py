"""Match the files of a repository to published checkpoints by words in their paths."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from torchslots.convert.sources import AmongHubFiles

_WEIGHTS = (".flax", ".flax.gz")
_NO_WEIGHTS = re.compile(
    r"(^|/)(\.[^/]*|checkpoint|[^/]*\.(index|data-\d+-of-\d+|md|txt|json|py|ya?ml|png|gif))$"
)
"""Files beside weights, which are not reported."""
_DATASET = re.compile(r"movi[-_ ]*([a-f])(?![a-z])")
_SMALL = re.compile(r"(?<![a-z])(small|s)(?![a-z])")
_PLUS_PLUS = re.compile(r"\+\+|plus[-_ ]*plus|(?<![a-z])pp(?![a-z])")
_BATCH_SIZE = re.compile(r"(?<![\dx])(32|64)(?![\dx])")
_ENVIRONMENT = re.compile(r"env(?:ironment)?[-_ ]*([12])(?!\d)")
_BATCH_SIZES = {"1": 32, "2": 64}
"""Of the large model, by the environment it was trained in, as the authors' page says."""
_NUMBER = re.compile(r"(\d+)\.flax")
"""Of `ckpt-101.flax`."""


@dataclass(frozen=True)
class Matches:
    """Path by name of the checkpoint; and of each other path, why it has no name."""

    found: dict[str, str]
    unmatched: dict[str, str]


def match(paths: list[str], rows: Mapping[str, AmongHubFiles]) -> Matches:
    """Find the file of each row; of several in one folder, the newest."""
    candidates: dict[str, list[str]] = {}
    unmatched: dict[str, str] = {}
    for path in paths:
        if path.endswith(_WEIGHTS):
            names = [name for name, row in rows.items() if _describes(row, path)]
            if len(names) == 1:
                candidates.setdefault(names[0], []).append(path)
            else:
                unmatched[path] = f"it may be {' or '.join(names)}" if names else _lacking(path)
        elif not _NO_WEIGHTS.search(path):
            unmatched[path] = "no flax file"
    found: dict[str, str] = {}
    for name, files in candidates.items():
        newest = max(files, key=_number)
        if len({PurePosixPath(file).parent for file in files}) == 1:
            found[name] = newest
        else:
            unmatched |= dict.fromkeys(files, f"one of {len(files)} that may be {name}")
    return Matches(found, unmatched)


def _describes(row: AmongHubFiles, path: str) -> bool:
    """Whether a path names size and data set of a row, and no other batch size."""
    batch_size = _batch_size(path)
    return (
        _plus_plus(path) is row.plus_plus
        and _dataset(path) == row.dataset
        and (row.batch_size is None or batch_size is None or batch_size == row.batch_size)
    )


def _plus_plus(path: str) -> bool | None:
    """Whether a path names the large model; None: it names neither, or both."""
    large, small = (bool(pattern.search(path.lower())) for pattern in (_PLUS_PLUS, _SMALL))
    return None if large == small else large


def _dataset(path: str) -> str | None:
    letters = set(_DATASET.findall(path.lower()))
    return f"movi_{letters.pop()}" if len(letters) == 1 else None


def _batch_size(path: str) -> int | None:
    said = {int(size) for size in _BATCH_SIZE.findall(_NUMBER.sub("", path))}
    said |= {_BATCH_SIZES[number] for number in _ENVIRONMENT.findall(path.lower())}
    return said.pop() if len(said) == 1 else None


def _lacking(path: str) -> str:
    """Why a path matches no row."""
    missing = [
        what
        for what, value in (("its size, small or ++", _plus_plus(path)), ("its data set", _dataset(path)))
        if value is None
    ]
    return (
        f"its path does not tell {' and '.join(missing)}" if missing else "no checkpoint of that description"
    )


def _number(path: str) -> int:
    """Number of the checkpoint; -1: none."""
    found = _NUMBER.search(path)
    return int(found[1]) if found else -1

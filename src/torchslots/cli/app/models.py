"""The models that the app offers, and those that it has loaded."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from torchslots.convert.locations import is_here
from torchslots.convert.pretrained import load_model
from torchslots.convert.released import RELEASED
from torchslots.convert.shipped import SHIPPED
from torchslots.hub import RUN_MODELS
from torchslots.io.errors import UserError, nearest
from torchslots.io.files import hidden
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.poses import WithPoses
from torchslots.models.weights import CONFIG_NAME, WEIGHTS_NAME

_DEPTH, _MOST_FOLDERS = 5, 5000
"""How many folders down, and through how many folders, runs are sought."""
_NOT_RUNS = {"checkpoints", "node_modules", "site-packages", "__pycache__"}
_KEPT = 2
"""Loaded models that are kept."""


class Choice(NamedTuple):
    """A model that can be chosen."""

    name: str
    source: str | Path
    """What `load_model` takes."""
    note: str = ""
    """Behind the name in the list."""


Finder = Callable[[Path], Iterable[Choice]]


def runs_below(folder: Path) -> list[Choice]:
    """Runs and model folders in and below a folder, the newest first, without hidden folders and checkpoints."""
    found: list[tuple[float, Choice]] = []
    start = len(folder.parts)
    for count, (place, below, _) in enumerate(os.walk(folder, onerror=None)):
        path = Path(place)
        weights = next(
            (file for part in ("", *RUN_MODELS) if (file := _weights(path / part)) is not None), None
        )
        if weights is not None:
            name = path.relative_to(folder).as_posix()
            found.append((weights.stat().st_mtime, Choice(folder.name if name == "." else name, path)))
        stop = weights is not None or len(path.parts) - start >= _DEPTH or count >= _MOST_FOLDERS
        below[:] = (
            [] if stop else [name for name in sorted(below) if not hidden(name) and name not in _NOT_RUNS]
        )
    return [choice for _, choice in sorted(found, key=lambda each: -each[0])]


def _weights(folder: Path) -> Path | None:
    """The weights of a model folder; None: it is none."""
    file = folder / WEIGHTS_NAME
    return file if file.is_file() and (folder / CONFIG_NAME).is_file() else None


def published(folder: Path) -> list[Choice]:
    """Published checkpoints by name, those that are fetched first."""
    found = [Choice(name, name, "" if is_here(name) else "is fetched first") for name in RELEASED]
    return sorted(found, key=lambda choice: bool(choice.note))


def shipped(folder: Path) -> list[Choice]:
    """Models in the package, which need no network."""
    return [Choice(name, name, "in the package") for name in SHIPPED]


FINDERS: tuple[Finder, ...] = (runs_below, shipped, published)
"""Where models come from, in the order of the list; a function of the working folder each."""


def choices(folder: Path, given: str | None = None, finders: Sequence[Finder] = FINDERS) -> dict[str, Choice]:
    """All models by name.

    Args:
        given: a model folder, a name or an id, which comes first; None: none is given.
    """
    first = [] if given is None else [Choice(given, given)]
    named: dict[str, Choice] = {}
    for choice in (*first, *(each for find in finders for each in find(folder))):
        named.setdefault(choice.name, choice)
    return named


class Needs(NamedTuple):
    """What a model wants to know before it starts, and what can be done with its slots."""

    hint: str
    """`boxes` or `masks` of the objects in the first frame, or `nothing`."""
    poses: bool
    """Whether slots have poses, so that they can be moved, resized and turned."""

    def describe(self) -> str:
        """One sentence for the page."""
        return {
            "boxes": "This model follows the objects whose boxes it is given in the first frame. Draw them there.",
            "masks": "This model follows the objects whose masks it is given in the first frame. Give a PNG of that "
            "frame's size, indexed or grey, with 0 for background and a number for each object.",
            "nothing": "This model finds objects by itself.",
        }[self.hint]


def needs_of(model: ObjectCentricModel) -> Needs:
    """What the model needs."""
    hint = "nothing"
    if model.takes_hints:
        hint = "masks" if "segmentations" in model.hints else "boxes"
    return Needs(hint, isinstance(model.slot_encoder.initializer, WithPoses))


class Shelf:
    """Loads models by the names of the list, and keeps the last few."""

    def __init__(self, named: dict[str, Choice], device: str | torch.device | None = "cpu") -> None:
        self.named, self._device = named, device
        self._loaded: dict[str, ObjectCentricModel] = {}
        self._lock = threading.Lock()

    def open(self, name: str | None) -> ObjectCentricModel:
        """The model of that name.

        Raises:
            UserError: no name, one that is not in the list, or a model that cannot be loaded.
        """
        if not name:
            raise UserError("No model is chosen. Choose one in the list.")
        if name not in self.named:
            known = nearest(name, self.named, otherwise="Choose one in the list.")
            raise UserError(f"There is no model `{name}` here. {known}")
        with self._lock:
            if name not in self._loaded:
                while len(self._loaded) >= _KEPT:
                    del self._loaded[next(iter(self._loaded))]
                self._loaded[name] = load_model(self.named[name].source, device=self._device)
            return self._loaded[name]

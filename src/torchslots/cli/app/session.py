"""What one person does in the app: films taken, objects found, edits decoded. Knows no page."""

import json
import secrets
import shutil
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from numpy import ndarray
from PIL import Image

from torchslots.cli.app.examples import Examples
from torchslots.cli.app.models import Shelf, needs_of
from torchslots.cli.app.uploads import Film, Limits, check_size, safe_name, take
from torchslots.inference import edit as editing
from torchslots.inference.predict import PredictOptions, predict
from torchslots.inference.view import resized
from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.io.files import atomic_file, hidden, write_file
from torchslots.io.json_files import read_object

Rows = Sequence[Sequence[float]]
ACTIONS = ("remove", "keep", "swap", "move", "resize", "turn")
"""Edits of slots; the last three need poses."""


class Hint(NamedTuple):
    """What a model was told about the first frame."""

    boxes: tuple[tuple[float, ...], ...] = ()
    """(ymin, xmin, ymax, xmax) in [0, 1]; (): none."""
    masks: Path | None = None
    num_slots: int | None = None

    def options(self) -> dict[str, Any]:
        """As fields of the options of `predict` and `edit`."""
        boxes = np.asarray(self.boxes, np.float32) if self.boxes else None
        return {"boxes": boxes, "masks": self.masks, "num_slots": self.num_slots}


class Found(NamedTuple):
    """Objects found in a film, in the files that `predict` writes."""

    film: Film
    model: str
    hint: Hint
    folder: Path
    tracks: dict[str, Any]
    """As in tracks.json."""

    @property
    def num_slots(self) -> int:
        with np.load(self.folder / "slots.npz") as arrays:
            return int(next(iter(arrays.values())).shape[1])

    @property
    def overlay(self) -> Path:
        """The film or image of the overlay."""
        return next(path for ending in ("mp4", "png") if (path := self.folder / f"overlay.{ending}").exists())

    def ids(self, number: int) -> Int[ndarray, "H W"]:
        """Slot of each pixel of a frame."""
        with Image.open(self.folder / "masks" / f"{number:05d}.png") as image:
            return np.asarray(image).astype(np.int32)

    def frame(self, number: int) -> UInt8[ndarray, "H W 3"]:
        """A frame at the size of its masks."""
        frame = video.read_frames(self.film.path, number, 1)[0]
        return resized(frame, tuple(self.tracks["size"]))


class Change(NamedTuple):
    """An edit as it is chosen on the page."""

    action: str
    slots: tuple[int, ...]
    down: float = 0.0
    right: float = 0.0
    factor: float = 1.0
    degrees: float = 0.0
    partner: str | None = None
    """Name of the film to swap with; None: none."""
    partner_slots: tuple[int, ...] = ()

    def options(self) -> dict[str, Any]:
        """As fields of `EditOptions`.

        Raises:
            UserError: no such edit, no slots, or other numbers of slots to swap.
        """
        if self.action not in ACTIONS:
            raise UserError(f"There is no edit `{self.action}`. Choose from: {', '.join(ACTIONS)}.")
        if not self.slots:
            raise UserError(f"No slot is chosen to {self.action}. Choose one or more by their numbers.")
        if self.action == "swap" and len(self.slots) != len(self.partner_slots):
            raise UserError(
                f"{len(self.slots)} slots cannot be swapped for {len(self.partner_slots)}. Choose as many of each film."
            )
        return {
            "remove": {"remove": self.slots},
            "keep": {"keep": self.slots},
            "swap": {"swap": tuple(zip(self.slots, self.partner_slots))},
            "move": {"move": tuple((slot, self.down, self.right) for slot in self.slots)},
            "resize": {"resize": tuple((slot, self.factor) for slot in self.slots)},
            "turn": {"turn": tuple((slot, self.degrees) for slot in self.slots)},
        }[self.action]


@dataclass
class Session:
    """Films and results of one person, in a folder of their own.

    Args:
        folder: of all files; removed by `close`.
    """

    folder: Path
    shelf: Shelf
    examples: Examples
    limits: Limits
    films: dict[str, Film] = field(default_factory=dict)
    film: Film | None = None
    """The film that is shown; None: none yet."""
    found: dict[str, Found] = field(default_factory=dict)
    """The last result of each film, by the film's name."""
    edited: Path | None = None
    """The last edit of the film that is shown; None: none."""
    _count: int = 0

    def upload(self, file: Path, name: str | None = None) -> Film:
        """Take an uploaded film or image.

        Raises:
            UserError: as `take`.
        """
        return self._show(take(file, self.folder / "inputs", self.limits, name))

    def example(self, name: str) -> Film:
        """Take an example.

        Raises:
            UserError: no such example.
        """
        example = self.examples.get(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        copied = Path(shutil.copy(example.file, self.folder / example.file.name))
        film = take(copied, self.folder / "inputs", self.limits)
        return self._show(film._replace(boxes=example.boxes))

    def _show(self, film: Film) -> Film:
        self.films[film.name], self.film, self.edited = film, film, None
        return film

    @property
    def shown(self) -> Film:
        """The film that is shown.

        Raises:
            UserError: there is none.
        """
        if self.film is None:
            raise UserError("There is no film yet. Drop a film or an image, or take an example.")
        return self.film

    @property
    def result(self) -> Found:
        """The objects of the film that is shown.

        Raises:
            UserError: none were found yet.
        """
        found = self.found.get(self.shown.name)
        if found is None:
            raise UserError(f"No objects were found in {self.shown.name} yet. Press `Find objects` first.")
        return found

    def find(
        self, model: str | None, boxes: Rows = (), mask: Path | None = None, num_slots: int | None = None
    ) -> Found:
        """Find the objects of the film that is shown, as `torchslots predict` does.

        Args:
            boxes: of its first frame, (ymin, xmin, ymax, xmax) in [0, 1]; used by models that start from boxes.
            mask: an uploaded PNG; used by models that start from masks.
            num_slots: for models that sample their slots; None: as the model was built.

        Raises:
            UserError: no film, an unknown model, or a hint that is missing or wrong.
        """
        film = self.shown
        ready = self.shelf.open(model)
        hint = self._hint(needs_of(ready).hint, film, boxes, mask, num_slots)
        with _own_words(self.folder):
            (folder,) = predict(ready, film.path, self._fresh(), PredictOptions(**hint.options()))
        tracks = read_object(folder / "tracks.json", "Find the objects again.")
        self.found[film.name] = Found(film, str(model), hint, folder, tracks)
        self.edited = None
        return self.found[film.name]

    def _hint(self, kind: str, film: Film, boxes: Rows, mask: Path | None, num_slots: int | None) -> Hint:
        if kind == "boxes":
            if not len(boxes):
                raise UserError(
                    f"This model starts from boxes and got none. Draw a box around each object in {film.name}."
                )
            return Hint(boxes=tuple(tuple(map(float, row)) for row in boxes))
        if kind == "masks":
            if mask is None:
                raise UserError(
                    "This model starts from masks and got none. Give an indexed or grey PNG of the first frame, with 0 "
                    "for background and a number for each object."
                )
            called = safe_name(mask.name)
            check_size(mask, called, self.limits)
            (self.folder / "masks").mkdir(exist_ok=True)
            return Hint(masks=Path(shutil.copy(mask, self.folder / "masks" / f"{film.path.stem}.png")))
        return Hint(num_slots=num_slots)

    def edit(self, change: Change) -> tuple[Path, str]:
        """Edit slots and decode the film again; returns the film before and after, and a sentence on what it shows.

        Raises:
            UserError: no objects found, an edit that the model does not allow, or films that cannot be swapped.
        """
        here = self.result
        options = change.options()
        inputs, hint = [here.film.path], here.hint.options()
        if change.action == "swap":
            other = self._partner(here, change.partner)
            inputs, hint = [here.film.path, other.film.path], self._hints(here, other)
        with _own_words(self.folder):
            chosen = editing.EditOptions(**options, **hint)
            done = editing.edit(self.shelf.open(here.model), inputs, self._fresh(), chosen)[0]
        self.edited = done.edited
        return done.edited or done.slots, done.note

    def partners(self) -> list[str]:
        """Films that the one that is shown can swap slots with: those whose objects one model found."""
        here = self.found.get(self.film.name) if self.film is not None else None
        if here is None:
            return []
        return [
            name for name, other in self.found.items() if other.model == here.model and name != here.film.name
        ]

    def _partner(self, here: Found, name: str | None) -> Found:
        if name not in self.partners():
            raise UserError(
                "There is no second film to swap with. Find the objects of another film with the same model first."
            )
        return self.found[str(name)]

    def _hints(self, *found: Found) -> dict[str, Any]:
        """The hints of several films, as a folder with one file for each."""
        folder = self._fresh()
        folder.mkdir(parents=True)
        options: dict[str, Any] = {"num_slots": found[0].hint.num_slots}
        for each in found:
            if each.hint.boxes:
                write_file(folder / f"{each.film.name}.json", json.dumps(each.hint.boxes))
                options["boxes"] = folder
            if each.hint.masks is not None:
                shutil.copy(each.hint.masks, folder / f"{each.film.name}.png")
                options["masks"] = folder
        return options

    def zipped(self) -> Path:
        """What `predict` wrote for the film that is shown, as a zip file.

        Raises:
            UserError: no objects were found yet.
        """
        found = self.result
        target = found.folder.parent / f"{found.folder.name}.zip"
        with atomic_file(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(
                path for path in found.folder.rglob("*") if path.is_file() and not hidden(path)
            ):
                archive.write(file, Path(found.folder.name) / file.relative_to(found.folder))
        return target

    def _fresh(self) -> Path:
        """A new folder for results."""
        self._count += 1
        return self.folder / "results" / str(self._count)

    def close(self) -> None:
        """Remove all files."""
        shutil.rmtree(self.folder, ignore_errors=True)


class _own_words:
    """Messages name a session's files without their folders."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, UserError) and str(self._folder) in str(error):
            words = [Path(word).name if str(self._folder) in word else word for word in str(error).split(" ")]
            raise UserError(" ".join(words)) from error


class Sessions:
    """The sessions of all persons by their keys; each has a folder whose name cannot be guessed.

    Args:
        make: from a folder to a session.
    """

    def __init__(self, root: Path, make: Callable[[Path], Session]) -> None:
        self._root, self._make = root, make
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> Session:
        """The session of that key; a new one where there is none."""
        with self._lock:
            if key not in self._open:
                self._open[key] = self._make(self._root / secrets.token_hex(16))
            return self._open[key]

    def close(self, key: str) -> None:
        """End a session and remove its files; of the last one also what the page's server has left."""
        with self._lock:
            ended = self._open.pop(key, None)
            if ended is not None:
                ended.close()
            if not self._open:
                for path in self._root.iterdir():
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._open)

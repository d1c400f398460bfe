"""What `predict` and `edit` are given: which files, where their results go, which hints, what a model starts from."""

import re
from pathlib import Path
from typing import Any, Protocol

import torch

from torchslots.inference import view as hints
from torchslots.inference.view import Hint, View
from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.initializers import Gaussian, Learned
from torchslots.models.slots.poses import WithPoses
from torchslots.models.types import Prediction

BOTH = "Give either boxes or masks: both say where the objects are."
_HINTLESS = (Learned, Gaussian, WithPoses)


class Start(Protocol):
    """What slots start from, as the options of a command say it."""

    @property
    def boxes(self) -> Path | None:
        """JSON with the boxes of the first frame, or a folder of NAME.json."""
        ...

    @property
    def masks(self) -> Path | None:
        """Mask of the first frame, or a folder of NAME.png."""
        ...

    @property
    def num_slots(self) -> int | None:
        """Slots of a model that draws them; None: what it was built for."""
        ...

    @property
    def seed(self) -> int:
        """Of slots that are drawn."""
        ...


def sources(inputs: list[Path], each: bool = False) -> list[Path]:
    """Every video or picture, with folders of many videos taken apart.

    Args:
        each: take every picture of a folder as an input of its own.

    Raises:
        UserError: an input that is not there, or none at all.
    """
    found: list[Path] = []
    for path in inputs:
        if not path.exists():
            raise UserError(f"{path} does not exist. Check the name.")
        films = (*video.FILM_SUFFIXES, ".gif")
        inside = (
            sorted(path.iterdir(), key=lambda file: video.natural_key(file.name)) if path.is_dir() else []
        )
        many = each or any(file.suffix.lower() in films for file in inside)
        known = (*video.IMAGE_SUFFIXES, *video.FILM_SUFFIXES)
        found += [file for file in inside if file.suffix.lower() in known] if inside and many else [path]
    if not found:
        raise UserError("There is no input. Give pictures, videos or folders of them.")
    return found


def result_folders(found: list[Path], out: Path) -> list[tuple[Path, Path]]:
    """Each source with its own result folder below `out`, never one that holds the source.

    Raises:
        UserError: the results of a source would go where it lies.
    """
    pairs: list[tuple[Path, Path]] = []
    for source in found:
        name = source.resolve().name if source.is_dir() else source.stem
        same = sum(re.fullmatch(re.escape(name) + r"(_\d+)?", target.name) is not None for _, target in pairs)
        target = out / (f"{name}_{same + 1}" if same else name)
        if target.resolve() in (source.resolve(), *source.resolve().parents):
            raise UserError(
                f"The results of {source} would go to {target}, which holds it. Choose another --out."
            )
        pairs.append((source, target))
    return pairs


def hint_of(name: str, given: Start, num_inputs: int) -> Hint:
    """The hint for the input of that name.

    Raises:
        UserError: boxes and masks, one file for many inputs, or a file that is none.
    """
    if given.boxes and given.masks:
        raise UserError(BOTH)
    place, read, suffix = (given.boxes, hints.read_boxes, "json")
    if given.masks:
        place, read, suffix = (given.masks, hints.read_mask, "png")
    if place is None:
        return Hint()
    if num_inputs > 1 and not place.is_dir():
        raise UserError(
            f"{place} is one hint for {num_inputs} inputs. Give a folder with NAME.{suffix} for each."
        )
    return read(place / f"{name}.{suffix}" if place.is_dir() else place)


def start_batch(model: ObjectCentricModel, view: View, hint: Hint, given: Start) -> dict[str, Any]:
    """All of a model's first batch but the frames: hint, number of slots, source of random draws.

    Raises:
        UserError: a hint for a model that takes none, or both a hint and a number of slots.
    """
    device = next(model.parameters()).device
    batch: dict[str, Any] = {key: value.to(device) for key, value in view.conditioning(hint).items()}
    batch |= {"num_slots": _num_slots(model, hint, given.num_slots)}
    return batch | {"generator": torch.Generator(device).manual_seed(given.seed)}


def _num_slots(model: ObjectCentricModel, hint: Hint, asked: int | None) -> int | None:
    """Hints decide the number of slots themselves."""
    hinted = hint.boxes is not None
    initializer = model.slot_encoder.initializer if hasattr(model, "slot_encoder") else None
    if hinted and isinstance(initializer, _HINTLESS):
        raise UserError(
            "This model finds objects without hints: leave boxes and masks out, or use a conditional one."
        )
    if hinted and asked is not None:
        raise UserError(
            "The hint decides the number of slots, one for each object and one more: leave num_slots out."
        )
    return asked if hint.ids is None else int(hint.ids.max()) + 1


def slot_order(found: Prediction, hint: Hint) -> list[int]:
    """The background first: the largest slot of a model that got no hint."""
    count = found.masks.shape[2]
    if hint.boxes is not None:
        return list(range(count))
    background = int(torch.bincount(found.segmentation.flatten().long().cpu(), minlength=count).argmax())
    return [background, *(slot for slot in range(count) if slot != background)]

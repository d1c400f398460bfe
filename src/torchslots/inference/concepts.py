"""Concepts of a data set: slots of many frames clustered, shown, and drawn from to paint new pictures."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from torchslots.data.loader import ClipDataset
from torchslots.evaluation.observers import write_frames
from torchslots.inference.concept_library import Library, cluster
from torchslots.inference.encode import EncodedVideo, encoded_videos, number_of_slots
from torchslots.inference.generation import decode_frames, require_frames
from torchslots.io import video
from torchslots.io.draw import contact_sheet, slot_views
from torchslots.io.errors import UserError
from torchslots.models.clips import frames_of, joined
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Clip
from torchslots.recipes.config import EvalConfig

_TILE = 96


@dataclass(frozen=True)
class ConceptOptions:
    """How slots are clustered, and what is painted from them."""

    num_concepts: int | None = None
    """Clusters; None: as many as the model has slots."""
    samples: int = 16
    """Pictures to paint, each from one slot of every concept; 0: none."""
    seed: int = 0
    """Of clusters and samples."""
    every: int = 6
    """Take the slots of every so many frames of a video, the first among them."""
    nearest: int = 8
    """Slots shown of each concept: those nearest to its centre."""
    chunk: int = 24
    """Pictures painted at once; fewer need less memory."""

    def __post_init__(self) -> None:
        for name, least in (("num_concepts", 1), ("samples", 0), ("every", 1), ("nearest", 1), ("chunk", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} should be at least {least}, got {value}.")


class Written(NamedTuple):
    """The library, and all files."""

    library: Library
    files: list[Path]


def concepts(
    model: ObjectCentricModel,
    dataset: ClipDataset,
    settings: EvalConfig,
    out: Path,
    options: ConceptOptions = ConceptOptions(),
    *,
    device: str = "cpu",
    num_workers: int = 0,
) -> Written:
    """Make a library of a data set's slots, and paint samples of it.

    Writes library.safetensors and library.json (`generation.library.load_library` reads them), concepts.png with the
    slots nearest to each concept, samples.png with new pictures beside the slots they are made of, and the pictures
    themselves in samples/.

    Raises:
        UserError: no videos, fewer different slots than concepts, or samples of a model that paints no frames.
    """
    if options.samples:
        require_frames(model)
    wanted = options.num_concepts or number_of_slots(model, dataset, settings, device)
    found = _Collection(options.every)
    everything = encoded_videos(
        model, dataset, settings, lambda _: True, device=device, num_workers=num_workers
    )
    for encoded in everything:
        found.add(encoded)
    library = found.library(wanted, options, {**asdict(settings), **asdict(options)})
    files = library.save(out)
    files.append(out / "concepts.png")
    video.write_png(files[-1], _concept_sheet(library, found.view, options.nearest))
    return Written(library, files + _samples(model, library, found.view, out, options))


class _Collection:
    """Slots of some frames of each video, and what is needed to show them."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._clips: list[Clip] = []
        self._origins: list[Tensor] = []
        self._names: dict[int, str] = {}
        self._frames: dict[tuple[int, int], UInt8[ndarray, "h w 3"]] = {}
        self._ids: dict[tuple[int, int], UInt8[ndarray, "h w"]] = {}

    def add(self, found: EncodedVideo) -> None:
        """Take a video."""
        assert found.masks is not None
        times = range(0, len(found.frames), self._every)
        clip = frames_of(found.clip, slice(0, None, self._every))
        slots = torch.arange(clip.slots.shape[2])
        self._clips.append(clip)
        self._origins += [
            torch.stack([torch.full_like(slots, found.number), torch.full_like(slots, time), slots], 1)
            for time in times
        ]
        self._names[found.number] = found.name
        for time in times:
            self._frames[found.number, time] = found.frames[time].permute(1, 2, 0).numpy()
            self._ids[found.number, time] = found.masks[time].numpy().argmax(0).astype(np.uint8)

    def library(self, num_concepts: int, options: ConceptOptions, about: dict[str, Any]) -> Library:
        """All slots, clustered."""
        clip = joined([_frame_by_frame(clip) for clip in self._clips], 0)
        pose = None if clip.pose is None else clip.pose.map(lambda values: values.flatten(0, 2))
        slots = clip.slots.flatten(0, 2).float()
        found = cluster(slots.numpy(), num_concepts, options.seed)
        return Library(
            slots,
            torch.from_numpy(found.labels),
            torch.from_numpy(found.distances).float(),
            torch.from_numpy(found.centers).float(),
            torch.cat(self._origins),
            tuple(self._names[number] for number in sorted(self._names)),
            about,
            pose,
        )

    def view(self, origin: Tensor) -> UInt8[ndarray, "h w 3"]:
        """The frame of a slot, where the slot is; white elsewhere."""
        number, time, slot = origin.tolist()
        mask = (self._ids[number, time] == slot)[None].astype(np.float32)
        return slot_views(self._frames[number, time], mask)[0]


def _frame_by_frame(clip: Clip) -> Clip:
    """One clip of T frames as T clips of one frame."""
    pose = None if clip.pose is None else clip.pose.map(lambda values: values.transpose(0, 1))
    return clip._replace(slots=clip.slots.transpose(0, 1), pose=pose)


View = Callable[[Tensor], UInt8[ndarray, "h w 3"]]


def _concept_sheet(library: Library, view: View, count: int) -> UInt8[ndarray, "H W 3"]:
    """A row for each concept."""
    sizes = torch.bincount(library.labels, minlength=library.num_concepts).tolist()
    pictures, labels = [], []
    for concept in range(library.num_concepts):
        views = [view(library.origin[member]) for member in library.nearest(concept, count)]
        pictures += _filled(views, count)
        labels += [f"{concept}: {sizes[concept]} slots", *[""] * (count - 1)]
    return contact_sheet(pictures, labels, columns=count, tile=_TILE)


def _filled(views: list[UInt8[ndarray, "h w 3"]], count: int) -> list[UInt8[ndarray, "h w 3"]]:
    """As many pictures as a row has, the missing ones white."""
    return views + [np.full_like(views[0], 255)] * (count - len(views))


def _samples(
    model: ObjectCentricModel, library: Library, view: View, out: Path, options: ConceptOptions
) -> list[Path]:
    if not options.samples:
        return []
    members = library.sample(options.samples, options.seed)
    parts: Iterable[Tensor] = members.split(options.chunk)
    frames = torch.cat([decode_frames(model, library.clip(part), options.chunk)[:, 0] for part in parts])
    write_frames(out / "samples", frames)
    pictures, labels = [], []
    for number, frame in enumerate(frames):
        pictures += [frame.permute(1, 2, 0).numpy(), *(view(library.origin[m]) for m in members[number])]
        labels += [f"sample {number}", *(str(concept) for concept in range(library.num_concepts))]
    sheet = contact_sheet(pictures, labels, columns=1 + library.num_concepts, tile=_TILE)
    video.write_png(out / "samples.png", sheet)
    return [out / "samples.png", *(out / "samples" / f"{number:05d}.png" for number in range(len(frames)))]

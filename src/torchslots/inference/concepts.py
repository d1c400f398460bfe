"""Cluster the slots of a data set into concepts, plot them, and decode new images from one slot of each."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from torchslots.data.batch import ClipDataset
from torchslots.evaluation.frame_folders import write_frames
from torchslots.inference.concept_library import Library, cluster
from torchslots.inference.encode import EncodedVideo, encoded_videos, number_of_slots
from torchslots.inference.generation import SamplingOptions, decode_frames, require_frames, with_sampling
from torchslots.io.counts import count_text
from torchslots.io.draw import contact_sheet, slot_views
from torchslots.io.errors import UserError
from torchslots.io.values import convert_fields
from torchslots.io.video import write_png
from torchslots.models.clips import frames_of, joined
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Clip
from torchslots.recipes.config import EvalConfig

_TILE = 96


@dataclass(frozen=True)
class ConceptOptions:
    """Clustering of slots, and images decoded from the clusters."""

    num_concepts: int | None = None
    """Number of clusters; None: the model's number of slots."""
    samples: int = 16
    """Images to decode, each from one slot of every concept; 0: none."""
    seed: int = 0
    """Seed of the clusters and of the samples."""
    every: int = 6
    """Use the slots of one frame in so many, starting with the first."""
    nearest: int = 8
    """Slots to plot of each concept, the nearest to its centre."""
    chunk: int = 24
    """Images decoded at once; fewer need less memory."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def __post_init__(self) -> None:
        convert_fields(self)
        for name, least in (("num_concepts", 1), ("samples", 0), ("every", 1), ("nearest", 1), ("chunk", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} should be at least {least}, got {value}.")


class Concepts(NamedTuple):
    """The library, and all files that were written."""

    library: Library
    files: list[Path]


def concepts(
    model: ObjectCentricModel,
    dataset: ClipDataset,
    settings: EvalConfig,
    out: Path | str,
    options: ConceptOptions = ConceptOptions(),
    *,
    device: str = "cpu",
    num_workers: int = 0,
) -> Concepts:
    """Cluster a data set's slots into a library, and decode samples of it.

    Writes library.safetensors and library.json (read by `concept_library.load_library`), concepts.png with the slots
    nearest to each concept's centre, samples.png with new images beside their slots, and the new images in samples/.

    Raises:
        UserError: no videos, fewer different slots than concepts, a sampling option that the model lacks, or samples of
            a model that decodes no frames.
    """
    if options.samples:
        require_frames(model)
    model, out = with_sampling(model, options.sampling), Path(out)
    num_concepts = options.num_concepts or number_of_slots(model, dataset, settings, device)
    slots = _Slots(options.every)
    where = {"device": device, "num_workers": num_workers}
    for video in encoded_videos(model, dataset, settings, lambda _: True, **where):
        slots.add(video)
    about = {**asdict(settings), **asdict(options), "sampling": options.sampling.given()}
    library = slots.library(num_concepts, options.seed, about)
    files = [*library.save(out), out / "concepts.png"]
    write_png(files[-1], _concept_sheet(library, slots.view, options.nearest))
    return Concepts(library, files + _samples(model, library, slots.view, out, options))


class _Slots:
    """Slots of some frames of each video, and these frames for plots."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._clips: list[Clip] = []
        self._origins: list[Tensor] = []
        self._names: dict[int, str] = {}
        self._frames: dict[tuple[int, int], UInt8[ndarray, "h w 3"]] = {}
        self._ids: dict[tuple[int, int], UInt8[ndarray, "h w"]] = {}

    def add(self, video: EncodedVideo) -> None:
        """Store the slots of some frames of a video."""
        assert video.masks is not None
        clip = frames_of(video.clip, slice(0, None, self._every))
        pose = None if clip.pose is None else clip.pose.map(lambda values: values.transpose(0, 1))
        clip = clip._replace(slots=clip.slots.transpose(0, 1), pose=pose)  # T clips of one frame
        self._clips.append(clip)
        self._names[video.number] = video.name
        slots = torch.arange(clip.slots.shape[2])
        for time in range(0, len(video.frames), self._every):
            place = torch.tensor([video.number, time]).expand(len(slots), -1)
            self._origins.append(torch.cat([place, slots[:, None]], 1))
            self._frames[video.number, time] = video.frames[time].permute(1, 2, 0).numpy()
            self._ids[video.number, time] = video.masks[time].numpy().argmax(0).astype(np.uint8)

    def library(self, num_concepts: int, seed: int, about: dict[str, Any]) -> Library:
        """All slots, clustered."""
        clip = joined(self._clips, 0)
        slots = clip.slots.flatten(0, 2).float()
        clusters = cluster(slots.numpy(), num_concepts, seed)
        return Library(
            slots,
            torch.from_numpy(clusters.labels),
            torch.from_numpy(clusters.distances).float(),
            torch.from_numpy(clusters.centers).float(),
            torch.cat(self._origins),
            tuple(self._names[number] for number in sorted(self._names)),
            about,
            None if clip.pose is None else clip.pose.map(lambda values: values.flatten(0, 2)),
        )

    def view(self, origin: Tensor) -> UInt8[ndarray, "h w 3"]:
        """The frame of a slot, white outside of the slot."""
        number, time, slot = origin.tolist()
        mask = (self._ids[number, time] == slot)[None].astype(np.float32)
        return slot_views(self._frames[number, time], mask)[0]


View = Callable[[Tensor], UInt8[ndarray, "h w 3"]]
"""A slot's origin (video, frame, slot) to an image of the slot."""


def _concept_sheet(library: Library, view: View, count: int) -> UInt8[ndarray, "H W 3"]:
    """A row of slots for each concept, padded with white."""
    sizes = torch.bincount(library.labels, minlength=library.num_concepts).tolist()
    images, labels = [], []
    for concept in range(library.num_concepts):
        views = [view(library.origin[member]) for member in library.nearest(concept, count)]
        images += views + [np.full_like(views[0], 255)] * (count - len(views))
        labels += [f"{concept}: {count_text(sizes[concept], 'slot')}", *[""] * (count - 1)]
    return contact_sheet(images, labels, columns=count, tile=_TILE)


def _samples(
    model: ObjectCentricModel, library: Library, view: View, out: Path, options: ConceptOptions
) -> list[Path]:
    if not options.samples:
        return []
    members = library.sample(options.samples, options.seed)
    parts = members.split(options.chunk)
    frames = torch.cat([decode_frames(model, library.clip(part), options.chunk)[:, 0] for part in parts])
    write_frames(out / "samples", frames)
    images, labels = [], []
    for number, frame in enumerate(frames):
        images += [frame.permute(1, 2, 0).numpy(), *(view(library.origin[m]) for m in members[number])]
        labels += [f"sample {number}", *(str(concept) for concept in range(library.num_concepts))]
    write_png(
        out / "samples.png", contact_sheet(images, labels, columns=1 + library.num_concepts, tile=_TILE)
    )
    return [out / "samples.png", *(out / "samples" / f"{number:05d}.png" for number in range(len(frames)))]

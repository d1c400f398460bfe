"""Slots exchanged across the videos of a data set, and the videos that a model paints from them.

All videos are encoded first; then each process composes its share of new videos, paints them, and the set of them is
compared with the set of real ones (FVD, FID). Pictures show a composition beside the videos that its slots come from.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from numpy import ndarray
from torch import Tensor

from torchslots.data.loader import ClipDataset, number_read
from torchslots.evaluation.observers import DRAWN_FRAMES, write_frames
from torchslots.evaluation.report import EvalReport, write_panel
from torchslots.inference.encode import EncodedVideo, encoded_videos, number_of_slots
from torchslots.inference.generation import paint, require_frames
from torchslots.io.draw import contact_sheet, slot_views
from torchslots.io.errors import UserError
from torchslots.io.files import write_file
from torchslots.io.processes import gather
from torchslots.io.progress import progress
from torchslots.metrics.reconstruction import SetDistances
from torchslots.models.clips import compose, frames_of, joined, random_plan, shifted_plan
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Clip
from torchslots.recipes.config import EvalConfig

_FADED = 0.2
"""What is left of a source's colours where its slot wins no pixel."""


@dataclass(frozen=True)
class ComposeOptions:
    """Which slots are exchanged, and what is written."""

    reference_shift: bool = False
    """Exchange by the published evaluation's fixed shift within each batch, in place of at random over all videos; with
    batches of one video it exchanges nothing."""
    seed: int = 0
    """Of the random exchange."""
    draw: int = 4
    """Compositions drawn beside their sources."""
    chunk: int = 24
    """Frames painted at once; fewer need less memory."""
    write_videos: Path | None = None
    """Folder for `comp_vids` and `gt_vids`, a PNG for every frame; None: not written."""
    published_order: bool = False
    """Name frames 0.png, 1.png, ..., and put them into the order 0, 1, 10, 11, ... for FVD, as in the published
    figures; otherwise 00000.png, ..., in the order of time."""

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise UserError(f"chunk should be at least 1, got {self.chunk}.")


@dataclass(frozen=True)
class Composed:
    """A composition [T, h, w, 3], and the videos that its slots come from, each faded where the slot wins no pixel."""

    frames: UInt8[ndarray, "T h w 3"]
    sources: list[UInt8[ndarray, "T h w 3"]]
    labels: list[str]

    @property
    def name(self) -> str:
        """What it is made of."""
        return "; ".join(self.labels)

    def panel(self, tile: int = 128) -> UInt8[ndarray, "T H W 3"]:
        """The composition, then the source of every slot, labelled."""
        tiles = [self.frames, *(source[: len(self.frames)] for source in self.sources)]
        labels = ["composed", *self.labels]
        return np.stack([contact_sheet(list(frames), labels, tile=tile) for frames in zip(*tiles)])


@dataclass
class _Sources:
    """What is kept of the encoded videos, by their number."""

    plan: Int[ndarray, "N K"]
    drawn: int
    clips: dict[int, Clip] = field(default_factory=dict)
    views: dict[tuple[int, int], UInt8[ndarray, "T h w 3"]] = field(default_factory=dict)
    """(Video, slot) to the video faded around the slot, of the slots in the compositions to be drawn."""

    def shown(self, number: int) -> list[int]:
        """Which of a video's slots are to be drawn."""
        return sorted(set(np.nonzero(self.plan[: self.drawn] == number)[1].tolist()))

    def keep(self, found: EncodedVideo) -> None:
        """Take a video's slots, and its pictures where they are to be drawn."""
        self.clips[found.number] = found.clip
        if found.masks is None:
            return
        frames = found.frames[:DRAWN_FRAMES].permute(0, 2, 3, 1).numpy()
        winner = found.masks[:DRAWN_FRAMES].numpy().argmax(1)
        for slot in self.shown(found.number):
            weight = np.where(winner == slot, np.float32(1), np.float32(_FADED))
            self.views[found.number, slot] = slot_views(frames, weight[:, None])[:, 0]

    def share(self) -> "_Sources":
        """With those of all other processes."""
        for part in gather((self.clips, self.views)):
            self.clips |= part[0]
            self.views |= part[1]
        return self

    def composition(self, number: int) -> Clip:
        """One new video, as long as its shortest source."""
        chosen = self.plan[number].tolist()
        needed = sorted(set(chosen))
        length = min(self.clips[source].slots.shape[1] for source in needed)
        together = joined([frames_of(self.clips[source], slice(0, length)) for source in needed], 0)
        return compose(together, np.array([[needed.index(source) for source in chosen]]))

    def panel(self, number: int, frames: UInt8[Tensor, "T 3 h w"]) -> Composed:
        """A composition beside its sources."""
        chosen = list(enumerate(self.plan[number].tolist()))
        picture = np.ascontiguousarray(frames[:DRAWN_FRAMES].permute(0, 2, 3, 1).numpy())
        labels = [f"slot {slot}: video {source}" for slot, source in chosen]
        return Composed(picture, [self.views[source, slot] for slot, source in chosen], labels)


def compose_videos(
    model: ObjectCentricModel,
    dataset: ClipDataset,
    settings: EvalConfig,
    options: ComposeOptions = ComposeOptions(),
    *,
    networks: Mapping[str, Any] | None = None,
    device: str = "cpu",
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> EvalReport:
    """Compose as many new videos as there are real ones, and judge them as a set.

    Every process must call this. What is composed depends on the data set, the number of slots and the options, never
    on the number of processes; on batches only with `reference_shift`.

    Args:
        networks: `fvd` and `fid` of `metrics.pictures.load_networks`; without, nothing is judged.

    Raises:
        UserError: no videos, damaged data, or a model that paints no frames.
    """
    require_frames(model)
    distances = SetDistances(networks or {}, options.published_order, device)
    total = number_read(dataset, settings.num_videos)
    num_slots = number_of_slots(model, dataset, settings, device)
    plan = _plan(options, total, num_slots, settings.batch_size)
    sources = _Sources(plan, options.draw)
    where = {"device": device, "num_workers": num_workers, "rank": rank, "world_size": world_size}
    wanted = frozenset(plan[: options.draw].ravel().tolist())
    for found in encoded_videos(model, dataset, settings, wanted.__contains__, **where):
        distances.add(found.frames, found.name, real=True)
        sources.keep(found)
        _write(options, "gt_vids", found.number, found.frames)
    panels = _paint(model, sources.share(), options, distances, range(rank, total, world_size))
    figures, definitions, notes = distances.compute()
    about = {**asdict(settings), **asdict(options), "num_slots": num_slots}
    about["write_videos"] = None if options.write_videos is None else str(options.write_videos)
    return EvalReport(figures, {}, total, definitions, notes, about, panels)


def save(report: EvalReport, folder: Path, fps: float = 12.0) -> list[Path]:
    """Write compose.json and each drawn composition as mp4 and GIF, of single pictures as PNG.

    Raises:
        UserError: no space left, or a folder that cannot be written.
    """
    write_file(folder / "compose.json", report.to_json() + "\n")
    written = [folder / "compose.json"]
    for index, drawn in enumerate(report.panels):
        written += write_panel(drawn.panel(), folder / f"composed_{index}", fps, gif=True)
    return written


def _plan(options: ComposeOptions, total: int, num_slots: int, batch_size: int) -> Int[ndarray, "N K"]:
    if options.reference_shift:
        return shifted_plan(total, num_slots, batch_size)
    return random_plan(total, num_slots, options.seed)


def _write(options: ComposeOptions, name: str, number: int, frames: UInt8[Tensor, "T 3 h w"]) -> None:
    if options.write_videos is not None:
        place = options.write_videos / name / str(number)
        write_frames(place, frames, published_names=options.published_order)


def _paint(
    model: ObjectCentricModel,
    sources: _Sources,
    options: ComposeOptions,
    distances: SetDistances,
    numbers: range,
) -> list[Composed]:
    """Paint this process' share of compositions; hands back those to be drawn, of all processes."""
    panels: dict[int, Composed] = {}
    with progress("Painting", len(numbers), "videos") as advance:
        for number in numbers:
            frames = paint(model, sources.composition(number), options.chunk)[0]
            distances.add(frames, f"composition {number}", real=False)
            _write(options, "comp_vids", number, frames)
            if number < options.draw:
                panels[number] = sources.panel(number, frames)
            advance(1)
    drawn = {number: panel for part in gather(panels) for number, panel in part.items()}
    return [drawn[number] for number in sorted(drawn)]

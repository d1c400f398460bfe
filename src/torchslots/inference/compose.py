"""Compose new videos from slots exchanged between the videos of a data set, and compare them with the real ones.

All videos are encoded first. Then each process composes and decodes its share of new videos. FVD and FID compare the
set of new videos with the set of real ones. Plots show a composition beside the sources of its slots.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from numpy import ndarray
from torch import Tensor

from torchslots.data.batch import ClipDataset
from torchslots.data.loader import number_read
from torchslots.evaluation.frame_folders import write_frames
from torchslots.evaluation.kept import Kept, fingerprint
from torchslots.evaluation.panels import PLOTTED_FRAMES
from torchslots.evaluation.report import EvalReport, remove_later, write_panel
from torchslots.inference.encode import EncodedVideo, encoded_videos, number_of_slots
from torchslots.inference.finished import model_key
from torchslots.inference.generation import SamplingOptions, decode_frames, require_frames, with_sampling
from torchslots.io.devices import figures_device
from torchslots.io.draw import contact_sheet, slot_views
from torchslots.io.errors import UserError
from torchslots.io.files import write_file
from torchslots.io.processes import gather
from torchslots.io.progress import progress
from torchslots.io.values import convert_fields
from torchslots.metrics.reconstruction import SetDistances
from torchslots.models.clips import compose, frames_of, joined, random_plan, shifted_plan
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Clip
from torchslots.recipes.config import EvalConfig

_FADED = 0.2
"""Weight of a source's colours outside of its slot."""


@dataclass(frozen=True)
class ComposeOptions:
    """Exchange of slots, and output."""

    reference_shift: bool = False
    """Exchange by the published evaluation's fixed shift within each batch, in place of at random over all videos;
    batches of one video exchange nothing."""
    seed: int = 0
    """Seed of the random exchange."""
    num_plots: int = 4
    """Compositions to plot beside the sources of their slots."""
    chunk: int = 24
    """Frames decoded at once; fewer need less memory."""
    write_videos: Path | None = None
    """Folder for `comp_vids` and `gt_vids`, in each a folder for every video with a PNG for every frame; None: not
    written."""
    published_order: bool = False
    """Name written frames 0.png, 1.png, ..., and put them into the order 0, 1, 10, 11, ... for FVD, as in the published
    figures; otherwise 00000.png, ..., in the order of time."""
    overwrite: bool = False
    """Begin anew where the same compositions were interrupted; otherwise those that are left are decoded."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def __post_init__(self) -> None:
        convert_fields(self)
        if self.chunk < 1:
            raise UserError(f"chunk should be at least 1, got {self.chunk}.")

    def describe(self) -> dict[str, Any]:
        """The options as JSON."""
        folder = None if self.write_videos is None else str(self.write_videos)
        options = {name: value for name, value in asdict(self).items() if name != "overwrite"}
        return options | {"write_videos": folder, "sampling": self.sampling.given()}


@dataclass(frozen=True)
class Composition:
    """A composed video, and the source of each slot, faded outside of the slot."""

    frames: UInt8[ndarray, "T h w 3"]
    sources: list[UInt8[ndarray, "T h w 3"]]
    labels: list[str]

    @property
    def name(self) -> str:
        """The source of each slot."""
        return "; ".join(self.labels)

    def panel(self, tile: int = 128) -> UInt8[ndarray, "T H W 3"]:
        """The composition and the source of each slot, labelled."""
        tiles = [self.frames, *(source[: len(self.frames)] for source in self.sources)]
        labels = ["composed", *self.labels]
        return np.stack([contact_sheet(list(frames), labels, tile=tile) for frames in zip(*tiles)])


@dataclass
class _Sources:
    """The slots of the encoded videos by number, and the views of them for plots."""

    plan: Int[ndarray, "N K"]
    num_plots: int
    clips: dict[int, Clip] = field(default_factory=dict)
    views: dict[tuple[int, int], UInt8[ndarray, "T h w 3"]] = field(default_factory=dict)
    """(Video, slot) to the video faded outside of the slot, for the slots of plotted compositions."""

    def add(self, video: EncodedVideo) -> None:
        self.clips[video.number] = video.clip
        if video.masks is None:
            return
        frames = video.frames[:PLOTTED_FRAMES].permute(0, 2, 3, 1).numpy()
        winner = video.masks[:PLOTTED_FRAMES].numpy().argmax(1)
        for slot in set(np.nonzero(self.plan[: self.num_plots] == video.number)[1].tolist()):
            weight = np.where(winner == slot, np.float32(1), np.float32(_FADED))
            self.views[video.number, slot] = slot_views(frames, weight[:, None])[:, 0]

    def gather(self) -> "_Sources":
        """Add the slots and views of all other processes."""
        for clips, views in gather((self.clips, self.views)):
            self.clips |= clips
            self.views |= views
        return self

    def composition(self, number: int) -> Clip:
        """One new video, as long as its shortest source."""
        chosen = self.plan[number].tolist()
        needed = sorted(set(chosen))
        length = min(self.clips[source].slots.shape[1] for source in needed)
        together = joined([frames_of(self.clips[source], slice(0, length)) for source in needed], 0)
        return compose(together, np.array([[needed.index(source) for source in chosen]]))

    def plot(self, number: int, frames: UInt8[Tensor, "T 3 h w"]) -> Composition:
        """A composition beside its sources."""
        chosen = list(enumerate(self.plan[number].tolist()))
        image = np.ascontiguousarray(frames[:PLOTTED_FRAMES].permute(0, 2, 3, 1).numpy())
        labels = [f"slot {slot}: video {source}" for slot, source in chosen]
        return Composition(image, [self.views[source, slot] for slot, source in chosen], labels)


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
    kept: Kept | None = None,
) -> EvalReport:
    """Compose as many new videos as there are real ones, and evaluate them as a set.

    Every process must call this. The compositions do not depend on the number of processes, and on batches only with
    `reference_shift`.

    Args:
        networks: `fvd` and `fid` from `metrics.reconstruction.load_networks`; None: no figures.
        kept: where decoded videos are kept until all are there, so that this may be interrupted; None: nowhere.

    Raises:
        UserError: no videos, damaged data, a sampling option that the model lacks, or a model that decodes no frames.
    """
    require_frames(model)
    model = with_sampling(model, options.sampling)
    distances = SetDistances(networks or {}, options.published_order, figures_device(device))
    total = number_read(dataset, settings.num_videos)
    num_slots = number_of_slots(model, dataset, settings, device)
    if options.reference_shift:
        plan = shifted_plan(total, num_slots, settings.batch_size)
    else:
        plan = random_plan(total, num_slots, options.seed)
    sources = _Sources(plan, options.num_plots)
    where = {"device": device, "num_workers": num_workers, "rank": rank, "world_size": world_size}
    plotted = frozenset(plan[: options.num_plots].ravel().tolist())
    for video in encoded_videos(model, dataset, settings, plotted.__contains__, **where):
        distances.add(video.frames, video.name, real=True)
        sources.add(video)
        _write(options, "gt_vids", video.number, video.frames)
    panels = _decode(model, sources.gather(), options, distances, range(rank, total, world_size), kept)
    figures, definitions, notes = distances.compute()
    about = {**asdict(settings), **options.describe(), "num_slots": num_slots}
    return EvalReport(figures, {}, total, definitions, notes, about, panels)


def save(report: EvalReport, folder: Path | str, fps: float = 12.0) -> list[Path]:
    """Write compose.json, and each plotted composition as mp4 and GIF, or a single frame as PNG.

    Raises:
        UserError: no space left, or a folder that cannot be written.
    """
    folder = Path(folder)
    written = [folder / "compose.json"]
    if written[0].is_file():
        remove_later(folder, "composed", len(report.panels))
    write_file(written[0], report.to_json() + "\n")
    for index, composition in enumerate(report.panels):
        written += write_panel(composition.panel(), folder / f"composed_{index}", fps, gif=True)
    return written


def _write(options: ComposeOptions, name: str, number: int, frames: UInt8[Tensor, "T 3 h w"]) -> None:
    if options.write_videos is not None:
        place = options.write_videos / name / str(number)
        write_frames(place, frames, published_names=options.published_order)


def kept_compositions(
    model: ObjectCentricModel, folder: Path, settings: EvalConfig, options: ComposeOptions, rank: int
) -> Kept | None:
    """Where a process keeps decoded compositions until all are there; None where codes are sampled one after the other
    from one source of random numbers."""
    if options.sampling.temperature is not None:
        return None
    about = [model_key(model, model.config), asdict(settings), options.describe(), rank]
    key = hashlib.blake2b(json.dumps(about, default=str).encode()).hexdigest()
    kept = Kept(folder, key, rank, options.overwrite)
    if kept.resumes and rank == 0:
        print(
            f"Going on with the compositions that were interrupted in {folder}.", file=sys.stderr, flush=True
        )
    return kept


def _decoded(
    model: ObjectCentricModel, clip: Clip, chunk: int, number: int, kept: Kept | None
) -> UInt8[Tensor, "T 3 h w"]:
    """A composition's frames, kept ones if they are of these slots."""
    name = f"{number}_{fingerprint(clip.slots)}"
    stored = None if kept is None else kept.read(name)
    if stored is not None:
        return stored["frames"]
    frames = decode_frames(model, clip, chunk, [f"composition {number}"])[0]
    if kept is not None:
        kept.write(name, {"frames": frames})
    return frames


def _decode(
    model: ObjectCentricModel,
    sources: _Sources,
    options: ComposeOptions,
    distances: SetDistances,
    numbers: range,
    kept: Kept | None,
) -> list[Composition]:
    """Decode this process's share of compositions; returns those to plot, of all processes."""
    panels: dict[int, Composition] = {}
    with progress("Decoding", len(numbers), "videos") as advance:
        for number in numbers:
            frames = _decoded(model, sources.composition(number), options.chunk, number, kept)
            distances.add(frames, f"composition {number}", real=False)
            _write(options, "comp_vids", number, frames)
            if number < options.num_plots:
                panels[number] = sources.plot(number, frames)
            advance(1)
    everywhere = {number: panel for part in gather(panels) for number, panel in part.items()}
    return [everywhere[number] for number in sorted(everywhere)]

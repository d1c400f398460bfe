"""Observers of an evaluation: each receives every slice of every video and reports metrics, curves or plots."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from torchslots.io.counts import count_text
from torchslots.io.errors import UserError
from torchslots.io.processes import gather
from torchslots.metrics import reconstruction, scores, set_prediction
from torchslots.metrics.labels import segmentation_at
from torchslots.metrics.reconstruction import ReconstructionScores
from torchslots.metrics.scores import SegmentationScores
from torchslots.metrics.set_prediction import AveragePrecision
from torchslots.models.slices import to_device
from torchslots.models.types import Batch, Prediction
from torchslots.recipes import protocols
from torchslots.recipes.config import EvalConfig

_LOSS_DEFINITION = "The training loss of this name on whole videos, mean over videos."
_CLIP_DEFINITION = "The training loss of this name on clips"


class Slice(NamedTuple):
    """A slice of a batch."""

    batch: Batch
    """The whole videos, on the device where they were loaded."""
    part: Batch
    """The slice's frames, on the model's device."""
    start: int
    """Index of the slice's first frame."""


class Plotted(Protocol):
    """A video that is stored for a plot."""

    @property
    def name(self) -> str:
        """The video's name."""
        ...

    def panel(self, tile: int = 128) -> NDArray[np.uint8]:
        """The labelled plot [T, H, W, 3]."""
        ...


class Needs(NamedTuple):
    """What an observer needs besides masks."""

    recon: bool = False
    slot_recon: bool = False


@dataclass(frozen=True)
class Findings:
    """The result of an observer. `panels` are videos to plot, `settings` are added to those of the evaluation."""

    metrics: dict[str, float] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    panels: list[Plotted] = field(default_factory=list)


class Reconstructed(Protocol):
    """A model's result for a slice, with reconstructions."""

    @property
    def recon(self) -> dict[str, Tensor]:
        """Images by target, [B, t, C, H, W]."""
        ...


Found = TypeVar("Found", contravariant=True)


class Observer(Protocol[Found]):
    """Receives every slice, batch after batch, each batch from its first frame to its last."""

    @property
    def needs(self) -> Needs:
        """What must be decoded of the next slice."""
        ...

    def add(self, seen: Slice, found: Found) -> None:
        """Add a slice and the model's result: a `Prediction`, or a tokenizer's `tokenizer.Reconstruction`."""
        ...

    def finish(self, batch: Batch) -> None:
        """End a batch: its videos are complete."""
        ...

    def report(self) -> Findings:
        """The result over all processes; every process must call this."""
        ...


def merged(observers: Sequence[Observer[Any]]) -> Findings:
    """The results of all observers, each note once."""
    whole = Findings()
    for found in [observer.report() for observer in observers]:
        whole.metrics.update(found.metrics)
        whole.definitions.update(found.definitions)
        whole.curves.update(found.curves)
        whole.settings.update(found.settings)
        whole.notes.extend(note for note in found.notes if note not in whole.notes)
        whole.panels.extend(found.panels)
    return whole


class Segmentation:
    """How well the slots' masks agree with the objects', and with classes where the data have them.

    Args:
        hinted: The model starts a slot from each object of the first frame, as far as it has slots.

    Raises:
        UserError: no such protocol.
    """

    needs = Needs()

    def __init__(
        self, config: EvalConfig, device: torch.device | str = "cpu", *, hinted: bool = False
    ) -> None:
        self._protocol, self._background = protocols.find(config.protocol).computed, config.num_background
        self._objects = SegmentationScores(config.num_frames, device, self._background, self._protocol)
        self._classes = SegmentationScores(config.num_frames, device, num_background=0)
        self._hinted = hinted
        self._videos = self._num_slots = self._cut_videos = self._cut_objects = 0

    def add(self, seen: Slice, found: Prediction) -> None:
        self._num_slots, part = found.masks.shape[2], seen.part
        if "segmentations" not in part:
            return
        ids, ignore = part["segmentations"], part.get("ignore")
        slots, mask = at_labels(found, ids), real_pixels(part, ids)
        if self._hinted and seen.start == 0:
            self._count_cut(ids[:, 0])
        pixels = {"padding_mask": mask, "start": seen.start}
        self._objects.add(ids, slots, self._num_slots, ignore=ignore, **pixels)
        if "classes" in part:
            classes: Tensor = part["classes"]
            ignore = None if ignore is None else ignore & (classes == 0)
            self._classes.add(classes, slots, self._num_slots, ignore=ignore, **pixels)

    def _count_cut(self, ids: Int[Tensor, "B H W"]) -> None:
        """Count objects of the first frame for which the model has no slot: id i starts slot i."""
        beyond = [len(frame[frame >= self._num_slots].unique()) for frame in ids]
        self._cut_objects += sum(beyond)
        self._cut_videos += sum(count > 0 for count in beyond)

    def finish(self, batch: Batch) -> None:
        self._videos += len(batch["video"])
        if "segmentations" in batch:
            self._objects.finish()
        if "segmentations" in batch and "classes" in batch:
            self._classes.finish()

    def report(self) -> Findings:
        metrics, curves, census = self._objects.compute()
        definitions = {name: self._objects.definition(name) for name in metrics}
        classes = {f"class_{name}": value for name, value in self._classes.compute()[0].items()}
        classes = {name: classes[name] for name in scores.CLASSES if name in classes}
        counts, slots, *cut = zip(
            *gather((self._videos, self._num_slots, self._cut_videos, self._cut_objects))
        )
        notes = _notes(census, sum(counts), max(slots), self._skips)
        if any(cut[0]):
            notes.append(
                f"{sum(cut[1])} objects in the first frames of {count_text(sum(cut[0]), 'video')} start no slot: "
                "the model has "
                f"{max(slots) - 1} for objects. All objects are evaluated."
            )
        curves = curves if census["videos"] else {}
        definitions |= {name: scores.CLASSES[name] for name in classes}
        return Findings(metrics | classes, definitions, notes, curves, {"num_slots": max(slots)})

    @property
    def _skips(self) -> bool:
        """Whether FG-ARI leaves out videos without labels."""
        return self._protocol.without_objects == "left_out" and not self._background


def at_labels(found: Prediction, ids: Int[Tensor, "B T H W"]) -> Int[Tensor, "B T H W"]:
    """Slot of each pixel at the size of the labels."""
    if found.segmentation.shape[-2:] == ids.shape[-2:]:
        return found.segmentation
    return segmentation_at(found.masks.float(), (ids.shape[-2], ids.shape[-1]))


def real_pixels(part: Batch, ids: Int[Tensor, "B T H W"]) -> Bool[Tensor, "B T H W"] | None:
    """The padding mask at the size of the labels."""
    mask = part.get("padding_mask")
    if mask is None or mask.shape == ids.shape:
        return mask
    return F.interpolate(mask.float(), ids.shape[-2:], mode="nearest-exact") > 0


def _notes(census: Mapping[str, int], videos: int, num_slots: int, skips: bool) -> list[str]:
    """Sentences on videos without masks, with more objects than slots, or without objects.

    Args:
        skips: whether FG-ARI leaves out videos without labels.
    """
    notes = []
    if not census["videos"]:
        notes.append("The data have no masks, so there are no segmentation figures.")
    elif census["videos"] < videos:
        notes.append(f"Only {census['videos']} of {videos} videos have masks; the figures are of these.")
    if census["crowded"]:
        notes.append(
            f"{census['crowded']} of {videos} videos show more objects than the model has slots for: up to "
            f"{census['most_objects']} objects and the background for {num_slots} slots. Some objects must "
            "share a slot, which lowers every figure; use more slots, or videos with fewer objects."
        )
    if census["empty"] and skips:
        notes.append(f"{census['empty']} of {videos} videos show no object; the figures leave them out.")
    elif census["empty"]:
        notes.append(
            f"{census['empty']} of {videos} videos show no object. FG-ARI counts them as 1, as the "
            "reference does; fg_miou and mbo leave them out."
        )
    return notes


class SetPrediction:
    """Average precision of predicted sets of objects; nothing without predictions or without objects."""

    needs = Needs()

    def __init__(self) -> None:
        self._sets = AveragePrecision(sync_on_compute=False)

    def add(self, seen: Slice, found: Prediction) -> None:
        if found.properties is not None and "properties" in seen.part:
            self._sets.update(found.properties.cpu(), seen.part["properties"].cpu())

    def finish(self, batch: Batch) -> None:
        """See `Observer`."""

    def report(self) -> Findings:
        parts = [sets for sets in gather(self._sets) if sets.update_called]
        for sets in parts[1:]:
            parts[0].merge_state(sets)
        found = parts[0].compute() if parts else {}
        metrics = {name: value for name, value in found.items() if math.isfinite(value)}
        return Findings(metrics, {name: set_prediction.DEFINITIONS[name] for name in metrics})


class Losses:
    """A model's training losses on whole videos, where memory grows with their length, or on clips of them.

    Args:
        loss: from a batch to losses by name.
        device: device of the model.
        autocast: entered for each batch.
        frames: of clips that lie end to end, each with the hints of its own first frame; those that a video does not
            fill are left out, unless it is shorter than one. None: whole videos.
    """

    needs = Needs()

    def __init__(
        self,
        loss: Callable[[Batch], dict[str, Tensor]],
        device: torch.device | str,
        autocast: Callable[[], AbstractContextManager[Any]],
        frames: int | None = None,
    ) -> None:
        self._loss, self._device, self._autocast, self._frames = loss, device, autocast, frames
        self._sums: dict[str, float] = {}
        self._clips = 0

    def add(self, seen: Slice, found: Reconstructed) -> None:
        """See `Observer`."""

    def finish(self, batch: Batch) -> None:
        unnamed = {key: value for key, value in batch.items() if key != "name"}
        for part in [unnamed] if self._frames is None else whole_clips(unnamed, self._frames):
            with self._autocast():
                losses = self._loss(to_device(part, self._device))
            for name, value in losses.items():
                self._sums[name] = self._sums.get(name, 0.0) + float(value) * len(part["video"])
            self._clips += len(part["video"])

    def report(self) -> Findings:
        counts, sums = zip(*gather((self._clips, self._sums)))
        names = dict.fromkeys(name for part in sums for name in part)
        losses = {f"loss_{name}": sum(part.get(name, 0.0) for part in sums) / sum(counts) for name in names}
        whole, text = self._frames is None, _LOSS_DEFINITION
        if self._frames is not None:
            text = f"{_CLIP_DEFINITION} of {count_text(self._frames, 'frame')}, mean over clips."
        definitions = dict.fromkeys(losses, text)
        if losses and not whole:
            losses["loss"] = sum(losses.values())
            definitions["loss"] = "The sum of the training losses."
        return Findings(losses, definitions)


def whole_clips(batch: Batch, frames: int) -> Iterator[Batch]:
    """Clips of so many frames that lie end to end, those of a video's padding left out; of a video that is shorter than
    a clip all of it."""
    shown = reconstruction.real_frames(batch["video"], batch.get("padding_mask"))
    for start in range(0, shown.shape[1], frames):
        part = shown[:, start : start + frames]
        filled = part.all(1) & torch.tensor(part.shape[1] == frames) | torch.tensor(start == 0)
        rows = (filled & part.any(1)).nonzero().flatten().tolist()
        if rows:
            yield {key: _piece(value, rows, slice(start, start + frames)) for key, value in batch.items()}


def _piece(value: Any, rows: list[int], frames: slice) -> Any:
    """Frames of some videos, or what belongs to these videos as a whole."""
    return value[rows, frames] if isinstance(value, Tensor) else [value[row] for row in rows]


def frames_of(found: Reconstructed) -> Float[Tensor, "B t 3 H W"]:
    """The frames that a model decoded.

    Raises:
        UserError: the model decodes no frames.
    """
    if "video" not in found.recon:
        raise UserError(
            f"This model decodes {', '.join(found.recon) or 'nothing'} and no frames, so no frames can be evaluated or "
            "written. Leave --recon and --write-videos out."
        )
    return found.recon["video"].float()


class ReconstructionFigures:
    """Metrics of decoded frames against the true ones.

    Args:
        notes: notes to report, such as which figures are left out.

    Raises:
        UserError: a model that decodes no frames.
    """

    needs = Needs(recon=True)

    def __init__(self, scores: ReconstructionScores, notes: Sequence[str] = ()) -> None:
        self._scores, self._notes = scores, notes

    def add(self, seen: Slice, found: Reconstructed) -> None:
        self._scores.add(frames_of(found), seen.part["video"], seen.part.get("padding_mask"))

    def finish(self, batch: Batch) -> None:
        self._scores.finish(batch.get("name", [""] * len(batch["video"])))

    def report(self) -> Findings:
        metrics, notes = self._scores.compute()
        definitions = {name: reconstruction.DEFINITIONS[name] for name in metrics}
        return Findings(metrics, definitions, [*self._notes, *notes])


def real_frames(part: Batch) -> Bool[Tensor, "B t"]:
    """Which frames are not padding, on the CPU."""
    return reconstruction.real_frames(part["video"], part.get("padding_mask")).cpu()

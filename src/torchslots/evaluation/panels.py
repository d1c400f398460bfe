"""Videos of an evaluation that are stored for plots: input, prediction and reconstruction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from torchslots.evaluation.observers import Findings, Needs, Plotted, Reconstructed, Slice, real_frames
from torchslots.evaluation.plot_objects import plot_properties, properties_markdown
from torchslots.io.draw import clip_panel, contact_sheet
from torchslots.io.processes import is_first_process
from torchslots.metrics.labels import resize_masks, segmentation_at
from torchslots.metrics.segmentation import Numbering
from torchslots.models.layers.ranges import to_bytes
from torchslots.models.types import Batch, Prediction

PLOTTED_FRAMES = 48
"""Frames of a video that are stored."""
_COLUMNS = ((9, 3), (16, 4))
"""Most slots, and tiles in a row of a panel: few, so that a phone shows them at a size that can be read."""
_RECON_LABELS = {"video": "reconstruction", "flow": "predicted flow", "depth": "predicted depth"}


class Collector(Protocol):
    """Collects one video of a batch slice by slice."""

    def add(self, part: Batch, found: Any) -> None:
        """Add a slice of frames and the model's result."""
        ...

    def finish(self, name: str) -> Plotted:
        """The video, ready to plot; at most `PLOTTED_FRAMES` frames."""
        ...


class Panels:
    """An observer that collects the first `num_plots` videos, in the first process only.

    Args:
        collector: from a row of a batch to its collector.
    """

    def __init__(self, num_plots: int, collector: Callable[[int], Collector]) -> None:
        self._num_plots, self._collector = num_plots if is_first_process() else 0, collector
        self._rows: list[Collector] = []
        self._panels: list[Plotted] = []
        self._frames = 0

    @property
    def needs(self) -> Needs:
        wanted = len(self._panels) < self._num_plots and self._frames < PLOTTED_FRAMES
        return Needs(recon=wanted, slot_recon=wanted)

    def add(self, seen: Slice, found: Any) -> None:
        if seen.start == 0:
            count = min(self._num_plots - len(self._panels), len(seen.part["video"]))
            self._rows = [self._collector(row) for row in range(count)]
        for row in self._rows if seen.start < PLOTTED_FRAMES else []:
            row.add(seen.part, found)
        self._frames = seen.start + seen.part["video"].shape[1]

    def finish(self, batch: Batch) -> None:
        names: Sequence[str] = batch.get("name", [""] * len(batch["video"]))
        self._panels += [row.finish(name) for row, name in zip(self._rows, names)]
        self._rows, self._frames = [], 0

    def report(self) -> Findings:
        return Findings(panels=self._panels)


@dataclass(frozen=True)
class PlottedVideo:
    """One video and a model's result for it, as bytes; at most 48 frames."""

    name: str
    video: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    truth: NDArray[np.integer] | None = None
    recon: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    slot_recon: NDArray[np.uint8] | None = None
    properties: NDArray[np.float32] | None = None
    true_properties: NDArray[np.float32] | None = None

    def properties_plot(self) -> NDArray[np.uint8] | None:
        """The first frame and its objects' predicted and true properties [H, W, 3]; None: none were predicted."""
        if self.properties is None:
            return None
        return plot_properties(self.video[0], self.properties[0], self._first_truth())

    def properties_table(self) -> str | None:
        """The first frame's properties as a Markdown table; None: none were predicted."""
        if self.properties is None:
            return None
        return f"## {self.name}\n\n{properties_markdown(self.properties[0], self._first_truth())}"

    def _first_truth(self) -> NDArray[np.float32] | None:
        return None if self.true_properties is None else self.true_properties[0]

    def panel(self, tile: int = 128) -> NDArray[np.uint8]:
        """Labelled input, ground truth, prediction, reconstructions and slots [T, H, W, 3]."""
        masks = self.masks.astype(np.float32) / 255
        columns = next((columns for most, columns in _COLUMNS if masks.shape[1] <= most), 6)
        more = {
            "masks": masks,
            "recon": self.recon,
            "slot_images": self.slot_recon,
            "tile": tile,
            "columns": columns,
        }
        return clip_panel(self.video, self.prediction, truth=self.truth, **more)


class VideoPanel:
    """A `Collector` of a video and its prediction."""

    def __init__(self, row: int) -> None:
        self._row = row
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self._recon: dict[str, list[NDArray[np.uint8]]] = {}
        self._objects = Numbering((0,))

    def add(self, part: Batch, found: Prediction) -> None:
        row = self._row
        self._store("video", _pixels(part["video"][row]))
        size = (part["video"].shape[-2], part["video"].shape[-1])
        masks, slots = resize_masks(found.masks[row], size), found.segmentation[row]
        slots = slots if slots.shape[-2:] == size else segmentation_at(masks, size)
        self._store("prediction", slots.to(torch.uint8).cpu().numpy())
        self._store("masks", _bytes(masks))
        if "segmentations" in part:
            truth = self._objects(part["segmentations"][row, :, None])
            self._store(
                "truth", F.interpolate(truth.double(), size, mode="nearest-exact")[:, 0].int().cpu().numpy()
            )
        if found.slot_recon is not None and "video" in found.slot_recon:
            self._store("slot_recon", _pixels(found.slot_recon["video"][row]))
        if found.properties is not None:
            self._store("properties", found.properties[row].float().cpu().numpy())
        if found.properties is not None and "properties" in part:
            self._store("true_properties", part["properties"][row].float().cpu().numpy())
        for name, frames in found.recon.items():
            if frames.shape[2] in (1, 3):  # features are no images
                self._recon.setdefault(_RECON_LABELS.get(name, name), []).append(_pixels(frames[row]))

    def _store(self, name: str, values: NDArray[Any]) -> None:
        self._parts.setdefault(name, []).append(values)

    def finish(self, name: str) -> PlottedVideo:
        parts = {key: np.concatenate(values)[:PLOTTED_FRAMES] for key, values in self._parts.items()}
        recon = {key: np.concatenate(values)[:PLOTTED_FRAMES] for key, values in self._recon.items()}
        return PlottedVideo(name, **cast(Any, parts), recon=recon)


def _pixels(frames: Float[Tensor, "*batch C H W"]) -> NDArray[np.uint8]:
    """Images as bytes, colour last; one channel (depth) becomes grey, from its least to its greatest value."""
    if frames.shape[-3] == 1:
        frames = frames.float()
        frames = (frames - frames.min()) / (frames.max() - frames.min()).clamp(min=1e-6)
        frames = frames.expand(*frames.shape[:-3], 3, *frames.shape[-2:])
    return np.ascontiguousarray(_bytes(frames.movedim(-3, -1)))


def _bytes(values: Tensor) -> NDArray[np.uint8]:
    return to_bytes(values).cpu().numpy()


@dataclass(frozen=True)
class PlottedPair:
    """A video [T, H, W, 3] and its reconstruction, as bytes; at most 48 frames."""

    name: str
    video: NDArray[np.uint8]
    reconstruction: NDArray[np.uint8]

    def panel(self, tile: int = 128) -> NDArray[np.uint8]:
        """Labelled input and reconstruction side by side [T, H', W', 3]."""
        labels = ["input", "reconstruction"]
        pairs = zip(self.video, self.reconstruction)
        return np.stack([contact_sheet(pair, labels, tile=tile) for pair in pairs])


class PairPanel:
    """A `Collector` of a video and its reconstruction, without padding."""

    def __init__(self, row: int) -> None:
        self._row = row
        self._video: list[NDArray[np.uint8]] = []
        self._recon: list[NDArray[np.uint8]] = []

    def add(self, part: Batch, found: Reconstructed) -> None:
        shown: Bool[Tensor, "t"] = real_frames(part)[self._row]
        for frames, stored in ((part["video"], self._video), (found.recon["video"], self._recon)):
            stored.append(_pixels(frames[self._row])[shown.numpy()])

    def finish(self, name: str) -> PlottedPair:
        video, recon = (np.concatenate(stored)[:PLOTTED_FRAMES] for stored in (self._video, self._recon))
        return PlottedPair(name, video, recon)

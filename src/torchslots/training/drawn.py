"""Videos that an evaluation keeps to be drawn: collected slice by slice, in bytes, drawn when asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from torchslots.draw import clip_panel
from torchslots.draw_properties import draw_properties, properties_markdown
from torchslots.nn.ranges import to_bytes
from torchslots.shapes import Batch, Prediction

DRAWN_FRAMES = 48
"""Frames of a video that are kept."""
_RECON_LABELS = {"video": "reconstruction", "flow": "predicted flow", "depth": "predicted depth"}


@dataclass(frozen=True)
class DrawnVideo:
    """One video and what a model made of it, in bytes, to be drawn later; at most 48 frames."""

    name: str
    video: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    truth: NDArray[np.integer] | None = None
    recon: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    slot_pictures: NDArray[np.uint8] | None = None
    properties: NDArray[np.float32] | None = None
    true_properties: NDArray[np.float32] | None = None

    def properties_picture(self) -> NDArray[np.uint8] | None:
        """The first frame and its objects' properties, predicted beside true [H, W, 3]; None: none were predicted."""
        if self.properties is None:
            return None
        return draw_properties(self.video[0], self.properties[0], self._first_truth())

    def properties_table(self) -> str | None:
        """The same in words, as Markdown."""
        if self.properties is None:
            return None
        return f"## {self.name}\n\n{properties_markdown(self.properties[0], self._first_truth())}"

    def _first_truth(self) -> NDArray[np.float32] | None:
        return None if self.true_properties is None else self.true_properties[0]

    def panel(self, tile: int = 128) -> NDArray[np.uint8]:
        """Input, ground truth, prediction, reconstructions and slots, labelled [T, H, W, 3]."""
        masks = self.masks.astype(np.float32) / 255
        more = {"masks": masks, "recon": self.recon, "slot_pictures": self.slot_pictures, "tile": tile}
        return clip_panel(self.video, self.prediction, truth=self.truth, **more)


class Drawing:
    """Collects one video of a batch slice by slice."""

    def __init__(self, row: int) -> None:
        self.row = row
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self._recon: dict[str, list[NDArray[np.uint8]]] = {}

    def add(self, part: Batch, found: Prediction) -> None:
        """Add a slice of frames."""
        row = self.row
        self._keep("video", _pixels(part["video"][row]))
        self._keep("prediction", found.segmentation[row].to(torch.uint8).cpu().numpy())
        self._keep("masks", _bytes(found.masks[row]))
        if "segmentations" in part:
            self._keep("truth", part["segmentations"][row].cpu().numpy())
        if found.slot_recon is not None and "video" in found.slot_recon:
            self._keep("slot_pictures", _pixels(found.slot_recon["video"][row]))
        if found.properties is not None:
            self._keep("properties", found.properties[row].float().cpu().numpy())
        if found.properties is not None and "properties" in part:
            self._keep("true_properties", part["properties"][row].float().cpu().numpy())
        for name, picture in found.recon.items():
            self._recon.setdefault(_RECON_LABELS.get(name, name), []).append(_pixels(picture[row]))

    def _keep(self, name: str, values: NDArray[Any]) -> None:
        self._parts.setdefault(name, []).append(values)

    def finish(self, name: str) -> DrawnVideo:
        """The video, cut to the longest that is kept."""
        parts = {key: np.concatenate(values)[:DRAWN_FRAMES] for key, values in self._parts.items()}
        recon = {key: np.concatenate(values)[:DRAWN_FRAMES] for key, values in self._recon.items()}
        return DrawnVideo(name, **cast(Any, parts), recon=recon)


def _pixels(pictures: Float[Tensor, "*batch C H W"]) -> NDArray[np.uint8]:
    """As bytes, colour last; one channel (depth) becomes a grey from its least to its greatest value."""
    if pictures.shape[-3] == 1:
        pictures = pictures.float()
        pictures = (pictures - pictures.min()) / (pictures.max() - pictures.min()).clamp(min=1e-6)
        pictures = pictures.expand(*pictures.shape[:-3], 3, *pictures.shape[-2:])
    return np.ascontiguousarray(_bytes(pictures.movedim(-3, -1)))


def _bytes(values: Tensor) -> NDArray[np.uint8]:
    return to_bytes(values).cpu().numpy()

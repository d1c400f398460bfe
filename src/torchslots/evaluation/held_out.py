"""What a training logs of held-out data besides figures: its losses, and where slots look."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchslots.evaluation.evaluate import autocast
from torchslots.evaluation.observers import Findings, Losses, Needs, Observer
from torchslots.io.draw import contact_sheet
from torchslots.models.layers.ranges import to_bytes
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slices import to_device
from torchslots.models.slots.seeding import seeded
from torchslots.models.types import Batch
from torchslots.recipes.config import Recipe


def held_out(
    model: Any, recipe: Recipe, step: int, num_plots: int, device: torch.device, precision: str
) -> list[Observer[Any]]:
    """Observers of the losses on clips as in training and, of a model of slots, of its attention maps.

    Args:
        step: updates done, for losses that follow a schedule.
        num_plots: videos whose maps are kept.
        precision: `fp32`, `bf16` or `fp16`, of the matrix products.
    """
    context, frames = partial(autocast, device, precision), recipe.data.num_frames
    found: list[Observer[Any]] = [Losses(partial(_losses, model, step), device, context, frames)]
    if isinstance(model, ObjectCentricModel):
        found.append(AttentionMaps(model, num_plots, frames, recipe.evaluation.seed, device, context))
    return found


def _losses(model: Any, step: int, batch: Batch) -> dict[str, Tensor]:
    """The losses of a model; none on data without its targets or its hints."""
    needs = model.needs if isinstance(model, ObjectCentricModel) else ()
    return model.loss({**batch, "step": step}) if set(needs) <= set(batch) else {}


class AttentionMaps:
    """Where the slots of a clip's last frame look: an observer that keeps the maps of the first videos.

    Args:
        num_plots: videos.
        frames: of the clip.
        seed: of sampled slots.
        autocast: entered for each batch.
    """

    needs = Needs()

    def __init__(
        self,
        model: ObjectCentricModel,
        num_plots: int,
        frames: int,
        seed: int,
        device: torch.device | str,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._model, self._num_plots, self._frames = model, num_plots, frames
        self._seed, self._device, self._autocast = seed, device, autocast
        self.sheets: list[UInt8[np.ndarray, "H W 3"]] = []
        """A frame and its maps for each video, each map from its least to its greatest value."""

    def add(self, seen: Any, found: Any) -> None:
        """See `Observer`."""

    def finish(self, batch: Batch) -> None:
        rows = min(self._num_plots - len(self.sheets), len(batch["video"]))
        if rows < 1:
            return
        first = {key: value[:rows] for key, value in batch.items() if key != "generator"}
        part = {
            key: value[:, : self._frames] if isinstance(value, Tensor) else value
            for key, value in seeded(first, self._seed).items()
        }
        with self._autocast():
            attn = self._model.encode(to_device(part, self._device), attn=True).attn[:, -1].float().cpu()
        self.sheets += [_sheet(*pair) for pair in zip(part["video"][:, -1].cpu(), attn)]

    def report(self) -> Findings:
        """See `Observer`."""
        return Findings()


def _sheet(frame: Float[Tensor, "3 H W"], attn: Float[Tensor, "K N"]) -> UInt8[np.ndarray, "h w 3"]:
    height, width = frame.shape[1:]
    rows = max(round(math.sqrt(attn.shape[-1] * height / width)), 1)
    maps = attn.unflatten(-1, (rows, -1))
    least, greatest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    grey = to_bytes((maps - least) / (greatest - least).clamp(min=1e-12))
    sized = torch.nn.functional.interpolate(grey[:, None], (height, width), mode="nearest-exact")
    tiles = [to_bytes(frame), *sized.expand(-1, 3, -1, -1)]
    labels = ["input", *(f"attention {slot}" for slot in range(len(maps)))]
    return contact_sheet([np.ascontiguousarray(tile.permute(1, 2, 0).numpy()) for tile in tiles], labels)

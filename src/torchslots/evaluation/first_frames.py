"""Figures of the first frames of each video, beside those of whole videos."""

from dataclasses import replace

import torch
from torch import Tensor

from torchslots.evaluation.observers import Findings, Needs, Segmentation, Slice
from torchslots.models.types import Batch, Prediction
from torchslots.recipes.config import EvalConfig


class FirstFrames:
    """How well slots agree with objects in the first frames of each video; figures are called `..._first_N`.

    Args:
        num_frames: N.
    """

    needs = Needs()

    def __init__(self, config: EvalConfig, num_frames: int, device: torch.device | str = "cpu") -> None:
        self._num_frames = num_frames
        self._figures = Segmentation(replace(config, num_frames=num_frames), device)

    def add(self, seen: Slice, found: Prediction) -> None:
        left = self._num_frames - seen.start
        if left < 1:
            return
        part = {
            key: value[:, :left] if isinstance(value, Tensor) else value for key, value in seen.part.items()
        }
        segmentation, masks = found.segmentation[:, :left], found.masks[:, :left]
        self._figures.add(seen._replace(part=part), found._replace(segmentation=segmentation, masks=masks))

    def finish(self, batch: Batch) -> None:
        self._figures.finish(batch)

    def report(self) -> Findings:
        found, count = self._figures.report(), self._num_frames
        metrics = {f"{name}_first_{count}": value for name, value in found.metrics.items()}
        texts = {
            f"{name}_first_{count}": f"As {name}, of the first {count} frames of each video."
            for name in found.metrics
        }
        return Findings(metrics, texts)

"""How near a set of made videos is to a set of real ones that are not their pairs: FVD and FID together."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from torchslots.metrics.pictures import DEFINITIONS
from torchslots.metrics.video import FrameDistance, VideoDistance

SET_METRICS = ("fvd", "fid")
"""Figures of sets, each with a network of its own."""


class SetDistances:
    """FVD and FID over all processes, each where its network is there.

    Args:
        networks: of `metrics.pictures.load_networks`; others than these two are left alone.
        published_order: see `metrics.video.frame_order`.
    """

    def __init__(
        self,
        networks: Mapping[str, Any],
        published_order: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self._videos = self._frames = None
        if "fvd" in networks:
            self._videos = VideoDistance(networks["fvd"], published_order=published_order, device=device)
        if "fid" in networks:
            self._frames = FrameDistance(networks["fid"], device=device)

    def add(self, frames: UInt8[Tensor, "T 3 h w"], name: str, *, real: bool) -> None:
        """Add a whole video; the name decides where a real one's clip starts."""
        if self._videos is not None:
            self._videos.add(frames[None], [name], real=real)
        if self._frames is not None:
            self._frames.add(frames, real=real)

    def compute(self) -> tuple[dict[str, float], dict[str, str], list[str]]:
        """Figures, what each means, and what a reader should know; every process must ask."""
        figures: dict[str, float] = {}
        notes = []
        if self._videos is not None:
            figures["fvd"] = self._videos.compute()
            if too_short := self._videos.too_short():
                notes.append(f"FVD leaves out {too_short} videos, real or made, shorter than its clips.")
        if self._frames is not None:
            figures["fid"] = self._frames.compute()
        found = {name: value for name, value in figures.items() if math.isfinite(value)}
        return found, {name: DEFINITIONS[name] for name in found}, notes

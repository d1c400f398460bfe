"""Evaluate tokenizers, alone and inside a decoder: the distance of reconstructed frames to the true ones."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchslots.evaluation.observers import (
    Findings,
    Needs,
    Observer,
    Reconstructed,
    ReconstructionFigures,
    Slice,
)
from torchslots.io.devices import figures_device
from torchslots.metrics.reconstruction import LABELS, ReconstructionScores, load_networks
from torchslots.models.layers.ranges import from_signed, to_signed
from torchslots.models.tokenizers.base import Tokenizer
from torchslots.models.types import Batch, State

_CEILING = "_ceiling"
_PAIRED = ("mse", "psnr", "ssim", "lpips_vgg", "lpips_alex")
CEILING_LABELS = {f"{name}{_CEILING}": f"{LABELS[name]}, tokenizer alone" for name in _PAIRED}


class Reconstruction(NamedTuple):
    """A slice of frames reconstructed by a tokenizer, in [0, 1]."""

    recon: dict[str, Float[Tensor, "B t 3 H W"]]
    state: Any = None
    """Always None: frames are independent of each other."""


def reconstruct_step(
    model: Tokenizer, autocast: Callable[[], AbstractContextManager[Any]]
) -> Callable[[Batch, State | None, Needs], Reconstruction]:
    """The step of `evaluate.run_pass` for a tokenizer."""

    def step(part: Batch, state: State | None, needs: Needs) -> Reconstruction:
        video: Tensor = part["video"]
        frames = to_signed(video.flatten(0, 1))
        with autocast():
            found = model.reconstruct(frames)
        return Reconstruction({"video": from_signed(found.float()).unflatten(0, video.shape[:2])})

    return step


def missing_figures(observers: Sequence[Observer[Any]], device: torch.device) -> list[ReconstructionFigures]:
    """The observer of reconstructions, unless it is among `observers`."""
    if any(isinstance(observer, ReconstructionFigures) for observer in observers):
        return []
    networks, notes = perceptual_network()
    return [ReconstructionFigures(ReconstructionScores(networks, device=device), notes)]


@lru_cache(maxsize=1)
def perceptual_network() -> tuple[dict[str, Any], list[str]]:
    """LPIPS on VGG16 if its public weights are on this machine, otherwise a note on where to get them."""
    return load_networks(("lpips_vgg",))


class Ceiling:
    """Metrics of frames encoded and decoded by a decoder's tokenizer alone, about the best for frames of slots.

    Args:
        round_trip: the decoder's, from and to frames in [0, 1].
        networks: as for `ReconstructionScores`; those that compare pairs of images are used.
    """

    needs = Needs()

    def __init__(
        self,
        round_trip: Callable[[Float[Tensor, "n 3 H W"]], Float[Tensor, "n 3 H W"]],
        networks: Mapping[str, Any],
        device: torch.device | str = "cpu",
    ) -> None:
        paired = {name: network for name, network in networks.items() if name in _PAIRED}
        self._round_trip, self._device = round_trip, torch.device(device)
        self._scores = ReconstructionScores(paired, device=figures_device(device))

    def add(self, seen: Slice, found: Reconstructed) -> None:
        video: Tensor = seen.part["video"].to(self._device)
        back = self._round_trip(video.flatten(0, 1)).unflatten(0, video.shape[:2])
        self._scores.add(back, video, seen.part.get("padding_mask"))

    def finish(self, batch: Batch) -> None:
        """See `Observer`."""

    def report(self) -> Findings:
        metrics, _ = self._scores.compute()
        frames = (
            "frames that the model's tokenizer reconstructs without slots, about the best for the decoder"
        )
        definitions = {f"{name}{_CEILING}": f"As {name}, of {frames}." for name in metrics}
        return Findings({f"{name}{_CEILING}": value for name, value in metrics.items()}, definitions)

"""Evaluation of a tokenizer: its step is to reconstruct frames, its figures say how near they come."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchslots.evaluation.observers import Needs, Observer, ReconstructionFigures
from torchslots.metrics.reconstruction import PictureScores, load_networks
from torchslots.models.layers.ranges import from_signed, to_signed
from torchslots.models.tokenizers.base import Tokenizer
from torchslots.models.types import Batch, State


class Reconstruction(NamedTuple):
    """What a tokenizer makes of a slice of frames, in [0, 1]."""

    recon: dict[str, Float[Tensor, "B t 3 H W"]]
    state: Any = None
    """Nothing: frames are independent of each other."""


def reconstruct_step(
    model: Tokenizer, autocast: Callable[[], AbstractContextManager[Any]]
) -> Callable[[Batch, State | None, Needs], Reconstruction]:
    """What `evaluate.run_pass` does with each slice."""

    def step(part: Batch, state: State | None, needs: Needs) -> Reconstruction:
        video: Tensor = part["video"]
        frames = to_signed(video.flatten(0, 1))
        with autocast():
            found = model.reconstruct(frames)
        return Reconstruction({"video": from_signed(found.float()).unflatten(0, video.shape[:2])})

    return step


def missing_figures(observers: Sequence[Observer[Any]], device: torch.device) -> list[ReconstructionFigures]:
    """Figures of reconstructions, unless one of the observers gives them."""
    if any(isinstance(observer, ReconstructionFigures) for observer in observers):
        return []
    networks, notes = perceptual_network()
    return [ReconstructionFigures(PictureScores(networks, device=device), notes)]


@lru_cache(maxsize=1)
def perceptual_network() -> tuple[dict[str, Any], list[str]]:
    """LPIPS on VGG16 where its public weights are on this machine, else a sentence on where to get them."""
    return load_networks(("lpips_vgg",))

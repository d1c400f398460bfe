"""Fréchet distances between sets of generated and real videos, of clips (FVD) and of frames (FID).

FVD (Unterthiner et al., 2018) in the protocol `fvd2048_16f` of StyleGAN-V (Skorokhodov et al., 2022), see
docs/fidelity.md: one clip of 16 frames of each video, 8-bit frames resized to 224x224, I3D's 400 logits, covariances
divided by the number of clips.
"""

import random
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torchmetrics import SumMetric

from torchslots.io.errors import UserError
from torchslots.metrics.frechet import FrechetDistance
from torchslots.metrics.networks import i3d

CLIP_FRAMES = 16
_CLIPS_AT_ONCE, _FRAMES_AT_ONCE = 8, 32


class Features(Protocol):
    """A network from images to features [n, num_features]."""

    num_features: int

    def __call__(self, images: Tensor) -> Tensor: ...

    def to(self, device: torch.device) -> Any: ...


def frame_order(num_frames: int, as_published: bool = False) -> list[int]:
    """The order in which the frames of a video are read.

    Args:
        as_published: 0, 1, 10, 11, ..., 19, 2, 20, ...: StyleGAN-V sorts file names as text, and SlotDiffusion writes
            `10.png` without leading zeros. Both sets have this order, so their clips are not in temporal order.
    """
    return sorted(range(num_frames), key=str) if as_published else list(range(num_frames))


def clip_start(name: str, num_frames: int, clip_frames: int, seed: int) -> int:
    """First frame of a real video's clip, sampled from the video's name and a seed."""
    return random.Random(f"{seed}/{name}").randint(0, num_frames - clip_frames)


@torch.no_grad()
def clip_features(network: Features, clips: UInt8[Tensor, "B T 3 H W"]) -> Float[Tensor, "B D"]:
    """I3D's logits of 8-bit clips."""
    features = []
    for part in clips.split(_CLIPS_AT_ONCE):
        frames = F.interpolate(
            part.flatten(0, 1).float(), (i3d.SIZE,) * 2, mode="bilinear", align_corners=False
        )
        features.append(network((frames * 2 / 255 - 1).unflatten(0, part.shape[:2]).transpose(1, 2)))
    return torch.cat(features)


@torch.no_grad()
def frame_features(network: Features, frames: UInt8[Tensor, "n 3 H W"]) -> Float[Tensor, "n D"]:
    """Inception's features of 8-bit frames."""
    return torch.cat([network(part.float() / 255) for part in frames.split(_FRAMES_AT_ONCE)])


class VideoDistance:
    """FVD between real and generated videos over all processes; 0 is best.

    Args:
        network: clips [B, 3, T, 224, 224] in [-1, 1] to features, as `i3d.load_i3d()`.
        clip_frames: frames of a clip; shorter videos are left out.
        seed: of the real clips' starts, which StyleGAN-V samples in every run; generated clips start at frame 0.
        published_order: see `frame_order`.

    Raises:
        UserError: clips of fewer than `i3d.MIN_FRAMES` frames.
    """

    def __init__(
        self,
        network: Features,
        *,
        clip_frames: int = CLIP_FRAMES,
        seed: int = 0,
        published_order: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if clip_frames < i3d.MIN_FRAMES:
            raise UserError(
                f"Clips for the Fréchet video distance need at least {i3d.MIN_FRAMES} frames, got {clip_frames}. "
                f"{CLIP_FRAMES} is what is published."
            )
        self._network, self._device = network.to(torch.device(device)), torch.device(device)
        self._clip_frames, self._seed, self._published_order = clip_frames, seed, published_order
        self._distance = _started(network.num_features, unbiased=False, device=self._device)
        self._too_short = SumMetric().to(self._device)
        self._too_short.update(0)

    def add(self, videos: UInt8[Tensor, "B T 3 H W"], names: Sequence[str], *, real: bool) -> None:
        """Add whole 8-bit videos of T frames; real clips start at frames sampled from the videos' names."""
        num_frames = videos.shape[1]
        if num_frames < self._clip_frames:
            self._too_short.update(len(videos))
            return
        order = frame_order(num_frames, self._published_order)
        clips = []
        for video, name in zip(videos, names):
            start = clip_start(name, num_frames, self._clip_frames, self._seed) if real else 0
            clips.append(video[order[start : start + self._clip_frames]])
        self._distance.update(clip_features(self._network, torch.stack(clips).to(self._device)), real)

    def compute(self) -> float:
        """The distance; NaN with fewer than two videos of a kind."""
        return float(self._distance.compute())

    def too_short(self) -> int:
        """Number of videos, real and generated, that were left out by all processes."""
        return int(self._too_short.compute())


class FrameDistance:
    """FID between real and generated frames over all processes; 0 is best.

    Args:
        network: images [n, 3, H, W] in [0, 1] to features, as `inception.load_inception()`.
    """

    def __init__(self, network: Features, *, device: torch.device | str = "cpu") -> None:
        self._network, self._device = network.to(torch.device(device)), torch.device(device)
        self._distance = _started(network.num_features, unbiased=True, device=self._device)

    def add(self, frames: UInt8[Tensor, "n 3 H W"], *, real: bool) -> None:
        """Add 8-bit frames."""
        if len(frames):
            self._distance.update(frame_features(self._network, frames.to(self._device)), real)

    def compute(self) -> float:
        """The distance; NaN with fewer than two frames of a kind."""
        return float(self._distance.compute())


def _started(num_features: int, unbiased: bool, device: torch.device) -> FrechetDistance:
    """A distance on the device, updated once without features, since a process may get no video."""
    distance = FrechetDistance(num_features, unbiased).to(device)
    distance.update(torch.zeros(0, num_features, device=device), real=True)
    return distance

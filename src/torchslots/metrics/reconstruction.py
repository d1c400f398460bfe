"""Metrics of reconstructed videos, added slice by slice, and distances between sets of videos."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torchmetrics import MeanMetric

from torchslots.io.counts import count_text
from torchslots.io.errors import UserError, nearest
from torchslots.metrics.image import psnr, squared_error, ssim
from torchslots.metrics.lpips import load_lpips
from torchslots.metrics.networks.i3d import load_i3d
from torchslots.metrics.networks.inception import load_inception
from torchslots.metrics.networks.weights import MissingWeights
from torchslots.metrics.video import FrameDistance, VideoDistance
from torchslots.models.layers.ranges import to_bytes, to_signed

DEFINITIONS: dict[str, str] = {
    "mse": "Squared error of a frame in [0, 1], summed over channels and pixels; mean over all frames.",
    "psnr": "Peak signal-to-noise ratio of a frame in dB; mean over all frames.",
    "ssim": "Structural similarity of a frame (Gaussian window of 11 pixels and standard deviation 1.5, population "
    "covariance, windows inside the frame); mean over channels and all frames; 1 is equal.",
    "lpips_vgg": "LPIPS v0.1 on VGG16, images in [-1, 1], not clipped; mean over all frames; 0 is equal.",
    "lpips_alex": "As lpips_vgg, on AlexNet.",
    "fid": "Fréchet distance of Inception-v3 features (2048, the network of pytorch-fid) between all made and all real "
    "frames; 0 is best. It falls with the number of frames: compare only equal numbers.",
    "fvd": "Fréchet distance of I3D logits (Kinetics-400) between made and real videos, one clip each, protocol "
    "fvd2048_16f of StyleGAN-V with frames in their true order; 0 is best. It falls with the number of videos.",
}
"""What each figure of `ReconstructionScores.compute` means."""
LABELS: dict[str, str] = {
    "mse": "MSE (sum over a frame)",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips_vgg": "LPIPS (VGG16)",
    "lpips_alex": "LPIPS (AlexNet)",
    "fid": "FID",
    "fvd": "FVD",
}
"""Names of the same figures in tables."""
_SMALLEST_SSIM = 11
_FRAMES_AT_ONCE = 32
_AT_PIXELS = {"mse": squared_error, "psnr": psnr, "ssim": ssim}
_PERCEPTUAL = ("lpips_vgg", "lpips_alex")

_LOADERS: dict[str, Callable[..., Any]] = {
    "lpips_vgg": lambda get, **how: load_lpips("vgg", get("vgg16"), get("lpips_vgg"), **how),
    "lpips_alex": lambda get, **how: load_lpips("alex", get("alexnet"), get("lpips_alex"), **how),
    "fid": lambda get, **how: load_inception(get("inception"), **how),
    "fvd": lambda get, **how: load_i3d(get("i3d"), **how),
}
"""Loader of each metric's network; `get` maps the name of a public file to its path or None."""
NETWORK_METRICS = tuple(_LOADERS)
"""Metrics that need a public file of weights."""
SET_METRICS = ("fvd", "fid")
"""Metrics of sets of videos or frames."""


def load_networks(
    metrics: Iterable[str] = NETWORK_METRICS,
    files: Mapping[str, Path] | None = None,
    *,
    download: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """The networks of the metrics whose weights are found, and a note for each metric that is left out.

    Args:
        metrics: of `NETWORK_METRICS`.
        files: paths of public files by name (`networks.weights.FILES`); others are read from the cache.
        download: whether missing files may be downloaded; VGG16's has 528 MB.

    Raises:
        UserError: an unknown metric, or a file that is not the published one.
    """
    networks, notes = {}, []
    for name in metrics:
        if name not in _LOADERS:
            raise UserError(f"There is no figure `{name}` of this kind. {nearest(name, _LOADERS)}")
        try:
            networks[name] = _LOADERS[name]((files or {}).get, download=download)
        except MissingWeights as error:
            notes.append(f"{LABELS[name]} is left out: {error}")
    return networks, notes


class SetDistances:
    """FVD and FID between real and generated videos over all processes, each if its network is given.

    Args:
        networks: from `load_networks`; those of other metrics are ignored.
        published_order: FVD with frames in the order of the published figures, see `metrics.video.frame_order`.
    """

    def __init__(
        self, networks: Mapping[str, Any], published_order: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        self.videos = self.frames = None
        if "fvd" in networks:
            self.videos = VideoDistance(networks["fvd"], published_order=published_order, device=device)
        if "fid" in networks:
            self.frames = FrameDistance(networks["fid"], device=device)

    def add(self, frames: UInt8[Tensor, "T 3 h w"], name: str, *, real: bool) -> None:
        """Add a whole video; a real one's clip starts at a frame sampled from its name."""
        if self.videos is not None:
            self.videos.add(frames[None], [name], real=real)
        if self.frames is not None:
            self.frames.add(frames, real=real)

    def figures(self) -> dict[str, float]:
        """The distances by name, NaN with fewer than two features of a kind; every process must call it."""
        found = {"fvd": self.videos, "fid": self.frames}
        return {name: distance.compute() for name, distance in found.items() if distance is not None}

    def compute(self) -> tuple[dict[str, float], dict[str, str], list[str]]:
        """Finite figures, their definitions, and notes for the reader; every process must call it."""
        found = {name: value for name, value in self.figures().items() if math.isfinite(value)}
        notes = []
        if self.videos is not None and (too_short := self.videos.too_short()):
            notes.append(
                f"FVD leaves out {count_text(too_short, 'video')}, real or generated, shorter than its clips."
            )
        return found, {name: DEFINITIONS[name] for name in found}, notes


class ReconstructionScores:
    """Reconstruction metrics of batches of videos: `add` each slice in order, then `finish` the batch.

    `compute` sums over all processes when torch.distributed runs; then every process must call it. FVD stores the 8-bit
    frames of one batch until its end; otherwise memory does not grow with the length of videos.

    Args:
        networks: from `load_networks`; metrics without a network are not computed.
        published_order: see `SetDistances`.
    """

    def __init__(
        self,
        networks: Mapping[str, Any] | None = None,
        *,
        published_order: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        networks = networks or {}
        self._device = torch.device(device)
        self._perceptual = {
            name: networks[name].to(self._device).eval() for name in _PERCEPTUAL if name in networks
        }
        self._means = {name: self._mean() for name in (*_AT_PIXELS, *self._perceptual)}
        self._sets = SetDistances(networks, published_order, self._device)
        self._batch: list[tuple[Tensor, Tensor, Tensor]] = []

    def _mean(self) -> MeanMetric:
        """Mean over frames in float64; updated once without frames, since a process may get none."""
        mean = MeanMetric(nan_strategy="disable").to(self._device)
        mean.set_dtype(torch.float64)
        mean.update(torch.zeros(0, device=self._device))
        return mean

    @torch.no_grad()
    def add(
        self,
        made: Float[Tensor, "B T 3 H W"],
        real: Float[Tensor, "B T 3 H W"],
        padding_mask: Bool[Tensor, "B T H W"] | None = None,
    ) -> None:
        """Add frames of the current batch, in [0, 1]; other values are clipped, except for LPIPS.

        Args:
            padding_mask: False on pixels of padding; frames that are all padding are left out.
        """
        made, real = made.to(self._device).float(), real.to(self._device).float()
        shown = real_frames(real, padding_mask)
        for parts in zip(made[shown].split(_FRAMES_AT_ONCE), real[shown].split(_FRAMES_AT_ONCE)):
            self._add_frames(*parts)
        if self._sets.videos is not None:
            self._batch.append((to_bytes(made), to_bytes(real), shown))

    def _add_frames(self, made: Float[Tensor, "n 3 H W"], real: Float[Tensor, "n 3 H W"]) -> None:
        for name, figure in _AT_PIXELS.items():
            if name != "ssim" or min(made.shape[-2:]) >= _SMALLEST_SSIM:
                self._means[name].update(figure(made.clamp(0, 1), real.clamp(0, 1)))
        for name, network in self._perceptual.items():
            self._means[name].update(network(to_signed(made), to_signed(real)))
        if self._sets.frames is not None:
            self._sets.frames.add(to_bytes(made), real=False)
            self._sets.frames.add(to_bytes(real), real=True)

    def finish(self, names: Sequence[str]) -> None:
        """End the current batch; FVD's real clips start at frames sampled from the videos' names."""
        if self._sets.videos is None:
            return
        made, real, shown = (torch.cat(parts, dim=1) for parts in zip(*self._batch))
        self._batch = []
        lengths = shown.sum(1)
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero().flatten().tolist()
            named = [str(names[row]) for row in rows]
            for videos, is_real in ((made, False), (real, True)):
                whole = torch.stack([videos[row, shown[row]] for row in rows])
                self._sets.videos.add(whole, named, real=is_real)

    def compute(self) -> tuple[dict[str, float], list[str]]:
        """Finite figures by name, and notes for the reader."""
        figures = {name: float(mean.compute()) for name, mean in self._means.items()} | self._sets.figures()
        notes = ["PSNR is left out: a frame equals its target."] if math.isinf(figures["psnr"]) else []
        if self._sets.videos is not None and (too_short := self._sets.videos.too_short() // 2):
            notes.append(f"FVD leaves out {count_text(too_short, 'video')}, shorter than its clips.")
        finite = {name: figures[name] for name in DEFINITIONS if math.isfinite(figures.get(name, math.nan))}
        return finite, notes


def real_frames(
    video: Float[Tensor, "B T 3 H W"], padding_mask: Bool[Tensor, "B T H W"] | None
) -> Bool[Tensor, "B T"]:
    """Which frames are not padding; None: all."""
    if padding_mask is None:
        return torch.ones(video.shape[:2], dtype=torch.bool, device=video.device)
    return padding_mask.to(video.device).flatten(2).any(-1)

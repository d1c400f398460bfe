"""All figures of reconstructed videos that arrive slice by slice, and what each of them means."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torchmetrics import MeanMetric

from torchslots.io.errors import UserError, nearest
from torchslots.metrics.image import psnr, squared_error, ssim
from torchslots.metrics.lpips import load_lpips
from torchslots.metrics.networks.i3d import load_i3d
from torchslots.metrics.networks.inception import load_inception
from torchslots.metrics.networks.weights import MissingWeights
from torchslots.metrics.video import CLIP_FRAMES, FrameDistance, VideoDistance
from torchslots.models.layers.ranges import to_bytes, to_signed

DEFINITIONS: dict[str, str] = {
    "mse": "Squared error of a frame in [0, 1], summed over channels and pixels; mean over all frames.",
    "psnr": "Peak signal-to-noise ratio of a frame in dB; mean over all frames.",
    "ssim": "Structural similarity of a frame (Gaussian window of 11 pixels and standard deviation 1.5, population "
    "covariance, windows inside the frame); mean over channels and all frames; 1 is equal.",
    "lpips_vgg": "LPIPS v0.1 on VGG16, pictures in [-1, 1], not clipped; mean over all frames; 0 is equal.",
    "lpips_alex": "As lpips_vgg, on AlexNet.",
    "fid": "Fréchet distance of Inception-v3 features (2048, the network of pytorch-fid) between all made and all real "
    "frames; 0 is best. It falls with the number of frames: compare only equal numbers.",
    "fvd": "Fréchet distance of I3D logits (Kinetics-400) between made and real videos, one clip each, protocol "
    "fvd2048_16f of StyleGAN-V with frames in their true order; 0 is best. It falls with the number of videos.",
}
"""What each figure of `PictureScores.compute` means."""
LABELS: dict[str, str] = {
    "mse": "MSE (sum over a frame)",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips_vgg": "LPIPS (VGG16)",
    "lpips_alex": "LPIPS (AlexNet)",
    "fid": "FID",
    "fvd": "FVD",
}
"""The same figures as a reader's table names them."""
_SMALLEST_SSIM = 11
_FRAMES_AT_ONCE = 32
_AT_PIXELS = {"mse": squared_error, "psnr": psnr, "ssim": ssim}
_PERCEPTUAL = ("lpips_vgg", "lpips_alex")

Loader = Callable[[Mapping[str, Path], bool], Any]


def _load_lpips(network: str, trunk: str, files: Mapping[str, Path], download: bool) -> Any:
    heads = files.get(f"lpips_{network}")
    return load_lpips("vgg" if network == "vgg" else "alex", files.get(trunk), heads, download=download)


_LOADERS: dict[str, Loader] = {
    "lpips_vgg": partial(_load_lpips, "vgg", "vgg16"),
    "lpips_alex": partial(_load_lpips, "alex", "alexnet"),
    "fid": lambda files, download: load_inception(files.get("inception"), download=download),
    "fvd": lambda files, download: load_i3d(files.get("i3d"), download=download),
}
NETWORK_METRICS = tuple(_LOADERS)
"""Figures that need a public file of weights."""


def load_networks(
    metrics: Iterable[str] = NETWORK_METRICS,
    files: Mapping[str, Path] | None = None,
    *,
    download: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """The networks of the figures whose weights are here, and a sentence for each figure that must be left out.

    Args:
        metrics: of `NETWORK_METRICS`.
        files: name of a public file (`networks.weights.FILES`) to the file; others are looked for in the cache.
        download: whether files that are not here may be brought; VGG16's has 528 MB.

    Raises:
        UserError: unknown figure; a file that is there and is not what it should be.
    """
    networks, notes = {}, []
    for name in metrics:
        if name not in _LOADERS:
            raise UserError(f"There is no figure `{name}` of this kind. {nearest(name, _LOADERS)}")
        try:
            networks[name] = _LOADERS[name](files or {}, download)
        except MissingWeights as error:
            notes.append(f"{LABELS[name]} is left out: {error}")
    return networks, notes


class PictureScores:
    """Adds up a batch of videos slice by slice: `add` for each slice in order, then `finish`.

    `compute` sums over all processes when torch.distributed runs; then every process must call it. For FVD the 8-bit
    frames of one batch are kept until its end; nothing else grows with the length of videos.

    Args:
        networks: what `load_networks` found; figures without a network are not computed.
        seed: of the starts of real clips for FVD.
        clip_frames: of FVD's clips.
        published_order: FVD with frames in the order of the published figures, see `metrics.video.frame_order`.
    """

    def __init__(
        self,
        networks: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        clip_frames: int = CLIP_FRAMES,
        published_order: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        networks = networks or {}
        self._device = torch.device(device)
        self._perceptual = {
            name: networks[name].to(self._device).eval() for name in _PERCEPTUAL if name in networks
        }
        self._means = {name: self._mean() for name in (*_AT_PIXELS, *self._perceptual)}
        self._frames = FrameDistance(networks["fid"], device=self._device) if "fid" in networks else None
        self._videos = None
        if "fvd" in networks:
            self._videos = VideoDistance(
                networks["fvd"],
                clip_frames=clip_frames,
                seed=seed,
                published_order=published_order,
                device=self._device,
            )
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def _mean(self) -> MeanMetric:
        """Over all frames of all processes, in float64; updated without a frame, for a process may be given none."""
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
        """Add frames of the current batch, in [0, 1]; what is beyond is clipped, save for LPIPS.

        Args:
            padding_mask: False on pixels of padding; frames that are nothing else are left out.
        """
        made, real = made.to(self._device).float(), real.to(self._device).float()
        shown = _shown(real, padding_mask)
        for part_made, part_real in zip(
            made[shown].split(_FRAMES_AT_ONCE), real[shown].split(_FRAMES_AT_ONCE)
        ):
            self._add_frames(part_made, part_real)
        if self._videos is not None:
            self._kept.append((to_bytes(made), to_bytes(real), shown))

    def _add_frames(self, made: Float[Tensor, "n 3 H W"], real: Float[Tensor, "n 3 H W"]) -> None:
        for name, figure in _AT_PIXELS.items():
            if name != "ssim" or min(made.shape[-2:]) >= _SMALLEST_SSIM:
                self._means[name].update(figure(made.clamp(0, 1), real.clamp(0, 1)))
        for name, network in self._perceptual.items():
            self._means[name].update(network(to_signed(made), to_signed(real)))
        if self._frames is not None:
            self._frames.add(to_bytes(made), real=False)
            self._frames.add(to_bytes(real), real=True)

    def finish(self, names: Sequence[str]) -> None:
        """The videos of the current batch are complete; their names decide where FVD's real clips start."""
        if self._videos is None:
            return
        made, real, shown = (torch.cat(parts, dim=1) for parts in zip(*self._kept))
        self._kept = []
        lengths = shown.sum(1)
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero().flatten().tolist()
            named = [str(names[row]) for row in rows]
            for videos, is_real in ((made, False), (real, True)):
                whole = torch.stack([videos[row, shown[row]] for row in rows])
                self._videos.add(whole, named, real=is_real)

    def compute(self) -> tuple[dict[str, float], list[str]]:
        """Figures by name, and what a reader should know; figures that are not finite are left out."""
        figures = {name: float(mean.compute()) for name, mean in self._means.items()}
        if self._frames is not None:
            figures["fid"] = self._frames.compute()
        notes = ["PSNR is left out: a frame equals its target."] if math.isinf(figures["psnr"]) else []
        if self._videos is not None:
            figures["fvd"] = self._videos.compute()
            if too_short := self._videos.too_short() // 2:
                notes.append(f"FVD leaves out {too_short} videos that are shorter than its clips.")
        return {name: value for name, value in figures.items() if math.isfinite(value)}, notes


def _shown(
    video: Float[Tensor, "B T 3 H W"], padding_mask: Bool[Tensor, "B T H W"] | None
) -> Bool[Tensor, "B T"]:
    """Frames that are not padding."""
    if padding_mask is None:
        return torch.ones(video.shape[:2], dtype=torch.bool, device=video.device)
    return padding_mask.to(video.device).flatten(2).any(-1)


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

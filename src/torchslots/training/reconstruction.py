"""Judging an image code on whole videos: how near what it gives back is to what went in."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from torchslots.draw import contact_sheet
from torchslots.errors import UserError
from torchslots.latents.tokenizer import Tokenizer
from torchslots.metrics.image import psnr, ssim
from torchslots.nn.ranges import from_signed, to_signed
from torchslots.shapes import Batch
from torchslots.training.drawn import DRAWN_FRAMES
from torchslots.training.evaluate import DTYPES, EvalReport
from torchslots.training.gathering import gather, is_first_process
from torchslots.training.recipe import EvalConfig

DEFINITIONS = {
    "psnr": "Peak signal-to-noise ratio in dB of each frame that the image code gives back, pictures in [0, 1]; mean "
    "over the frames of a video, then over videos.",
    "mse": "Squared error of those frames, mean over colours and pixels, then as psnr.",
    "ssim": "Structural similarity of those frames (Wang et al., 2004), Gaussian window of 11 pixels; then as psnr.",
}
"""What each figure means. Reconstructions are clipped to [0, 1] first."""
_LEAST_SIDE = 11


@dataclass(frozen=True)
class DrawnPair:
    """A video [T, H, W, 3] and what an image code gave back, in bytes, to be drawn later; at most 48 frames."""

    name: str
    video: NDArray[np.uint8]
    reconstruction: NDArray[np.uint8]

    def panel(self, tile: int = 128) -> NDArray[np.uint8]:
        """Input and reconstruction side by side, labelled [T, H', W', 3]."""
        labels = ["input", "reconstruction"]
        pairs = zip(self.video, self.reconstruction)
        return np.stack([contact_sheet(pair, labels, tile=tile) for pair in pairs])


@torch.no_grad()
def evaluate_tokenizer(
    model: nn.Module,
    batches: Iterable[Batch],
    config: EvalConfig,
    *,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    draw: int = 4,
) -> EvalReport:
    """Judge a `Tokenizer` on whole videos; figures and arguments as `torchslots.training.evaluate.evaluate`.

    `config.slice_size` frames go through it at once; frames that are padding are left out.

    Raises:
        UserError: no videos.
    """
    run = _Reconstruction(cast(Tokenizer, model), config, torch.device(device), precision, draw)
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            run.judge(batch)
    finally:
        model.train(was_training)
    return run.report()


class _Reconstruction:
    """The sums of one evaluation in progress."""

    def __init__(
        self, model: Tokenizer, config: EvalConfig, device: torch.device, precision: str, draw: int
    ) -> None:
        self._model, self._config, self._device, self._precision = model, config, device, precision
        self._draw = draw if is_first_process() else 0
        self._sums: dict[str, float] = {}
        self._panels: list[DrawnPair] = []
        self._videos = 0

    def judge(self, batch: Batch) -> None:
        """Take one batch of whole videos through the image code."""
        video: Tensor = batch["video"][:, : self._config.num_frames]
        found = torch.cat([self._back(part) for part in video.split(self._config.slice_size, 1)], 1)
        for row, (true, back) in enumerate(zip(video, found)):
            true, back = (frames[_real(batch, row, len(frames))] for frames in (true, back))
            for name, value in _figures(back, true):
                self._sums[name] = self._sums.get(name, 0.0) + value
            if len(self._panels) < self._draw:
                name = batch["name"][row] if "name" in batch else ""
                self._panels.append(DrawnPair(name, _bytes(true), _bytes(back)))
        self._videos += len(video)

    def _back(self, video: Float[Tensor, "B t 3 H W"]) -> Float[Tensor, "B t 3 H W"]:
        frames = to_signed(video.flatten(0, 1).to(self._device, non_blocking=True))
        dtype = DTYPES.get(self._precision)
        with nullcontext() if dtype is None else torch.autocast(self._device.type, dtype):
            found = self._model.reconstruct(frames)
        return from_signed(found.float()).clamp(0, 1).cpu().unflatten(0, video.shape[:2])

    def report(self) -> EvalReport:
        """All that was found, by all processes."""
        parts = gather((self._videos, self._sums))
        videos = sum(part[0] for part in parts)
        if not videos:
            raise UserError(
                "There is no video to evaluate. Check the data folder, the split and `num_videos`."
            )
        names = dict.fromkeys(name for part in parts for name in part[1])
        figures = {name: sum(part[1].get(name, 0.0) for part in parts) / videos for name in names}
        definitions = {name: DEFINITIONS[name] for name in figures}
        settings = {**asdict(self._config), "precision": self._precision}
        return EvalReport(figures, {}, videos, definitions, [], settings, self._panels)


def _real(batch: Batch, row: int, num_frames: int) -> Tensor:
    """Which frames of a video are no padding."""
    if "padding_mask" not in batch:
        return torch.ones(num_frames, dtype=torch.bool)
    return batch["padding_mask"][row, :num_frames].flatten(1).any(1).cpu()


def _figures(found: Float[Tensor, "T 3 H W"], true: Float[Tensor, "T 3 H W"]) -> Iterator[tuple[str, float]]:
    """Of one video; small pictures have no structural similarity."""
    yield "psnr", float(psnr(found, true).mean())
    yield "mse", float((found.double() - true.double()).square().mean())
    if min(true.shape[-2:]) >= _LEAST_SIDE:
        yield "ssim", float(ssim(found, true).mean())


def _bytes(video: Float[Tensor, "T 3 H W"]) -> NDArray[np.uint8]:
    """[T, H, W, 3], the first frames."""
    pictures = (video[:DRAWN_FRAMES].clamp(0, 1) * 255).round().to(torch.uint8)
    return pictures.permute(0, 2, 3, 1).numpy()

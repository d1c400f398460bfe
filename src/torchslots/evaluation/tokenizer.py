"""Judging an image code on whole videos: how near what it gives back is to what went in."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from torchslots.evaluation.evaluate import autocast, require_videos, run_pass
from torchslots.evaluation.observers import DRAWN_FRAMES, Observer, merged
from torchslots.evaluation.report import EvalReport
from torchslots.io.draw import contact_sheet
from torchslots.io.processes import gather, is_first_process
from torchslots.metrics.reconstruction import DEFINITIONS, PictureScores, load_networks
from torchslots.models.layers.ranges import from_signed, to_bytes, to_signed
from torchslots.models.slices import cut
from torchslots.models.tokenizers.base import Tokenizer
from torchslots.models.types import Batch
from torchslots.recipes.config import EvalConfig


@dataclass(frozen=True)
class PlottedPair:
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
    onlookers: Sequence[Observer] = (),
) -> EvalReport:
    """Judge a `Tokenizer` on whole videos; figures and arguments as `torchslots.evaluation.evaluate.evaluate`.

    `config.slice_size` frames go through it at once; frames that are padding are left out.

    Raises:
        UserError: no videos.
    """
    run = _Reconstruction(cast(Tokenizer, model), config, torch.device(device), precision, draw, onlookers)
    return run_pass(run, model, batches)


class _Reconstruction:
    """The sums of one evaluation in progress."""

    def __init__(
        self,
        model: Tokenizer,
        config: EvalConfig,
        device: torch.device,
        precision: str,
        draw: int,
        onlookers: Sequence[Observer],
    ) -> None:
        self._model, self._config, self._device, self._precision = model, config, device, precision
        self._draw, self._onlookers = draw if is_first_process() else 0, onlookers
        networks, self._notes = perceptual_network()
        self._scores = PictureScores(networks, device=device)
        self._panels: list[PlottedPair] = []
        self._videos = 0

    def judge(self, batch: Batch) -> None:
        """Take one batch of whole videos through the image code."""
        video: Tensor = batch["video"][:, : self._config.num_frames]
        mask: Tensor | None = batch.get("padding_mask")
        names = batch.get("name", [""] * len(video))
        rows = range(min(self._draw - len(self._panels), len(video)))
        kept: list[list[Tensor]] = [[] for _ in rows]
        for part in cut(batch, self._config.slice_size, self._config.num_frames):
            found = self._back(part["video"])
            self._scores.add(found, part["video"], part.get("padding_mask"))
            for onlooker in self._onlookers:
                onlooker.add(found, part)
            for row in rows:
                kept[row].append(found[row].cpu())
        self._scores.finish(names)
        for onlooker in self._onlookers:
            onlooker.finish(batch)
        for row, parts in zip(rows, kept):
            real = slice(None) if mask is None else mask[row, : video.shape[1]].flatten(1).any(1)
            self._panels.append(
                PlottedPair(names[row], _bytes(video[row][real]), _bytes(torch.cat(parts)[real]))
            )
        self._videos += len(video)

    def _back(self, video: Float[Tensor, "B t 3 H W"]) -> Float[Tensor, "B t 3 H W"]:
        frames = to_signed(video.flatten(0, 1).to(self._device, non_blocking=True))
        with autocast(self._device, self._precision):
            found = self._model.reconstruct(frames)
        return from_signed(found.float()).unflatten(0, video.shape[:2])

    def report(self) -> EvalReport:
        """All that was found, by all processes."""
        videos = sum(gather(self._videos))
        require_videos(videos)
        figures, notes = self._scores.compute()
        looked = merged(self._onlookers)
        definitions = {name: DEFINITIONS[name] for name in figures} | looked.definitions
        settings = {**asdict(self._config), "precision": self._precision}
        left_out = [] if "lpips_vgg" in looked.figures else self._notes
        notes = list(dict.fromkeys([*left_out, *notes, *looked.notes]))
        figures |= looked.figures
        return EvalReport(figures, {}, videos, definitions, notes, settings, self._panels)


@lru_cache(maxsize=1)
def perceptual_network() -> tuple[dict[str, Any], list[str]]:
    """LPIPS on VGG16 where its public weights are on this machine, else a sentence on where to get them."""
    return load_networks(("lpips_vgg",))


def _bytes(video: Float[Tensor, "T 3 H W"]) -> NDArray[np.uint8]:
    """[T, H, W, 3], the first frames."""
    return to_bytes(video[:DRAWN_FRAMES]).permute(0, 2, 3, 1).numpy()

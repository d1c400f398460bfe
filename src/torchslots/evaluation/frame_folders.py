"""Write the true and the decoded frames of an evaluation as PNGs."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from torchslots.evaluation.observers import Findings, Needs, Reconstructed, Slice, frames_of, real_frames
from torchslots.evaluation.report import write_panel
from torchslots.io.video import write_png
from torchslots.models.layers.ranges import to_bytes
from torchslots.models.types import Batch

_FPS = 8.0
"""Frames per second of films, as SlotDiffusion writes them."""


class FrameFolders:
    """Writes `gt_vids` and `recon_vids`, in each a folder for every video with a PNG for every frame.

    A video's folder is named by its index in the data set, the same in both; damaged records that are left out are not
    counted.

    Args:
        folder: parent of both folders.
        published_names: frames are `0.png`, `1.png`, ..., as SlotDiffusion writes them; otherwise `00000.png`, ...,
            whose order as text is their order in time.
        rank, world_size: this process has every `world_size`th video, from `rank` on.

    Raises:
        UserError: a folder that cannot be written, or a model that decodes no frames.
    """

    needs = Needs(recon=True)

    def __init__(
        self, folder: Path, published_names: bool = False, rank: int = 0, world_size: int = 1
    ) -> None:
        self._folder, self._published = folder, published_names
        self._rank, self._world_size = rank, world_size
        self._videos = 0

    def add(self, seen: Slice, found: Reconstructed) -> None:
        shown = real_frames(seen.part)
        for name, videos in (("recon_vids", frames_of(found)), ("gt_vids", seen.part["video"])):
            for row, frames in enumerate(to_bytes(videos).cpu()):
                index = self._rank + (self._videos + row) * self._world_size
                place = self._folder / name / str(index)
                write_frames(place, frames[shown[row]], seen.start, self._published)

    def finish(self, batch: Batch) -> None:
        self._videos += len(batch["video"])

    def report(self) -> Findings:
        return Findings()


class Films:
    """Writes `N_gt.mp4` and `N_recon.mp4` of every video, N its index in the data set; a single frame as PNG.

    Args:
        folder: of all films.
        rank, world_size: this process has every `world_size`th video, from `rank` on.

    Raises:
        UserError: a folder that cannot be written, or a model that decodes no frames.
    """

    needs = Needs(recon=True)

    def __init__(self, folder: Path, rank: int = 0, world_size: int = 1) -> None:
        self._folder, self._rank, self._world_size = folder, rank, world_size
        self._videos, self._parts = 0, {name: list[Tensor]() for name in ("recon", "gt")}
        self._shown: list[Tensor] = []

    def add(self, seen: Slice, found: Reconstructed) -> None:
        self._shown.append(real_frames(seen.part))
        self._parts["recon"].append(to_bytes(frames_of(found)).cpu())
        self._parts["gt"].append(to_bytes(seen.part["video"]).cpu())

    def finish(self, batch: Batch) -> None:
        shown = torch.cat(self._shown, 1)
        for name, parts in self._parts.items():
            for row, frames in enumerate(torch.cat(parts, 1).permute(0, 1, 3, 4, 2).numpy()):
                number = self._rank + (self._videos + row) * self._world_size
                file = self._folder / f"{number}_{name}"
                write_panel(np.ascontiguousarray(frames[shown[row].numpy()]), file, _FPS, gif=False)
            parts.clear()
        self._shown = []
        self._videos += len(batch["video"])

    def report(self) -> Findings:
        return Findings()


def write_frames(
    folder: Path, frames: UInt8[Tensor, "t 3 H W"], first: int = 0, published_names: bool = False
) -> None:
    """Write frames as PNGs, numbered from `first`; if it is 0, remove the numbered PNGs of an earlier video.

    Raises:
        UserError: the folder cannot be written.
    """
    for old in folder.glob("*.png") if first == 0 else ():
        if old.stem.isdecimal():
            old.unlink()
    for number, frame in enumerate(frames, first):
        name = str(number) if published_names else f"{number:05d}"
        write_png(folder / f"{name}.png", frame.permute(1, 2, 0).numpy())

"""Frames that a model paints while it is judged: figures of them, their image code's own, and files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from torchslots.evaluation.draw_objects import draw_properties, properties_markdown
from torchslots.io.draw import clip_panel
from torchslots.io.video import write_png
from torchslots.metrics.reconstruction import DEFINITIONS, LABELS, PictureScores
from torchslots.models.decoders.autoregressive import AutoregressiveDecoder
from torchslots.models.decoders.base import Decoder
from torchslots.models.decoders.diffusion import DiffusionDecoder
from torchslots.models.layers.ranges import from_signed, to_bytes, to_signed
from torchslots.models.types import Batch, Prediction

Back = Callable[[Float[Tensor, "n 3 H W"]], Float[Tensor, "n 3 H W"]]
"""Pictures in [0, 1] to what an image code makes of them."""
_CEILING = "_ceiling"
_PAIRED = ("mse", "psnr", "ssim", "lpips_vgg", "lpips_alex")
CEILING_LABELS = {f"{name}{_CEILING}": f"{LABELS[name]}, image code alone" for name in _PAIRED}


class Found(NamedTuple):
    """Figures by name, what each means, and what a reader should know."""

    figures: dict[str, float]
    definitions: dict[str, str]
    notes: list[str]


class Observer(Protocol):
    """Told of every frame that a model paints while it is judged."""

    def add(self, made: Float[Tensor, "B t 3 H W"], part: Batch) -> None:
        """Painted frames in [0, 1], and the slice of the batch that they were painted from."""
        ...

    def finish(self, batch: Batch) -> None:
        """The videos of the batch are complete."""
        ...

    def report(self) -> Found:
        """All that was found, by all processes; each must ask."""
        ...


class ReconstructionFigures:
    """How near the painted frames are to the true ones."""

    def __init__(self, scores: PictureScores) -> None:
        self._scores = scores

    def add(self, made: Float[Tensor, "B t 3 H W"], part: Batch) -> None:
        """See `Observer`."""
        self._scores.add(made, part["video"], part.get("padding_mask"))

    def finish(self, batch: Batch) -> None:
        """See `Observer`."""
        self._scores.finish(batch.get("name", [""] * len(batch["video"])))

    def report(self) -> Found:
        """See `Observer`."""
        figures, notes = self._scores.compute()
        return Found(figures, {name: DEFINITIONS[name] for name in figures}, notes)


class Ceiling:
    """How near a decoder's image code alone comes to the true frames: slots can hardly be expected to come nearer.

    Args:
        back: the code, there and back.
        networks: of `PictureScores`; those that compare pairs of pictures are used.
    """

    def __init__(self, back: Back, networks: Mapping[str, Any], device: Any = "cpu") -> None:
        paired = {name: network for name, network in networks.items() if name in _PAIRED}
        self._back, self._scores = back, PictureScores(paired, device=device)

    def add(self, made: Float[Tensor, "B t 3 H W"], part: Batch) -> None:
        """See `Observer`; what was painted is of no concern."""
        video: Tensor = part["video"]
        back = self._back(video.flatten(0, 1)).unflatten(0, video.shape[:2])
        self._scores.add(back, video, part.get("padding_mask"))

    def finish(self, batch: Batch) -> None:
        """See `Observer`."""

    def report(self) -> Found:
        """See `Observer`."""
        figures, _ = self._scores.compute()
        definitions = {
            f"{name}{_CEILING}": f"As {name}, of what the model's image code alone gives back of each frame, without "
            "any slot: about what the decoder could reach."
            for name in figures
        }
        return Found({f"{name}{_CEILING}": value for name, value in figures.items()}, definitions, [])


def own_code(decoder: Decoder) -> Back | None:
    """A decoder's image code, there and back; None: it paints pixels."""
    if isinstance(decoder, DiffusionDecoder):
        return lambda pictures: from_signed(decoder.tokenizer.reconstruct(to_signed(pictures)))
    if isinstance(decoder, AutoregressiveDecoder):
        return lambda pictures: decoder.from_native(
            decoder.tokenizer.reconstruct(decoder.to_native(pictures))
        )
    return None


# ------------------------------------------------------------------------------------------------------- files


class FrameFolders:
    """Writes `gt_vids` and `recon_vids`, in each a folder for every video with a PNG for every frame.

    A video's folder is named by its place in the data set, so a sorted pair of folders is a pair of videos; where
    damaged records are left out, places close up.

    Args:
        folder: where both folders go.
        published_names: frames are `0.png`, `1.png`, ..., as SlotDiffusion writes them; otherwise `00000.png`, ...,
            whose order as text is their order in time.
        rank, world_size: this process among those that share the videos, each taking every `world_size`th.
    """

    def __init__(
        self, folder: Path, published_names: bool = False, rank: int = 0, world_size: int = 1
    ) -> None:
        self._folder, self._published = folder, published_names
        self._rank, self._world_size = rank, world_size
        self._videos, self._frames = 0, 0

    def add(self, made: Float[Tensor, "B t 3 H W"], part: Batch) -> None:
        """See `Observer`."""
        shown = real_frames(part)
        for name, pictures in (("recon_vids", made), ("gt_vids", part["video"])):
            for row, frames in enumerate(to_bytes(pictures).cpu()):
                index = self._rank + (self._videos + row) * self._world_size
                place = self._folder / name / str(index)
                write_frames(place, frames[shown[row]], self._frames, self._published)
        self._frames += made.shape[1]

    def finish(self, batch: Batch) -> None:
        """See `Observer`."""
        self._videos, self._frames = self._videos + len(batch["video"]), 0

    def report(self) -> Found:
        """See `Observer`."""
        return Found({}, {}, [])


def real_frames(part: Batch) -> Bool[Tensor, "B t"]:
    """Which frames are no padding, on the CPU."""
    mask = part.get("padding_mask")
    if mask is None:
        return part["video"].new_ones(part["video"].shape[:2]).bool().cpu()
    return mask.flatten(2).any(-1).cpu()


def write_frames(
    folder: Path, frames: UInt8[Tensor, "t 3 H W"], first: int = 0, published_names: bool = False
) -> None:
    """Write frames as PNGs, numbered from `first`; with 0 what a video before left there is removed.

    Raises:
        UserError: the folder cannot be written.
    """
    if first == 0:
        _clear(folder)
    for number, frame in enumerate(frames, first):
        name = str(number) if published_names else f"{number:05d}"
        write_png(folder / f"{name}.png", frame.permute(1, 2, 0).numpy())


def _clear(folder: Path) -> None:
    """Remove numbered PNGs."""
    for file in folder.glob("*.png"):
        if file.stem.isdecimal():
            file.unlink()


def merged(onlookers: Sequence[Observer]) -> Found:
    """What all of them found."""
    figures: dict[str, float] = {}
    definitions: dict[str, str] = {}
    notes: dict[str, None] = {}
    for found in [onlooker.report() for onlooker in onlookers]:
        figures |= found.figures
        definitions |= found.definitions
        notes |= dict.fromkeys(found.notes)
    return Found(figures, definitions, list(notes))


DRAWN_FRAMES = 48
"""Frames of a video that are kept."""
_RECON_LABELS = {"video": "reconstruction", "flow": "predicted flow", "depth": "predicted depth"}


@dataclass(frozen=True)
class PlottedVideo:
    """One video and what a model made of it, in bytes, to be drawn later; at most 48 frames."""

    name: str
    video: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    truth: NDArray[np.integer] | None = None
    recon: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    slot_pictures: NDArray[np.uint8] | None = None
    properties: NDArray[np.float32] | None = None
    true_properties: NDArray[np.float32] | None = None

    def properties_picture(self) -> NDArray[np.uint8] | None:
        """The first frame and its objects' properties, predicted beside true [H, W, 3]; None: none were predicted."""
        if self.properties is None:
            return None
        return draw_properties(self.video[0], self.properties[0], self._first_truth())

    def properties_table(self) -> str | None:
        """The same in words, as Markdown."""
        if self.properties is None:
            return None
        return f"## {self.name}\n\n{properties_markdown(self.properties[0], self._first_truth())}"

    def _first_truth(self) -> NDArray[np.float32] | None:
        return None if self.true_properties is None else self.true_properties[0]

    def panel(self, tile: int = 128) -> NDArray[np.uint8]:
        """Input, ground truth, prediction, reconstructions and slots, labelled [T, H, W, 3]."""
        masks = self.masks.astype(np.float32) / 255
        more = {"masks": masks, "recon": self.recon, "slot_images": self.slot_pictures, "tile": tile}
        return clip_panel(self.video, self.prediction, truth=self.truth, **more)


class VideoPanel:
    """Collects one video of a batch slice by slice."""

    def __init__(self, row: int) -> None:
        self.row = row
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self._recon: dict[str, list[NDArray[np.uint8]]] = {}

    def add(self, part: Batch, found: Prediction) -> None:
        """Add a slice of frames."""
        row = self.row
        self._keep("video", _pixels(part["video"][row]))
        self._keep("prediction", found.segmentation[row].to(torch.uint8).cpu().numpy())
        self._keep("masks", _bytes(found.masks[row]))
        if "segmentations" in part:
            self._keep("truth", part["segmentations"][row].cpu().numpy())
        if found.slot_recon is not None and "video" in found.slot_recon:
            self._keep("slot_pictures", _pixels(found.slot_recon["video"][row]))
        if found.properties is not None:
            self._keep("properties", found.properties[row].float().cpu().numpy())
        if found.properties is not None and "properties" in part:
            self._keep("true_properties", part["properties"][row].float().cpu().numpy())
        for name, picture in found.recon.items():
            self._recon.setdefault(_RECON_LABELS.get(name, name), []).append(_pixels(picture[row]))

    def _keep(self, name: str, values: NDArray[Any]) -> None:
        self._parts.setdefault(name, []).append(values)

    def finish(self, name: str) -> PlottedVideo:
        """The video, cut to the longest that is kept."""
        parts = {key: np.concatenate(values)[:DRAWN_FRAMES] for key, values in self._parts.items()}
        recon = {key: np.concatenate(values)[:DRAWN_FRAMES] for key, values in self._recon.items()}
        return PlottedVideo(name, **cast(Any, parts), recon=recon)


def _pixels(pictures: Float[Tensor, "*batch C H W"]) -> NDArray[np.uint8]:
    """As bytes, colour last; one channel (depth) becomes a grey from its least to its greatest value."""
    if pictures.shape[-3] == 1:
        pictures = pictures.float()
        pictures = (pictures - pictures.min()) / (pictures.max() - pictures.min()).clamp(min=1e-6)
        pictures = pictures.expand(*pictures.shape[:-3], 3, *pictures.shape[-2:])
    return np.ascontiguousarray(_bytes(pictures.movedim(-3, -1)))


def _bytes(values: Tensor) -> NDArray[np.uint8]:
    return to_bytes(values).cpu().numpy()

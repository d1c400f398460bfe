"""Frames that a model paints while it is judged: figures of them, their image code's own, and files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from torchslots.decoders.decoder import Decoder
from torchslots.decoders.denoise import Denoise
from torchslots.decoders.tokens import Tokens
from torchslots.metrics.pictures import DEFINITIONS, LABELS, PictureScores
from torchslots.nn.ranges import from_signed, to_bytes, to_signed
from torchslots.shapes import Batch
from torchslots.video import write_png

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


class Onlooker(Protocol):
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


class PaintedFigures:
    """How near the painted frames are to the true ones."""

    def __init__(self, scores: PictureScores) -> None:
        self._scores = scores

    def add(self, made: Float[Tensor, "B t 3 H W"], part: Batch) -> None:
        """See `Onlooker`."""
        self._scores.add(made, part["video"], part.get("padding_mask"))

    def finish(self, batch: Batch) -> None:
        """See `Onlooker`."""
        self._scores.finish(batch.get("name", [""] * len(batch["video"])))

    def report(self) -> Found:
        """See `Onlooker`."""
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
        """See `Onlooker`; what was painted is of no concern."""
        video: Tensor = part["video"]
        back = self._back(video.flatten(0, 1)).unflatten(0, video.shape[:2])
        self._scores.add(back, video, part.get("padding_mask"))

    def finish(self, batch: Batch) -> None:
        """See `Onlooker`."""

    def report(self) -> Found:
        """See `Onlooker`."""
        figures, _ = self._scores.compute()
        definitions = {
            f"{name}{_CEILING}": f"As {name}, of what the model's image code alone gives back of each frame, without "
            "any slot: about what the decoder could reach."
            for name in figures
        }
        return Found({f"{name}{_CEILING}": value for name, value in figures.items()}, definitions, [])


def own_code(decoder: Decoder) -> Back | None:
    """A decoder's image code, there and back; None: it paints pixels."""
    if isinstance(decoder, Denoise):
        return lambda pictures: from_signed(decoder.tokenizer.reconstruct(to_signed(pictures)))
    if isinstance(decoder, Tokens):
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
        """See `Onlooker`."""
        shown = real_frames(part)
        for name, pictures in (("recon_vids", made), ("gt_vids", part["video"])):
            for row, frames in enumerate(to_bytes(pictures).cpu()):
                index = self._rank + (self._videos + row) * self._world_size
                place = self._folder / name / str(index)
                write_frames(place, frames[shown[row]], self._frames, self._published)
        self._frames += made.shape[1]

    def finish(self, batch: Batch) -> None:
        """See `Onlooker`."""
        self._videos, self._frames = self._videos + len(batch["video"]), 0

    def report(self) -> Found:
        """See `Onlooker`."""
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


def merged(onlookers: Sequence[Onlooker]) -> Found:
    """What all of them found."""
    figures: dict[str, float] = {}
    definitions: dict[str, str] = {}
    notes: dict[str, None] = {}
    for found in [onlooker.report() for onlooker in onlookers]:
        figures |= found.figures
        definitions |= found.definitions
        notes |= dict.fromkeys(found.notes)
    return Found(figures, definitions, list(notes))

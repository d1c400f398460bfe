"""Your own pictures and videos through a model, slice by slice: masks, tracks, overlays, slots.

What the model sees: the largest rectangle of its own shape in the middle of the frame, resized to its
resolution, bilinear as in training (antialiased where it shrinks more than twice). Masks are enlarged and
pasted back; pixels outside the rectangle count as background. Slot 0 is the background: that of a conditional
model, else the slot with most pixels in the first slice, moved to the front.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from torchslots import hints, video
from torchslots.errors import UserError
from torchslots.framing import View
from torchslots.hints import Hint
from torchslots.hub import load_model
from torchslots.model import ObjectCentricModel
from torchslots.progress import progress
from torchslots.shapes import Prediction, State
from torchslots.tracks import OUTPUTS, Slice, result_writer

_NO_MEMORY = "The device's memory is full. Give a smaller --slice-size, or --device cpu."
_BOTH = "Give either boxes or masks: both say where the objects are."


@dataclass(frozen=True)
class PredictOptions:
    """How `predict` reads, thinks and writes."""

    boxes: Path | None = None
    """JSON with the boxes of the first frame, [[ymin, xmin, ymax, xmax], ...] in [0, 1] of the whole frame;
    with several inputs a folder of NAME.json."""
    masks: Path | None = None
    """Indexed or grey PNG with the objects of the first frame, 0 for background; with several inputs a folder
    of NAME.png."""
    resolution: int | None = None
    """Side in pixels at which the model sees the frames; None: what it was built for."""
    num_slots: int | None = None
    """Slots, background included, for models that draw them at random; None: what it was built for."""
    slice_size: int = 6
    """Frames that go through the model at once: more is faster and needs more memory."""
    fps: float | None = None
    """Frames in a second of the written videos; None: as the input, 12 for a folder of pictures."""
    slot_views: bool = False
    """Show in the strip what each slot itself paints; otherwise the input seen through each slot's mask."""
    save: tuple[str, ...] = OUTPUTS
    """What to write: overlay masks strip slots tracks."""
    max_side: int = 1280
    """Longest side in pixels of overlay and masks; larger frames are shrunk to it."""
    each: bool = False
    """Take every picture of a folder as an input of its own, not as a frame of one video."""
    seed: int = 0
    """Seed of slots that are drawn at random."""
    device: str = "cpu"
    """Where to run: cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        unknown = set(self.save) - set(OUTPUTS)
        if unknown or not self.save:
            raise UserError(
                f"Cannot save {', '.join(unknown) or 'nothing'}. Choose from: {', '.join(OUTPUTS)}."
            )
        for name in ("resolution", "num_slots", "slice_size", "fps", "max_side"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} should be more than 0, got {value}.")


class FramesPrediction(NamedTuple):
    """What `predict_frames` says: `segmentation` in the frames' own size, soft `masks` in the model's."""

    segmentation: Int[ndarray, "T H W"]
    masks: Float[ndarray, "T K h w"]
    slots: Float[ndarray, "T K D"]


# ----------------------------------------------------------------------------------------------------- frames


def predict_frames(
    model: ObjectCentricModel,
    frames: ndarray,
    *,
    boxes: Any = None,
    masks: ndarray | None = None,
    options: PredictOptions = PredictOptions(),
) -> FramesPrediction:
    """Segment a video in memory.

    Args:
        frames: uint8 RGB [T, H, W, 3] of any size.
        boxes: of the first frame, rows of (ymin, xmin, ymax, xmax) in [0, 1] of the whole frame.
        masks: integer ids of the first frame [H, W], 0 for background.
        options: `resolution`, `num_slots`, `slice_size` and `seed` matter here.

    Raises:
        UserError: other frames than these, hints that the model lacks or cannot use.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise UserError(f"Frames should be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}.")
    if boxes is not None and masks is not None:
        raise UserError(_BOTH)
    hint = Hint() if boxes is None else hints.box_hint(boxes)
    hint = hint if masks is None else hints.mask_hint(np.asarray(masks))
    view = _view(model, frames.shape[1:3], options.resolution)
    chunks = (frames[i : i + options.slice_size] for i in range(0, len(frames), options.slice_size))
    parts = [
        (view.enlarge(part.masks, frames.shape[1:3]), part.masks.numpy(), part.slots)
        for part in _slices(model, chunks, view, hint, options)
    ]
    return FramesPrediction(*(np.concatenate(part) for part in zip(*parts)))


def _view(model: ObjectCentricModel, size: Sequence[int], resolution: int | None) -> View:
    built_for = model.config.resolution if resolution is None else (resolution, resolution)
    return View(size[0], size[1], (built_for[0], built_for[1]))


def _slices(
    model: ObjectCentricModel,
    chunks: Iterable[UInt8[ndarray, "T H W 3"]],
    view: View,
    hint: Hint,
    options: PredictOptions,
) -> Iterator[Slice]:
    """Slice after slice, the state handed on; nothing of a slice is kept."""
    device = next(model.parameters()).device
    batch: dict[str, Any] = {key: value.to(device) for key, value in view.conditioning(hint).items()}
    batch |= {"num_slots": _num_slots(model, hint, options.num_slots)}
    batch |= {"generator": torch.Generator(device).manual_seed(options.seed)}
    state: State | None = None
    order: list[int] | None = None
    for frames in chunks:
        small = view.shrink(frames)
        found = model.predict(batch | {"video": small.to(device)}, state, slot_recon=options.slot_views)
        state, order = found.state, order or _slot_order(found, hint)
        masks, slots = found.masks[0, :, order].float().cpu(), found.slots[0, :, order].float().cpu()
        yield Slice(frames, masks, slots.numpy(), _pictures(small, found, order))


def _num_slots(model: ObjectCentricModel, hint: Hint, asked: int | None) -> int | None:
    """Hints decide the number of slots themselves."""
    hinted = hint.boxes is not None
    if hinted and getattr(model.config, "conditioning", None) in ("learned", "gaussian"):
        raise UserError(
            "This model finds objects without hints: leave boxes and masks out, or use a conditional one."
        )
    if hinted and asked is not None:
        raise UserError(
            "The hint decides the number of slots, one for each object and one more: leave num_slots out."
        )
    return asked if hint.ids is None else int(hint.ids.max()) + 1


def _slot_order(found: Prediction, hint: Hint) -> list[int]:
    """The background first: the largest slot of a model that got no hint."""
    count = found.masks.shape[2]
    if hint.boxes is not None:
        return list(range(count))
    background = int(torch.bincount(found.segmentation.flatten().long().cpu(), minlength=count).argmax())
    return [background, *(slot for slot in range(count) if slot != background)]


def _pictures(
    small: Float[Tensor, "1 T 3 h w"], found: Prediction, order: list[int]
) -> UInt8[ndarray, "..."]:
    """What each slot paints [T, K, h, w, 3] if that was asked for, else the model's input [T, h, w, 3]."""
    shown = small[0]
    if found.slot_recon:
        name = next(
            (name for name in ("video", "flow") if name in found.slot_recon), next(iter(found.slot_recon))
        )
        shown = found.slot_recon[name][0, :, order].float().cpu()
    colour = shown.movedim(-3, -1).clamp(0, 1).mul(255).round().byte()
    return colour.expand(*colour.shape[:-1], 3).numpy()


# ------------------------------------------------------------------------------------------------------ files


def predict(
    model: ObjectCentricModel | str | Path,
    inputs: Sequence[Path | str],
    out: Path | str,
    options: PredictOptions = PredictOptions(),
) -> list[Path]:
    """Segment pictures, videos, GIFs and folders of any length; returns a folder under `out` for each.

    A folder of pictures is one video; a folder with films or GIFs is many inputs. Each result folder holds
    overlay.mp4 (a picture: overlay.png), masks/00000.png and so on, slots.mp4 (slots.png), slots.npz and
    tracks.json.

    Raises:
        UserError: an input that cannot be read, hints that are missing or wrong, a folder that cannot be
            written, a full disk. What was finished before is kept.
    """
    ready = load_model(model, device=options.device) if isinstance(model, (str, Path)) else model
    jobs = _jobs(_sources([Path(path) for path in inputs], options.each), Path(out))
    given = {target.name: _hint(target.name, options, len(jobs)) for _, target in jobs}
    done: list[Path] = []
    for source, target in jobs:
        try:
            _predict_file(ready, source, target, given[target.name], options)
        except (UserError, torch.OutOfMemoryError) as error:
            what = _NO_MEMORY if isinstance(error, torch.OutOfMemoryError) else str(error)
            kept = f" {len(done)} of {len(jobs)} inputs are finished, in {out}." if len(jobs) > 1 else ""
            raise UserError(what + kept) from error
        done.append(target)
    return done


def _sources(inputs: list[Path], each: bool) -> list[Path]:
    """Every video, with folders of many videos taken apart."""
    found: list[Path] = []
    for path in inputs:
        if not path.exists():
            raise UserError(f"{path} does not exist. Check the name.")
        films = (*video.FILM_SUFFIXES, ".gif")
        inside = (
            sorted(path.iterdir(), key=lambda file: video.natural_key(file.name)) if path.is_dir() else []
        )
        many = each or any(file.suffix.lower() in films for file in inside)
        known = (*video.PICTURE_SUFFIXES, *video.FILM_SUFFIXES)
        found += [file for file in inside if file.suffix.lower() in known] if inside and many else [path]
    if not found:
        raise UserError("There is no input. Give pictures, videos or folders of them.")
    return found


def _jobs(sources: list[Path], out: Path) -> list[tuple[Path, Path]]:
    """Each source with its own result folder, never one that holds the source."""
    jobs: list[tuple[Path, Path]] = []
    for source in sources:
        name = source.resolve().name if source.is_dir() else source.stem
        same = sum(re.fullmatch(re.escape(name) + r"(_\d+)?", target.name) is not None for _, target in jobs)
        target = out / (f"{name}_{same + 1}" if same else name)
        if target.resolve() in (source.resolve(), *source.resolve().parents):
            raise UserError(
                f"The results of {source} would go to {target}, which holds it. Choose another --out."
            )
        jobs.append((source, target))
    return jobs


def _hint(name: str, options: PredictOptions, num_inputs: int) -> Hint:
    if options.boxes and options.masks:
        raise UserError(_BOTH)
    given, read, suffix = (options.boxes, hints.read_boxes, "json")
    if options.masks:
        given, read, suffix = (options.masks, hints.read_mask, "png")
    if given is None:
        return Hint()
    if num_inputs > 1 and not given.is_dir():
        raise UserError(
            f"{given} is one hint for {num_inputs} inputs. Give a folder with NAME.{suffix} for each."
        )
    return read(given / f"{name}.{suffix}" if given.is_dir() else given)


def _predict_file(
    model: ObjectCentricModel, source: Path, target: Path, hint: Hint, options: PredictOptions
) -> None:
    total = video.frame_count(source)
    chunks = video.iter_frames(source, options.slice_size)
    first = next(chunks)
    view = _view(model, first.shape[1:3], options.resolution)
    slices = _slices(model, _again(first, chunks), view, hint, options)
    fps = None if total == 1 else float(options.fps or video.fps(source) or 12)
    settings = {"save": options.save, "max_side": options.max_side, "fps": fps, "source": source.name}
    with result_writer(target, view, **settings) as write, progress(source.name, total, "frames") as advance:
        for part in slices:
            write(part)
            advance(len(part.frames))


def _again(first: ndarray, rest: Iterator[ndarray]) -> Iterator[ndarray]:
    yield first
    yield from rest

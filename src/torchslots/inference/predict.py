"""Your own pictures and videos through a model, slice by slice: masks, tracks, overlays, slots.

What the model sees: the largest rectangle of its own shape in the middle of the frame, resized to its
resolution, bilinear as in training (antialiased where it shrinks more than twice). Masks are enlarged and
pasted back; pixels outside the rectangle count as background. Slot 0 is the background: that of a conditional
model, else the slot with most pixels in the first slice, moved to the front.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from torchslots.hub import load_model
from torchslots.inference import view as hints
from torchslots.inference.generation import SamplingOptions, with_sampling
from torchslots.inference.inputs import (
    BOTH,
    hint_of,
    result_folders,
    slot_order,
    sources,
    start_batch,
)
from torchslots.inference.outputs import OUTPUTS, Slice, result_writer
from torchslots.inference.view import Hint, View
from torchslots.io import video
from torchslots.io.draw import contact_sheet
from torchslots.io.errors import UserError
from torchslots.io.progress import progress
from torchslots.models.adjust import bound_memory, with_counts
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slices import carry_state, predict_ahead
from torchslots.models.slots.predictors import IdentityPredictor
from torchslots.models.slots.temporal import MemoryPredictor
from torchslots.models.types import Prediction, State

_TILE = 192
_NO_MEMORY = "The device's memory is full. Give a smaller --slice-size, or --device cpu."


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
    num_iterations: int | None = None
    """Rounds of slot attention in each frame; None: what it was built for."""
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
    observe: int | None = None
    """Frames to look at; the model predicts those that follow without seeing them. None: all."""
    rollout: int | None = None
    """Frames to predict behind the observed ones; None: as many as the input still has, if `observe` is given."""
    max_frames: int | None = None
    """Frames that a model with a memory (STATM) remembers, so that a stream of any length runs in constant memory;
    None: what it was built for."""
    recon: bool = False
    """Also write what the model paints beside what it saw (recon.mp4, recon.png); models that generate take long."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def __post_init__(self) -> None:
        unknown = set(self.save) - set(OUTPUTS)
        if unknown or not self.save:
            raise UserError(
                f"Cannot save {', '.join(unknown) or 'nothing'}. Choose from: {', '.join(OUTPUTS)}."
            )
        for name in (
            "resolution",
            "num_slots",
            "num_iterations",
            "slice_size",
            "fps",
            "max_side",
            "observe",
            "rollout",
            "max_frames",
        ):
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
        options: `resolution`, `num_slots`, `num_iterations`, `slice_size`, `seed`, `observe`, `rollout` and
            `max_frames` matter here.

    Returns:
        All frames; with `observe` and `rollout` the observed ones, then the predicted ones.

    Raises:
        UserError: other frames than these, hints that the model lacks or cannot use.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise UserError(f"Frames should be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}.")
    if boxes is not None and masks is not None:
        raise UserError(BOTH)
    hint = Hint() if boxes is None else hints.box_hint(boxes)
    hint = hint if masks is None else hints.mask_hint(np.asarray(masks))
    model = with_counts(model, num_iterations=options.num_iterations)
    view = _view(model, frames.shape[1:3], options.resolution)
    chunks = (frames[i : i + options.slice_size] for i in range(0, len(frames), options.slice_size))
    _check_rollout(model, options)
    observe, ahead = _plan(len(frames), options)
    parts = [
        (view.enlarge(part.masks, frames.shape[1:3]), part.masks.numpy(), part.slots)
        for part in _slices(model, _first(chunks, observe), view, hint, replace(options, recon=False), ahead)
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
    ahead: int = 0,
) -> Iterator[Slice]:
    """Slice after slice, the state handed on; then `ahead` frames that nobody shows. Nothing of a slice is kept."""
    batch = start_batch(model, view, hint, options)
    device = batch["generator"].device

    def step(part: tuple[ndarray, Tensor], state: State | None) -> Prediction:
        shown = batch | {"video": part[1].to(device)}
        return model.predict(shown, state, slot_recon=options.slot_views, recon=options.recon, attn=False)

    seen, order = None, []
    with _bounded(model, options.max_frames):
        parts = ((frames, view.shrink(frames)) for frames in chunks)
        for (frames, small), seen in carry_state(step, parts):
            order = order or slot_order(seen, hint)
            yield _slice(frames, small[0], seen, order)._replace(recon=_beside(small[0], seen, options))
        if seen is None:
            return
        for found in predict_ahead(model, seen.state, ahead, options.slice_size, options.slot_views):
            small = _imagined(found)
            part = _slice(view.paste(_colour(small)), small, found, order)
            yield part._replace(predicted=True, recon=_beside(torch.zeros_like(small), found, options))


@contextmanager
def _bounded(model: ObjectCentricModel, max_frames: int | None) -> Iterator[None]:
    """The model with its memory bounded, and afterwards as it was.

    Raises:
        UserError: a bound for a model that remembers nothing.
    """
    memories = [module for module in model.modules() if isinstance(module, MemoryPredictor)]
    if max_frames is None:
        yield
        return
    if not memories:
        raise UserError(
            "This model remembers no frames, so max_frames bounds nothing: leave it out. STATM remembers."
        )
    before = [memory.max_frames for memory in memories]
    bound_memory(model, max_frames)
    try:
        yield
    finally:
        for memory, bound in zip(memories, before):
            memory.bound(bound)


def _imagined(found: Prediction) -> Float[Tensor, "T 3 h w"]:
    """The frames that the model paints; black where it paints other targets."""
    if "video" in found.recon:
        return found.recon["video"][0].float().cpu().clamp(0, 1)
    num_frames, (height, width) = found.masks.shape[1], found.masks.shape[-2:]
    return torch.zeros(num_frames, 3, height, width)


def _slice(
    frames: UInt8[ndarray, "T H W 3"], small: Float[Tensor, "T 3 h w"], found: Prediction, order: list[int]
) -> Slice:
    masks, slots = found.masks[0, :, order].float().cpu(), found.slots[0, :, order].float().cpu()
    return Slice(frames, masks, slots.numpy(), _pictures(small, found, order))


def _beside(
    small: Float[Tensor, "T 3 h w"], found: Prediction, options: PredictOptions
) -> list[UInt8[ndarray, "H W 3"]] | None:
    """Each frame as the model sees it, and what it paints; None: that is not asked for.

    Raises:
        UserError: it paints nothing.
    """
    if not options.recon:
        return None
    if not found.recon:
        raise UserError("This model names properties of objects and paints no pictures: leave --recon out.")
    name = next((name for name in ("video", "flow") if name in found.recon), next(iter(found.recon)))
    pairs = zip(_colour(small), _colour(found.recon[name][0].float().cpu()))
    return [contact_sheet(pair, ["input", f"painted {name}"], tile=_TILE) for pair in pairs]


def _pictures(small: Float[Tensor, "T 3 h w"], found: Prediction, order: list[int]) -> UInt8[ndarray, "..."]:
    """What each slot paints [T, K, h, w, 3] if that was asked for, else the model's input [T, h, w, 3]."""
    if not found.slot_recon:
        return _colour(small)
    name = next(
        (name for name in ("video", "flow") if name in found.slot_recon), next(iter(found.slot_recon))
    )
    return _colour(found.slot_recon[name][0, :, order].float().cpu())


def _colour(pictures: Float[Tensor, "*b C h w"]) -> UInt8[ndarray, "*b h w 3"]:
    colour = pictures.movedim(-3, -1).clamp(0, 1).mul(255).round().byte()
    return colour.expand(*colour.shape[:-1], 3).numpy()


def _plan(total: int, options: PredictOptions) -> tuple[int, int]:
    """Frames to look at and frames to predict after them, of an input of `total` frames."""
    observe = total if options.observe is None else options.observe
    if observe > total:
        raise UserError(f"Cannot observe {observe} frames of an input of {total}. Observe fewer.")
    if options.rollout is not None:
        return observe, options.rollout
    if observe == total and options.observe is not None:
        raise UserError(
            f"All {total} frames are observed and none follows. Say with --rollout how many to predict."
        )
    return observe, total - observe


def _check_rollout(model: ObjectCentricModel, options: PredictOptions) -> None:
    """Raises UserError where frames are to be predicted by a model that has nothing to predict them with."""
    ahead = options.observe is not None or options.rollout is not None
    if ahead and isinstance(model.slot_encoder.predictor, IdentityPredictor):
        raise UserError(
            "This model sees single pictures and predicts no frames: leave --observe and --rollout out. SAVi and "
            "STATM predict."
        )


def _first(chunks: Iterable[UInt8[ndarray, "T H W 3"]], count: int) -> Iterator[UInt8[ndarray, "T H W 3"]]:
    """The first `count` frames."""
    for chunk in chunks:
        yield chunk[:count]
        count -= len(chunk)
        if count <= 0:
            return


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
    ready = with_sampling(with_counts(ready, num_iterations=options.num_iterations), options.sampling)
    jobs = result_folders(sources([Path(path) for path in inputs], options.each), Path(out))
    given = {target.name: hint_of(target.name, options, len(jobs)) for _, target in jobs}
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


def _predict_file(
    model: ObjectCentricModel, source: Path, target: Path, hint: Hint, options: PredictOptions
) -> None:
    _check_rollout(model, options)
    observe, ahead = _plan(video.frame_count(source), options)
    total = observe + ahead
    chunks = _first(video.iter_frames(source, options.slice_size), observe)
    first = next(chunks)
    view = _view(model, first.shape[1:3], options.resolution)
    slices = _slices(model, _again(first, chunks), view, hint, options, ahead)
    fps = None if total == 1 else float(options.fps or video.fps(source) or 12)
    save = (*options.save, "recon") if options.recon else options.save
    settings = {"save": save, "max_side": options.max_side, "fps": fps, "source": source.name}
    with result_writer(target, view, **settings) as write, progress(source.name, total, "frames") as advance:
        for part in slices:
            write(part)
            advance(len(part.frames))


def _again(first: ndarray, rest: Iterator[ndarray]) -> Iterator[ndarray]:
    yield first
    yield from rest

"""Segment images and videos of any length, slice by slice: masks, tracks, overlays, slots.

The model's input is what the `view` shows of a frame, resized as in training, and antialiased if it shrinks more than
twice. Masks are enlarged and pasted back; pixels outside of the view are background. Slot 0 is the background: that of
a conditional model, else the slot with the most pixels in the first slice, moved to the front.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from PIL import Image

from torchslots.inference.finished import Record, finish, is_done, job_key, model_key, sizes
from torchslots.inference.formats import require_formats
from torchslots.inference.inputs import (
    BOTH,
    InputOptions,
    InputsFailed,
    Job,
    Part,
    array_mask,
    batches,
    decodes_features_alone,
    jobs_of,
    run_each,
    slot_order,
)
from torchslots.inference.outputs import OUTPUTS, Slice, result_files, result_writer
from torchslots.inference.plots import beside_input, preferred_target, to_images
from torchslots.inference.view import FirstFrameHint, View, box_hint
from torchslots.io import notebook, video
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError, note
from torchslots.io.progress import progress
from torchslots.models.adjust import bound_memory, decoding_in_parts, sharing_weights
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slices import carry_state, demand_finite, predict_ahead
from torchslots.models.slots.predictors import IdentityPredictor
from torchslots.models.types import Prediction, State
from torchslots.recipes.config import with_changes

_NO_MEMORY = "The device's memory is full. Give a smaller --slice-size, or --device cpu."
_IMAGES_AT_ONCE = 12
"""Images of slots that a CPU decodes at once: more takes memory and is no faster."""
_MOST_PIXELS = 8192
"""Of a side of the model's frames."""


@dataclass(frozen=True)
class PredictOptions(InputOptions):
    """Input, segmentation and output of `predict`."""

    resolution: int | None = None
    """Height and width in pixels of the model's frames, of whole ones the short side; None: as the model was built."""
    slice_size: int = 6
    """Frames that the model processes at once: more is faster and needs more memory."""
    slot_views: bool = False
    """Show each slot's own reconstruction in the strip; otherwise the input through each slot's mask."""
    save: tuple[str, ...] = OUTPUTS
    """What to write: overlay masks strip slots tracks."""
    max_side: int = 1280
    """Longest side in pixels of overlay and masks; larger frames are shrunk to it."""
    each: bool = False
    """Every image of a folder is an input, not a frame of one video."""
    observe: int | None = None
    """Frames to observe; the model predicts those that follow. None: all."""
    rollout: int | None = None
    """Frames to predict after the observed ones; None: the rest of the input, if `observe` is given."""
    max_frames: int | None = None
    """Frames that a model with a memory (STATM) remembers, so that a stream of any length runs in constant memory;
    None: as the model was built."""
    overwrite: bool = False
    """Do inputs again that are done: those whose files are complete, for the same model, input, hint and options."""
    recon: bool = False
    """Also write each frame beside its reconstruction (recon.mp4, recon.png); generative models are slow."""

    format: tuple[str, ...] = ()
    """Also write tracks and slots for other programs: csv parquet (tables), coco (COCO for videos, as YouTube-VIS), mot
    (MOTChallenge)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_formats(self.format)
        unknown = set(self.save) - set(OUTPUTS)
        if unknown or not self.save:
            raise UserError(
                f"Cannot save {', '.join(unknown) or 'nothing'}. Choose from: {', '.join(OUTPUTS)}."
            )
        self.require_positive("resolution", "slice_size", "max_side", "observe", "rollout", "max_frames")
        if self.resolution is not None and self.resolution > _MOST_PIXELS:
            raise UserError(
                f"resolution {self.resolution:,} is more than any model's frames have: give at most {_MOST_PIXELS:,} "
                "pixels, or leave it out."
            )

    @property
    def saved(self) -> tuple[str, ...]:
        """What to write, with `recon` where it is asked for, and the formats."""
        return (*self.save, *(("recon",) if self.recon else ()), *self.format)

    def plan(self, total: int) -> tuple[int, int]:
        """Number of frames to observe, and to predict after them, of an input of `total` frames.

        Raises:
            UserError: more frames to observe than there are, or none to predict.
        """
        observe = total if self.observe is None else self.observe
        if observe > total:
            raise UserError(
                f"Cannot observe {count_text(observe, 'frame')} of an input of {total}. Observe fewer."
            )
        if self.rollout is not None:
            return observe, self.rollout
        if observe == total and self.observe is not None:
            raise UserError(
                f"Of {count_text(total, 'frame')} all are observed and none follows. Give --rollout, the frames to "
                "predict."
            )
        return observe, total - observe


class FramesPrediction(NamedTuple):
    """Prediction for T frames [H, W] with K slots of size D; slot 0 is the background."""

    segmentation: Int[ndarray, "T H W"]
    """Slot of each pixel, at the frames' size."""
    masks: Float[ndarray, "T K h w"]
    """Soft masks that sum to 1 over the slots, at the model's resolution; of models on features one for each patch."""
    slots: Float[ndarray, "T K D"]
    frames: UInt8[ndarray, "T H W 3"]
    """The frames; of those that were predicted, their reconstructions, black where the model decodes no images."""

    def show(self, num_frames: int = 6) -> Image.Image | None:
        """Show some frames above the same with their objects: in a notebook at once, elsewhere as a returned image."""
        return notebook.shown(notebook.strip(self.segmentation, self.frames, num_frames))

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return notebook.png(notebook.strip(self.segmentation, self.frames))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        length, num_slots = self.slots.shape[:2]
        found = len(np.unique(self.segmentation[self.segmentation > 0]))
        caption = (
            f"{count_text(length, 'frame')}, {count_text(num_slots, 'slot')}, of which {found} besides the background "
            "have pixels"
        )
        return notebook.html(notebook.strip(self.segmentation, self.frames), caption)


def predict_frames(
    model: ObjectCentricModel,
    frames: ndarray,
    *,
    boxes: Any = None,
    masks: ndarray | None = None,
    options: PredictOptions = PredictOptions(),
    **changes: Any,
) -> FramesPrediction:
    """Segment a video in memory.

    Args:
        model: as returned by `torchslots.load_model`. It runs on the device of its weights.
        frames: uint8 RGB [T, H, W, 3] of any size; an image is a video of one frame.
        boxes: of the objects in the first frame, rows of (ymin, xmin, ymax, xmax) in [0, 1] of the whole frame.
        masks: of the objects in the first frame, integer ids [H, W], 0 for background. Models that were trained with
            boxes or masks need one of the two; each object becomes one slot, after slot 0. None: no hint.
        options: used are `view`, `resolution`, `num_slots`, `num_iterations`, `slice_size`, `seed`, `observe`,
            `rollout` and `max_frames`.
        changes: fields of `PredictOptions` by name, in place of those of `options`: `num_slots=7`.

    Returns:
        All frames; with `observe` and `rollout` the observed ones, then the predicted ones.

    Raises:
        UserError: frames of another type or shape, a hint that is missing or that the model cannot use, more frames to
            observe than there are, or an unknown option.

    Examples:
        >>> found = torchslots.predict_frames(model, frames, boxes=[[0.1, 0.2, 0.4, 0.5]])
        >>> found.segmentation.shape == frames.shape[:3]
        True
    """
    frames, options = np.asarray(frames), with_changes(options, **changes)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise UserError(f"Frames should be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}.")
    if boxes is not None and masks is not None:
        raise UserError(BOTH)
    hint = FirstFrameHint() if boxes is None else box_hint(boxes)
    hint = hint if masks is None else array_mask(np.asarray(masks), options.allow_odd_masks)
    model = _ready(model, options)
    observe, ahead = options.plan(len(frames))
    chunks = (frames[i : min(i + options.slice_size, observe)] for i in range(0, observe, options.slice_size))
    view, parts = batches(model, chunks, hint, options, options.resolution)
    slices = _slices(model, parts, view, hint, replace(options, recon=False), ahead)
    size = frames.shape[1:3]
    parts = [(view.enlarge(part.masks, size), part.masks.numpy(), part.slots, part.frames) for part in slices]
    return FramesPrediction(*(np.concatenate(part) for part in zip(*parts)))


def predict(
    model: ObjectCentricModel | str | Path,
    inputs: Path | str | Sequence[Path | str],
    out: Path | str,
    options: PredictOptions = PredictOptions(),
    **changes: Any,
) -> list[Path]:
    """Segment images, videos, GIFs and folders of any length; returns a folder below `out` for each.

    The public `predict` also takes names of published checkpoints (`convert/by_name.py`, which says the rest).

    Raises:
        UserError, InputsFailed: as of the public function.
    """
    options = with_changes(options, **changes)
    model = _ready(model, options)
    missing = notes(model, options)
    if missing:
        options = replace(options, slot_views=False, recon=False)
    jobs = jobs_of(inputs, out, options, options.each)
    of_model = model_key(model, model.config)
    skipped: list[Path] = []

    def run(job: Job) -> list[Path]:
        job.require()
        key = _job_key(of_model, job, options)
        if not options.overwrite and is_done(job.target, key, options.saved, not options.allow_damaged):
            skipped.append(job.source)
        else:
            _predict_file(model, job, options, key, missing)
        return [job.target]

    done, failed = run_each(jobs, run, _NO_MEMORY)
    if skipped:
        note(
            f"{len(skipped)} of {len(jobs)} inputs were done, in {out}, and are skipped; --overwrite does them again."
        )
    for sentence in missing:
        note(sentence)
    if failed:
        raise InputsFailed(failed, done, len(jobs), Path(out))
    return done


_NOT_OF_RESULTS = (
    "boxes masks void_id allow_odd_masks allow_damaged device save format recon each overwrite".split()
)
"""Options that do not change a file that is written; hints are compared themselves."""


def _job_key(of_model: str, job: Job, options: PredictOptions) -> str:
    settings = {name: value for name, value in asdict(options).items() if name not in _NOT_OF_RESULTS}
    return job_key(of_model, job.source, job.hint, settings)


def notes(model: ObjectCentricModel, options: PredictOptions) -> list[str]:
    """What the options ask for and the model does not have, so that `predict` goes on without: sentences."""
    if not (options.slot_views or options.recon) or not decodes_features_alone(model):
        return []
    asked = [("--slot-views", options.slot_views), ("--recon", options.recon)]
    ignored = " and ".join(name for name, given in asked if given)
    return [
        "This model reconstructs the features of patches and no images: slots are shown through their masks, and "
        f"nothing is written for {ignored}."
    ]


def _predict_file(
    model: ObjectCentricModel, job: Job, options: PredictOptions, key: str, missing: Sequence[str]
) -> None:
    observe, ahead = options.plan(video.frame_count(job.source, options.allow_damaged))
    total, name = observe + ahead, job.source.name
    chunks = _first(video.iter_frames(job.source, options.slice_size, options.allow_damaged), observe)
    view, parts = batches(model, chunks, job.hint, options, options.resolution)
    slices = _slices(model, parts, view, job.hint, options, ahead, str(job.source))
    save, fps = options.saved, options.frame_rate(job.source, total)
    how = {"save": save, "max_side": options.max_side, "fps": fps, "source": name, "notes": missing}
    writer = result_writer(job.target, view, **how)
    with writer as write, progress(name, total, "frames") as advance:
        for part in slices:
            write(part)
            advance(len(part.frames))
    files = {kind: sizes(job.target, paths) for kind, paths in result_files(job.target, save, fps).items()}
    finish(job.target, Record(key, not options.allow_damaged, files))


def _ready(model: ObjectCentricModel | str | Path, options: PredictOptions) -> ObjectCentricModel:
    """The model with the options applied.

    Raises:
        UserError: a bound for a model without memory, or frames to predict for a model that predicts none.
    """
    model = options.ready(model)
    ahead = options.observe is not None or options.rollout is not None
    if ahead and isinstance(model.slot_encoder.predictor, IdentityPredictor):
        raise UserError(
            "This model segments single images and predicts no frames: leave --observe and --rollout out. SAVi and "
            "STATM predict."
        )
    if next(model.parameters()).device.type == "cpu":
        model = decoding_in_parts(model, _IMAGES_AT_ONCE)
    if options.max_frames is None:
        return model
    model = sharing_weights(model)
    if not bound_memory(model, options.max_frames):
        raise UserError(
            "This model remembers no frames, so max_frames has no effect: leave it out. STATM remembers."
        )
    return model


def _first(chunks: Iterable[UInt8[ndarray, "T H W 3"]], count: int) -> Iterator[UInt8[ndarray, "T H W 3"]]:
    for chunk in chunks:
        yield chunk[:count]
        count -= len(chunk)
        if count <= 0:
            return


def _slices(
    model: ObjectCentricModel,
    parts: Iterator[Part],
    view: View,
    hint: FirstFrameHint,
    options: PredictOptions,
    ahead: int = 0,
    name: str = "these frames",
) -> Iterator[Slice]:
    """Observed slices, then `ahead` frames without observations; memory does not grow with their number.

    Raises:
        UserError: values that are not finite, of the video of this `name`.
    """

    def step(part: Part, state: State | None) -> Prediction:
        found = model.predict(part[1], state, slot_recon=options.slot_views, recon=options.recon, attn=False)
        demand_finite(found, [name])
        return found

    found: Prediction | None = None
    order: list[int] = []
    for (frames, batch), found in carry_state(step, parts):
        order = order or slot_order(found, hint)
        images = to_images(batch["video"][0])
        yield _slice(frames, images, found, order)._replace(recon=_beside(images, found, options))
    if found is None:
        return
    size = found.masks.shape[-2], found.masks.shape[-1]
    decoded = {"recon": view.patches is None, "grid": size}
    for unseen in predict_ahead(model, found.state, ahead, options.slice_size, options.slot_views, **decoded):
        demand_finite(unseen, [name])
        images = _expected(unseen, size if view.patches is None else view.resolution)
        part = _slice(view.paste(images), images, unseen, order)
        yield part._replace(predicted=True, recon=_beside(np.zeros_like(images), unseen, options))


def _slice(
    frames: UInt8[ndarray, "T H W 3"], images: UInt8[ndarray, "T h w 3"], found: Prediction, order: list[int]
) -> Slice:
    """A slice with the slots in `order`; the strip shows their own reconstructions if there are any, else `images`."""
    masks, slots = found.masks[0, :, order].float().cpu(), found.slots[0, :, order].float().cpu()
    if found.slot_recon:
        images = to_images(found.slot_recon[preferred_target(found.slot_recon)][0, :, order])
    return Slice(frames, masks, slots.numpy(), images)


def _expected(found: Prediction, size: tuple[int, int]) -> UInt8[ndarray, "T h w 3"]:
    """The reconstructed frames; black ones of `size` if the model reconstructs other targets."""
    if "video" in found.recon:
        return to_images(found.recon["video"][0])
    return np.zeros((found.masks.shape[1], *size, 3), np.uint8)


def _beside(images: UInt8[ndarray, "T h w 3"], found: Prediction, options: PredictOptions) -> list[ndarray]:
    """Each frame beside its reconstruction; empty without `options.recon`.

    Raises:
        UserError: the model reconstructs nothing.
    """
    if not options.recon:
        return []
    if not found.recon:
        raise UserError(
            "This model predicts properties of objects and reconstructs nothing: leave --recon out."
        )
    target = preferred_target(found.recon)
    return beside_input(images, to_images(found.recon[target][0]), target)

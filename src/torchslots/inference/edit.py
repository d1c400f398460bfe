"""Edit the objects of images and videos: remove, keep, move, resize, turn or swap slots, and decode the rest.

Every input is plotted with its slots numbered, as by `predict`; without an edit that is all. The edits
(`torchslots.models.edits`) are made slice by slice, then decoded to a target of the model: frames (`video`), or only
optical flow (`flow`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from numpy import ndarray

from torchslots.inference.inputs import (
    InputOptions,
    InputsFailed,
    Job,
    batches,
    decodes_features_alone,
    jobs_of,
    run_each,
    slot_order,
)
from torchslots.inference.outputs import frame_file, frame_writer
from torchslots.inference.plots import before_and_after, numbered_slots, preferred_target, to_images
from torchslots.io import video
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError
from torchslots.io.progress import progress
from torchslots.metrics.labels import resize_masks
from torchslots.models import edits
from torchslots.models.clips import frames_of
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slices import carry_state, demand_finite
from torchslots.models.types import Clip, Decoded
from torchslots.recipes.config import with_changes

_SLICE = 6
_NO_MEMORY = "The device's memory is full. Give --device cpu."
_CALLED = {"video": "frames", "flow": "optical flow", "depth": "depth"}

Change = Callable[[Clip], Clip]


@dataclass(frozen=True)
class EditOptions(InputOptions):
    """Edits of slots by their numbers in the plot of slots; without an edit only the plot is written."""

    swap: tuple[tuple[int, int], ...] = ()
    """Pairs of slots to exchange between two inputs: slot of the first, slot of the second."""
    move: tuple[tuple[int, float, float], ...] = ()
    """Slot, down, right, in halves of the image: `3 0.5 -0.2`. Needs slots with positions."""
    resize: tuple[tuple[int, float], ...] = ()
    """Slot, factor: `3 1.5`. Needs slots with scales."""
    turn: tuple[tuple[int, float], ...] = ()
    """Slot, degrees counter-clockwise: `3 30`. Needs slots with rotations."""
    remove: tuple[int, ...] = ()
    """Slots to remove; the others share their pixels."""
    keep: tuple[int, ...] = ()
    """The only slots to keep."""
    target: str | None = None
    """Reconstruction to show: video, flow, depth; None: video, or flow if the model has no video."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.remove and self.keep:
            raise UserError("Give either slots to remove or slots to keep, not both.")

    @property
    def changes(self) -> bool:
        """Whether there is any edit."""
        return any((self.swap, self.move, self.resize, self.turn, self.remove, self.keep))


class Edited(NamedTuple):
    """The files of one input."""

    slots: Path
    """The frames with their slots numbered."""
    edited: Path | None
    """The reconstruction before and after; None: nothing was edited."""
    note: str
    """The input's slots, and the reconstruction that is shown."""


def edit(
    model: ObjectCentricModel | str | Path,
    inputs: Path | str | Sequence[Path | str],
    out: Path | str,
    options: EditOptions = EditOptions(),
    **changes: Any,
) -> list[Edited]:
    """Edit the slots of images and videos and decode them again: all inputs alike, or two that exchange slots.

    Writes `slots.png` (of a video `slots.mp4`) and, with an edit, `edited.png` (`edited.mp4`) with the reconstruction
    before and after, into a folder below `out` for each input.

    Args:
        model: a model, a run or model folder, or owner/name on the Hugging Face hub.
        options: the edits.
        changes: fields of `EditOptions` by name, in place of those of `options`: `remove=(2, 5)`.

    Raises:
        UserError: an input that cannot be read, a slot that does not exist, an edit that the model's slots do not
            allow, two inputs of different lengths, or a model that reconstructs nothing.
        InputsFailed: some of several inputs failed; the others are done.
    """
    options = with_changes(options, **changes)
    model = options.ready(model)
    if options.changes and decodes_features_alone(model):
        raise UserError(
            "This model reconstructs the features of patches and no images, so an edit has nothing to show. Leave the "
            "edits out to number its slots, or give a model that reconstructs frames or flow."
        )
    jobs = jobs_of(inputs, out, options, each=False)
    if options.swap and len(jobs) != 2:
        raise UserError(f"Slots are exchanged between two inputs, got {len(jobs)}. Give two.")
    groups = [jobs] if options.swap else [[job] for job in jobs]
    done, failed = run_each(groups, partial(_edit_together, model, options=options), _NO_MEMORY)
    if failed:
        raise InputsFailed(failed, done, len(jobs), Path(out))
    return done


def changes_of(options: EditOptions) -> Change:
    """The edits of one clip in order; slots are removed last, so that numbers do not change before."""
    steps: list[Change] = [
        *(partial(edits.move, slot=slot, dy=dy, dx=dx) for slot, dy, dx in options.move),
        *(partial(edits.resize, slot=slot, factor=factor) for slot, factor in options.resize),
        *(partial(edits.turn, slot=slot, angle=math.radians(angle)) for slot, angle in options.turn),
    ]
    if options.remove:
        steps.append(partial(edits.remove, slots=options.remove))
    if options.keep:
        steps.append(partial(edits.keep, slots=options.keep))

    def change(clip: Clip) -> Clip:
        for step in steps:
            clip = step(clip)
        return clip

    return change


def _edit_together(model: ObjectCentricModel, jobs: list[Job], options: EditOptions) -> list[Edited]:
    """One input, or two that exchange slots."""
    for job in jobs:
        job.require()
    lengths = [video.frame_count(job.source, options.allow_damaged) for job in jobs]
    if len(set(lengths)) > 1:
        raise UserError(
            f"{jobs[0].source} has {count_text(lengths[0], 'frame')} and {jobs[1].source} {lengths[1]}: only "
            "inputs of equal length "
            "can exchange slots. Cut the longer one."
        )
    slices = zip(*(_slices(model, job, options) for job in jobs))
    with ExitStack() as stack:
        shown = stack, decodes_features_alone(model)
        results = [_Result(job, options, options.frame_rate(job.source, lengths[0]), *shown) for job in jobs]
        advance = stack.enter_context(progress(jobs[0].source.name, lengths[0], "frames"))
        for parts in slices:
            after = _edited(model, [part.clip for part in parts], options)
            for result, part, edited in zip(results, parts, after):
                result.write(part, edited)
            advance(len(parts[0].images))
    return [Edited(result.slots, result.edited, result.note) for result in results]


class _Slice(NamedTuple):
    """Frames at the model's resolution, their slots in the order of their numbers, and the decoded slots."""

    images: UInt8[ndarray, "T h w 3"]
    clip: Clip
    decoded: Decoded


def _slices(model: ObjectCentricModel, job: Job, options: EditOptions) -> Iterator[_Slice]:
    """The slices of an input before edits, so that an edit of one frame does not affect the next."""
    _, parts = batches(model, video.iter_frames(job.source, _SLICE, options.allow_damaged), job.hint, options)
    order: list[int] = []
    name = [str(job.source)]
    for batch, clip in carry_state(torch.no_grad()(model.encode), (batch for _, batch in parts)):
        demand_finite(clip, name)
        with torch.no_grad():
            order = order or slot_order(model.decode(clip, recon=False), job.hint)
            clip = edits.keep(clip, order)
            part = _Slice(to_images(batch["video"][0]), clip, _decoded(model, clip, options.changes))
        demand_finite(part.decoded, name)
        yield part  # outside of no_grad, which must not stay active while a generator is suspended


def _decoded(model: ObjectCentricModel, clip: Clip, recon: bool) -> Decoded:
    """Masks and reconstructions; without `recon`, which is slow in generative models, only the first frame's, which
    names the targets. Features are no images, and are left out."""
    if decodes_features_alone(model):
        return model.decoder.decode(clip, recon=False)
    if recon:
        return model.decoder.decode(clip)
    first = model.decoder.decode(frames_of(clip, slice(0, 1)))
    return model.decoder.decode(clip, recon=False)._replace(recon=first.recon)


@torch.no_grad()
def _edited(model: ObjectCentricModel, clips: list[Clip], options: EditOptions) -> list[Decoded | None]:
    """Decode the edited slots; None without edits."""
    if not options.changes:
        return [None for _ in clips]
    if options.swap:
        clips = list(edits.swap(clips[0], clips[1], options.swap))
    return [model.decoder.decode(changes_of(options)(clip)) for clip in clips]


class _Result:
    """Writes the files of one input slice by slice; each file appears as a whole when `stack` ends without error."""

    def __init__(
        self, job: Job, options: EditOptions, fps: float | None, stack: ExitStack, features: bool = False
    ) -> None:
        self._target, self._features, self.note = options.target, features, ""
        self.slots = frame_file(job.target, "slots", fps)
        self.edited = frame_file(job.target, "edited", fps) if options.changes else None
        self._write_slots = stack.enter_context(frame_writer(self.slots, fps))
        if self.edited is not None:
            self._write_edited = stack.enter_context(frame_writer(self.edited, fps))
        else:  # of an earlier input of the other kind
            (job.target / ("edited.mp4" if fps is None else "edited.png")).unlink(missing_ok=True)

    def write(self, part: _Slice, after: Decoded | None) -> None:
        recon, pose, size = part.decoded.recon, part.clip.pose, part.images.shape[1:3]
        masks = resize_masks(part.decoded.masks[0].float().cpu(), (size[0], size[1])).numpy()
        slots = f"Slots 0 to {masks.shape[1] - 1}, 0 being the background."
        if self._features:
            target, self.note = "", f"{slots} The model reconstructs the features of patches and no images."
        else:
            target = _target(recon, self._target)
            only = "." if "video" in recon else ": the model was trained to reconstruct no frames."
            self.note = f"{slots} Shown: {_CALLED.get(target, target)}{only}"
        pose = None if pose is None else pose.map(lambda values: values[0])
        for plot in numbered_slots(part.images, masks, pose):
            self._write_slots(plot)
        if after is not None:
            for plot in before_and_after(part.images, recon[target][0], after.recon[target][0], target):
                self._write_edited(plot)


def _target(recon: dict[str, torch.Tensor], asked: str | None) -> str:
    """The reconstruction to show.

    Raises:
        UserError: a target that the model lacks, or a model without targets.
    """
    if not recon:
        raise UserError(
            "This model predicts properties of objects and reconstructs nothing, so there is nothing to edit. Give a "
            "model that reconstructs frames or flow."
        )
    if asked is not None and asked not in recon:
        raise UserError(f"This model does not reconstruct `{asked}`. Choose from: {', '.join(recon)}.")
    return asked or preferred_target(recon)

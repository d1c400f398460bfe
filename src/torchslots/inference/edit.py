"""Objects of your own pictures and videos taken out, moved, enlarged, turned or exchanged, and painted again.

First every input is shown with its slots numbered, as `predict` numbers them; without an edit that is all. The edits
are made on slots (`torchslots.models.edits`), slice by slice, and the decoder paints the result. What a model paints is
what it was trained to: frames (`video`), or only optical flow (`flow`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from torchslots.hub import load_model
from torchslots.inference.draw_poses import draw_poses
from torchslots.inference.generation import SamplingOptions, with_sampling
from torchslots.inference.inputs import hint_of, result_folders, slot_order, sources, start_batch
from torchslots.inference.outputs import film_writer, make_folder, still_writer
from torchslots.inference.view import Hint, View
from torchslots.io import video
from torchslots.io.draw import contact_sheet, number_slots, overlay, scale_up
from torchslots.io.errors import UserError
from torchslots.io.progress import progress
from torchslots.models import edits as editing
from torchslots.models.adjust import with_counts
from torchslots.models.clips import frames_of
from torchslots.models.layers.ranges import to_bytes
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Clip, Decoded, State

_TILE = 192
_SLICE = 6
_PREFERRED = ("video", "flow")
_CALLED = {"video": "frames", "flow": "optical flow", "depth": "depth"}
Change = Callable[[Clip], Clip]


@dataclass(frozen=True)
class EditOptions:
    """Which slots to change, and how. Numbers are those in the picture of slots; without an edit only that is drawn."""

    swap: tuple[tuple[int, int], ...] = ()
    """Pairs of slots to exchange between two inputs: of the first, of the second."""
    move: tuple[tuple[int, float, float], ...] = ()
    """Slot, down, right, in halves of the picture: `3 0.5 -0.2`. Needs slots with positions."""
    resize: tuple[tuple[int, float], ...] = ()
    """Slot, factor: `3 1.5`. Needs slots with scales."""
    turn: tuple[tuple[int, float], ...] = ()
    """Slot, degrees counter-clockwise: `3 30`. Needs slots with rotations."""
    remove: tuple[int, ...] = ()
    """Slots to take out; the others share their pixels."""
    keep: tuple[int, ...] = ()
    """The only slots to keep."""
    target: str | None = None
    """What to show of what the model paints: video, flow, depth; None: video, or flow where there is no video."""
    boxes: Path | None = None
    """JSON with the boxes of the first frame, for models that need them; with several inputs a folder of NAME.json."""
    masks: Path | None = None
    """Mask of the first frame, for models that need one; with several inputs a folder of NAME.png."""
    num_slots: int | None = None
    """Slots, background included, for models that draw them at random; None: what it was built for."""
    num_iterations: int | None = None
    """Rounds of slot attention in each frame; None: what it was built for."""
    seed: int = 0
    """Seed of slots that are drawn at random."""
    fps: float | None = None
    """Frames in a second of the written videos; None: as the input."""
    device: str = "cpu"
    """Where to run: cpu, cuda, cuda:1, mps."""
    paint: SamplingOptions = field(default_factory=SamplingOptions)

    def __post_init__(self) -> None:
        if self.remove and self.keep:
            raise UserError("Give either slots to remove or slots to keep: each says what the other would.")
        for name in ("num_slots", "num_iterations", "fps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} should be more than 0, got {value}.")

    @property
    def changes(self) -> bool:
        """Whether anything is edited at all."""
        return any((self.swap, self.move, self.resize, self.turn, self.remove, self.keep))


class Edited(NamedTuple):
    """What was written of one input: the numbered slots, and before beside after where something was edited."""

    slots: Path
    edited: Path | None
    note: str
    """What the model paints, and which slots the input has."""


def edit(
    model: ObjectCentricModel | str | Path,
    inputs: Sequence[Path | str],
    out: Path | str,
    options: EditOptions = EditOptions(),
) -> list[Edited]:
    """Edit the slots of pictures and videos and paint them again; all inputs in the same way, or two with each other.

    Writes `slots.png` (of a video `slots.mp4`) and, where something is edited, `edited.png`, what the model paints
    before and after, into a folder below `out` for each input.

    Raises:
        UserError: an input that cannot be read, a slot that is not there, an edit that this model's slots do not allow,
            two inputs that cannot be exchanged, a model that paints nothing.
    """
    ready = load_model(model, device=options.device) if isinstance(model, (str, Path)) else model
    ready = with_sampling(with_counts(ready, num_iterations=options.num_iterations), options.paint)
    pairs = result_folders(sources([Path(path) for path in inputs]), Path(out))
    if options.swap and len(pairs) != 2:
        raise UserError(f"Slots are exchanged between two inputs, got {len(pairs)}. Give two.")
    hints = [hint_of(target.name, options, len(pairs)) for _, target in pairs]
    groups = [pairs] if options.swap else [[pair] for pair in pairs]
    given = iter(hints)
    return [
        done
        for group in groups
        for done in _edit_together(ready, [(*pair, next(given)) for pair in group], options)
    ]


def changes_of(options: EditOptions) -> Change:
    """The edits of one clip, one after the other; what takes slots out comes last, so that numbers hold."""
    steps: list[Change] = [
        *(partial(editing.move, slot=slot, dy=dy, dx=dx) for slot, dy, dx in options.move),
        *(partial(editing.resize, slot=slot, factor=factor) for slot, factor in options.resize),
        *(partial(editing.turn, slot=slot, angle=math.radians(angle)) for slot, angle in options.turn),
    ]
    if options.remove:
        steps.append(partial(editing.remove, slots=options.remove))
    if options.keep:
        steps.append(partial(editing.keep, slots=options.keep))

    def change(clip: Clip) -> Clip:
        for step in steps:
            clip = step(clip)
        return clip

    return change


# ------------------------------------------------------------------------------------------------------ inputs


class Seen(NamedTuple):
    """A slice of frames as the model sees them [T, h, w, 3], its slots in the order of their numbers, and what they
    paint."""

    small: UInt8[ndarray, "T h w 3"]
    clip: Clip
    decoded: Decoded


def _slices(model: ObjectCentricModel, source: Path, hint: Hint, options: EditOptions) -> Iterator[Seen]:
    """Slice after slice, never edited, so that an edit of one frame does not carry on into the next."""
    state: State | None = None
    order: list[int] = []
    batch: dict[str, Any] = {}
    view: View | None = None
    for frames in video.iter_frames(source, _SLICE):
        if view is None:
            view = View(*frames.shape[1:3], resolution=tuple(model.config.resolution))
            batch = start_batch(model, view, hint, options)
        small = view.shrink(frames)
        with torch.no_grad():
            clip = model.encode(batch | {"video": small.to(batch["generator"].device)}, state)
            state, order = clip.state, order or slot_order(model.decode(clip, recon=False), hint)
            clip = editing.keep(clip, order)
            seen = Seen(_bytes(small[0]), clip, _decoded(model, clip, options.changes))
        yield seen  # outside: a generator must not suspend with gradients switched off


def _decoded(model: ObjectCentricModel, clip: Clip, paints: bool) -> Decoded:
    """Masks of all frames and what they paint; where nothing is edited only the first frame is painted, to learn what
    the model paints at all: a model that generates takes long."""
    if paints:
        return model.decoder.decode(clip)
    first = model.decoder.decode(frames_of(clip, slice(0, 1)))
    return model.decoder.decode(clip, recon=False)._replace(recon=first.recon)


def _edit_together(
    model: ObjectCentricModel, work: list[tuple[Path, Path, Hint]], options: EditOptions
) -> list[Edited]:
    """One input, or two that exchange slots."""
    lengths = [video.frame_count(source) for source, _, _ in work]
    if len(set(lengths)) > 1:
        raise UserError(
            f"{work[0][0]} has {lengths[0]} frames and {work[1][0]} {lengths[1]}: only inputs of equal length can "
            "exchange slots. Cut the longer one."
        )
    streams = [_slices(model, source, hint, options) for source, _, hint in work]
    with ExitStack() as stack:
        outputs = [
            stack.enter_context(_Output(target, _fps(source, lengths[0], options), options.changes))
            for source, target, _ in work
        ]
        advance = stack.enter_context(progress(work[0][0].name, lengths[0], "frames"))
        for parts in zip(*streams):
            after = _changed(model, [part.clip for part in parts], options)
            for part, new, output in zip(parts, after, outputs):
                output.write(part, new, _target(part.decoded, options.target))
            advance(len(parts[0].small))
    return [output.done() for output in outputs]


def _changed(model: ObjectCentricModel, clips: list[Clip], options: EditOptions) -> list[Decoded | None]:
    """What the edited slots paint; None where nothing is edited."""
    if not options.changes:
        return [None for _ in clips]
    if options.swap:
        clips = list(editing.swap(clips[0], clips[1], options.swap))
    with torch.no_grad():
        return [model.decoder.decode(changes_of(options)(clip)) for clip in clips]


def _fps(source: Path, num_frames: int, options: EditOptions) -> float | None:
    """None for a picture."""
    return None if num_frames == 1 else float(options.fps or video.fps(source) or 12)


def _target(decoded: Decoded, asked: str | None) -> str:
    """What to show of what the model paints.

    Raises:
        UserError: a target that it does not paint, or a model that paints nothing.
    """
    if not decoded.recon:
        raise UserError(
            "This model names properties of objects and paints no pictures, so there is nothing to edit."
        )
    if asked is not None and asked not in decoded.recon:
        raise UserError(f"This model does not paint `{asked}`. It paints: {', '.join(decoded.recon)}.")
    return asked or next((name for name in _PREFERRED if name in decoded.recon), next(iter(decoded.recon)))


# ----------------------------------------------------------------------------------------------------- outputs


class _Output:
    """The files of one input, written as the slices come; each appears whole once all went well."""

    def __init__(self, folder: Path, fps: float | None, changes: bool) -> None:
        suffix = ".png" if fps is None else ".mp4"
        self._open = still_writer if fps is None else partial(film_writer, fps=fps)
        self._slots = folder / f"slots{suffix}"
        self._edited = folder / f"edited{suffix}" if changes else None
        self._files = ExitStack()
        self._note = ""

    def __enter__(self) -> "_Output":
        make_folder(self._slots.parent)
        self._write_slots = self._files.enter_context(self._open(self._slots))
        if self._edited is not None:
            self._write_edited = self._files.enter_context(self._open(self._edited))
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._files.__exit__(*error)

    def write(self, part: Seen, after: Decoded | None, target: str) -> None:
        """Draw a slice."""
        self._note = _note(part.decoded, target)
        for picture in _numbered(part):
            self._write_slots(picture)
        if after is not None:
            for picture in _compared(part, after, target):
                self._write_edited(picture)

    def done(self) -> Edited:
        """What was written."""
        return Edited(self._slots, self._edited, self._note)


def _note(decoded: Decoded, target: str) -> str:
    """Which slots there are and what is shown of them."""
    last = decoded.masks.shape[2] - 1
    shown = f"Painted by the model: {_CALLED.get(target, target)}"
    only = "." if "video" in decoded.recon else ": it was trained to paint no frames."
    return f"Slots 0 to {last}, 0 being the background. {shown}{only}"


def _numbered(part: Seen) -> Iterator[UInt8[ndarray, "H W 3"]]:
    """Each frame, beside it the frame with its slots tinted, numbered and, where they have one, their frames drawn."""
    masks = part.decoded.masks[0].float().cpu().numpy()
    for t, small in enumerate(part.small):
        large = scale_up(small, _TILE)
        factor = len(large) // len(small)
        ids = masks[t].argmax(0).repeat(factor, 0).repeat(factor, 1)
        if part.clip.pose is None:
            tinted = overlay(large, ids, opacity=0.4)
        else:
            pose = part.clip.pose.map(lambda values, t=t: values[0, t])
            tinted = draw_poses(small, pose, masks[t], hidden=(0,))
        unseen = sorted({*range(masks.shape[1])} - {*np.unique(ids).tolist()})
        label = "slots" + (f" (no pixels: {', '.join(map(str, unseen))})" if unseen else "")
        yield contact_sheet([large, number_slots(tinted, ids)], ["input", label], columns=2, tile=_TILE)


def _compared(part: Seen, after: Decoded, target: str) -> Iterator[UInt8[ndarray, "H W 3"]]:
    """Each frame, what its slots paint, and what the edited slots paint."""
    before, edited = _painted(part.decoded.recon[target][0], after.recon[target][0])
    labels = ["input", f"{target} before", f"{target} after"]
    for pictures in zip(part.small, before, edited):
        yield contact_sheet(list(pictures), labels, columns=3, tile=_TILE)


def _painted(*pictures: Float[Tensor, "T C h w"]) -> list[UInt8[ndarray, "T h w 3"]]:
    """As bytes; one channel (depth) becomes grey from the least to the greatest value of all pictures."""
    if pictures[0].shape[1] == 3:
        return [_bytes(picture) for picture in pictures]
    low = min(float(picture.min()) for picture in pictures)
    high = max(float(picture.max()) for picture in pictures)
    span = max(high - low, 1e-6)
    return [_bytes(((picture - low) / span).expand(-1, 3, -1, -1)) for picture in pictures]


def _bytes(pictures: Float[Tensor, "T 3 h w"]) -> UInt8[ndarray, "T h w 3"]:
    return np.ascontiguousarray(to_bytes(pictures).movedim(1, -1).cpu().numpy())

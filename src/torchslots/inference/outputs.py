"""The files of a prediction, written slice by slice: overlay, masks, strip, slots and tracks.

Masks in `tracks.json` are COCO's uncompressed run lengths: `counts` are alternately of pixels outside and inside the
mask, outside first, column by column. `decode_mask` reads them.
"""

import json
import queue
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from torchslots.data.formats import coco_masks
from torchslots.inference.formats import FILES, Found, FrameFound, format_writer
from torchslots.inference.view import View, resized
from torchslots.io.draw import PALETTE, mark_predicted, overlay, slot_strip
from torchslots.io.files import atomic_file
from torchslots.io.video import write_palette_png, write_png, write_video

OUTPUTS = ("overlay", "masks", "strip", "slots", "tracks")
_SINGLE = {"slots": "slots.npz", "tracks": "tracks.json"}
_NUMBERED = re.compile(r"\d{5,}")
WriteFrame = Callable[[Any], None]
_SLICES_AHEAD, _FRAMES_AHEAD = 1, 4
"""Slices, and frames of a film, that may wait to be written while the model goes on."""
_END = object()
"""Put into a queue after its last item."""
_STRIP_SIDE = 160
"""Pixels of the short side of frames in the strip of a model on patches."""


class Slice(NamedTuple):
    """Frames and their prediction."""

    frames: UInt8[ndarray, "T H W 3"]
    masks: Float[Tensor, "T K h w"]
    slots: Float[ndarray, "T K D"]
    images: UInt8[ndarray, "..."]
    """Images of the strip, shown through the masks: [T, h, w, 3], or each slot's own [T, K, h, w, 3]."""
    predicted: bool = False
    """Whether the frames were predicted without observations."""
    recon: Sequence[UInt8[ndarray, "H W 3"]] = ()
    """Each frame beside its reconstruction; empty: not requested."""

    def only(self, frame: int) -> "Slice":
        """One of the frames."""
        one = slice(frame, frame + 1)
        frames, masks, slots, images = self.frames[one], self.masks[one], self.slots[one], self.images[one]
        return Slice(frames, masks, slots, images, self.predicted, self.recon[one])


@contextmanager
def result_writer(
    folder: Path,
    view: View,
    *,
    save: tuple[str, ...],
    max_side: int,
    fps: float | None,
    source: str,
    notes: Sequence[str] = (),
) -> Iterator[Callable[[Slice], None]]:
    """Open the files named in `save`; yields write(slice). Each appears as a whole if the block ends without error.

    Args:
        save: names from `OUTPUTS` and `formats.FILES`, and `recon`.
        max_side: longest side of overlay and masks in pixels.
        fps: frames per second of the videos; None: one image, written as PNG.
        source: name of the input, for tracks.json.
        notes: sentences for tracks.json, on what could not be written.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    size = view.canvas(max_side)
    about = {"source": source, "fps": fps, "size": size, **view.describe()}
    about |= {"notes": list(notes)} if notes else {}
    opened: dict[str, Callable[[], AbstractContextManager[WriteFrame]]] = {
        "overlay": lambda: frame_writer(frame_file(folder, "overlay", fps), fps),
        "masks": lambda: _mask_writer(folder / "masks"),
        "strip": lambda: frame_writer(frame_file(folder, "slots", fps), fps),
        "slots": lambda: _slot_writer(folder / _SINGLE["slots"]),
        "tracks": lambda: _track_writer(folder / _SINGLE["tracks"], about),
        "recon": lambda: frame_writer(frame_file(folder, "recon", fps), fps),
    }
    opened |= {name: partial(format_writer, name, folder, source) for name in FILES}
    with ExitStack() as stack:
        sinks = {name: stack.enter_context(opened[name]()) for name in opened if name in save}
        yield stack.enter_context(_fed(partial(_write_all, sinks, view, size), _SLICES_AHEAD))


def _write_all(
    sinks: dict[str, WriteFrame], view: View, size: tuple[int, int], parts: Iterable[Slice]
) -> None:
    for part in parts:
        for frame in range(len(part.frames)):
            _write(sinks, view, size, part.only(frame))


def _write(sinks: dict[str, WriteFrame], view: View, size: tuple[int, int], part: Slice) -> None:
    ids = view.enlarge(part.masks, size)
    ids = ids.astype(np.uint8) if part.masks.shape[1] <= 256 else ids
    mark = mark_predicted if part.predicted else np.asarray
    items: dict[str, Callable[[], Iterable[Any]]] = {
        "overlay": lambda: (mark(overlay(resized(frame, size), i)) for frame, i in zip(part.frames, ids)),
        "masks": lambda: ids,
        "strip": lambda: map(mark, _strip(part, view)),
        "slots": lambda: part.slots,
        "tracks": lambda: ((i, part.predicted) for i in ids),
        "recon": lambda: map(mark, part.recon),
    }
    tables = [
        _frame_found(i, slots, part.predicted) for i, slots in zip(ids, part.slots) if sinks.keys() & FILES
    ]
    items |= {name: lambda: tables for name in FILES}
    for name, write in sinks.items():
        for item in items[name]():
            write(item)


def _frame_found(ids: Int[ndarray, "H W"], slots: Float[ndarray, "K D"], predicted: bool) -> FrameFound:
    found = [Found(each.slot, each.box, each.area) for each in object_masks(ids)]
    return FrameFound(ids, found, slots, predicted)


def _strip(part: Slice, view: View) -> UInt8[ndarray, "T H W 3"]:
    """Each slot alone; of masks of patches, images and masks get the shape of what is seen, at a size that fits beside
    each other."""
    images, masks = part.images, part.masks
    if view.patches is not None:
        top, left, bottom, right = view.crop
        scale = _STRIP_SIDE / min(bottom - top, right - left)
        size = max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale))
        images = np.stack([resized(image, size) for image in images])
        masks = F.interpolate(masks, size, mode="bilinear")
    return slot_strip(images, masks.numpy())


class ObjectMask(NamedTuple):
    """One slot in one frame: its box (ymin, xmin, ymax, xmax) in [0, 1], pixels, and run lengths."""

    slot: int
    box: tuple[float, float, float, float]
    area: int
    counts: list[int]


def object_masks(ids: Int[ndarray, "H W"]) -> list[ObjectMask]:
    """Box, area and run lengths of every slot with pixels in the frame."""
    flat = ids.T.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")  # the runs of each slot together, in their order
    values, starts, ends, (height, width) = flat[starts[order]], starts[order], ends[order], ids.shape
    left, right = starts // height, (ends - 1) // height
    whole = left < right  # a run into the next column begins at its first row
    top, bottom = np.where(whole, 0, starts % height), np.where(whole, height - 1, (ends - 1) % height)
    bounds = np.column_stack([starts, ends])
    firsts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    found = []
    for first, last in zip(firsts, [*firsts[1:], len(values)]):
        own = slice(first, last)
        counts = np.diff(bounds[own].ravel(), prepend=0, append=flat.size)
        counts = counts[: len(counts) - (counts[-1] == 0)].tolist()
        area = int((ends[own] - starts[own]).sum())
        box = (
            int(top[own].min()) / height,
            int(left[own].min()) / width,
            (int(bottom[own].max()) + 1) / height,
            (int(right[own].max()) + 1) / width,
        )
        found.append(ObjectMask(int(values[first]), box, area, counts))
    return found


def decode_mask(mask: dict[str, Any]) -> Bool[ndarray, "H W"]:
    """The mask of `{"size": [H, W], "counts": [...]}` in tracks.json.

    Raises:
        MalformedExample: its run lengths do not make up that size.
    """
    return coco_masks.decode_mask(mask, *mask["size"])


@contextmanager
def _track_writer(file: Path, about: dict[str, Any]) -> Iterator[WriteFrame]:
    """Write tracks.json frame by frame: `about`, `frames`, then a summary of `slots`.

    Yields write((ids, predicted)); the entry of a predicted frame has `"predicted": true`.
    """
    seen: dict[int, dict[str, int]] = {}
    number = 0
    with atomic_file(file) as part, part.open("w") as out:
        out.write(json.dumps(about)[:-1] + ', "frames": [')

        def write(item: tuple[Int[ndarray, "H W"], bool]) -> None:
            nonlocal number
            ids, predicted = item
            found = object_masks(ids)
            entry = _frame_entry(number, ids.shape, found) | ({"predicted": True} if predicted else {})
            out.write(",\n" * (number > 0) + json.dumps(entry))
            for mask in found:
                first = seen.setdefault(mask.slot, {"slot": mask.slot, "first_frame": number, "frames": 0})
                first |= {"last_frame": number, "frames": first["frames"] + 1}
            number += 1

        yield write
        out.write('],\n"slots": ' + json.dumps([seen[slot] for slot in sorted(seen)]) + "}\n")


def _frame_entry(number: int, size: tuple[int, ...], found: list[ObjectMask]) -> dict[str, Any]:
    objects = []
    for slot, box, area, counts in found:
        mask = {"size": list(size), "counts": counts}
        objects.append({"slot": slot, "box": [round(side, 5) for side in box], "area": area, "mask": mask})
    return {"frame": number, "objects": objects}


@contextmanager
def _mask_writer(folder: Path) -> Iterator[WriteFrame]:
    """Write indexed images of slot numbers, 00000.png and so on; remove later ones of an earlier, longer video."""
    number = 0

    def write(ids: Int[ndarray, "H W"]) -> None:
        nonlocal number
        write_palette_png(folder / f"{number:05d}.png", ids, PALETTE)
        number += 1

    yield write
    for file in folder.glob("*.png"):
        if _NUMBERED.fullmatch(file.stem) and int(file.stem) >= number:
            file.unlink()


@contextmanager
def _slot_writer(file: Path) -> Iterator[WriteFrame]:
    """Collect slots on disk, then write `slots` [T, K, D] float32 as .npz; yields write(slots of a frame)."""
    shape: tuple[int, ...] = (0,)
    with atomic_file(file) as part, tempfile.TemporaryFile(dir=file.parent) as raw:

        def write(slots: Float[ndarray, "K D"]) -> None:
            nonlocal shape
            shape = slots.shape
            raw.write(np.ascontiguousarray(slots, dtype="<f4").tobytes())

        yield write
        raw.flush()
        every = np.memmap(raw, dtype="<f4", mode="r").reshape(-1, *shape)
        with part.open("wb") as out:
            np.savez(out, slots=every)


def frame_file(folder: Path, name: str, fps: float | None) -> Path:
    """Path of a video NAME.mp4; without `fps` of an image NAME.png."""
    return folder / (f"{name}.png" if fps is None else f"{name}.mp4")


@contextmanager
def frame_writer(file: Path, fps: float | None) -> Iterator[WriteFrame]:
    """Write frames to a video, or without `fps` the only frame to an image; yields write(frame).

    A block that ends with an error leaves no video; an error of the encoder is raised by the next write. An image or
    video of the same name, of an earlier input, is removed.
    """
    with nullcontext(partial(write_png, file)) if fps is None else _film_writer(file, fps) as write:
        yield write
    file.with_suffix(".mp4" if fps is None else ".png").unlink(missing_ok=True)


def result_files(folder: Path, save: tuple[str, ...], fps: float | None) -> dict[str, list[Path]]:
    """The files of each name in `save`, as `result_writer` writes them."""
    films = {"overlay": "overlay", "strip": "slots", "recon": "recon"}
    found = {name: [frame_file(folder, films[name], fps)] for name in save if name in films}
    found |= {name: [folder / file] for name, file in _SINGLE.items() if name in save}
    found |= {name: [folder / file for file in FILES[name]] for name in save if name in FILES}
    if "masks" in save:
        found["masks"] = [file for file in (folder / "masks").glob("*.png") if _NUMBERED.fullmatch(file.stem)]
    return found


@contextmanager
def _film_writer(file: Path, fps: float) -> Iterator[WriteFrame]:
    """Encode in a separate thread, so that several videos are encoded in parallel."""
    with _fed(partial(write_video, file, fps=fps), _FRAMES_AHEAD) as write:
        yield write


@contextmanager
def _fed(consume: Callable[[Iterable[Any]], object], ahead: int) -> Iterator[WriteFrame]:
    """Run `consume(items)` in a thread of its own; yields write(item), which waits while `ahead` items are waiting.

    An error of `consume` is raised by the next write, or at the end. An error in the block ends the items with one.
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=ahead)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(consume, _until_end(waiting))

        def write(item: Any) -> None:
            while not running.done():
                try:
                    return waiting.put(item, timeout=0.2)
                except queue.Full:
                    continue
            running.result()

        try:
            yield write
        except BaseException:
            with suppress(Exception):  # of `consume`: it must not hide the block's
                write(_Abandoned())
            running.exception()
            raise
        write(_END)
        running.result()


class _Abandoned(Exception):
    """Put into a queue to end it with an error, so that no file is left."""


def _until_end(waiting: "queue.Queue[Any]") -> Iterator[Any]:
    while (item := waiting.get()) is not _END:
        if isinstance(item, _Abandoned):
            raise item
        yield item

"""What a prediction leaves on the disk, written as it comes: overlay, masks, strip, slots and tracks.

Masks in `tracks.json` are COCO's run lengths, uncompressed: `counts` alternate between pixels outside and
inside the mask, outside first, counted down the columns, and sum to height times width. `decode_mask` reads
them.
"""

import json
import queue
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from scipy import ndimage
from torch import Tensor

from torchslots.inference.view import View, box_of, resized
from torchslots.io.draw import PALETTE, mark_predicted, overlay, slot_strip
from torchslots.io.errors import UserError
from torchslots.io.files import atomic_file
from torchslots.io.video import write_palette_png, write_png, write_video

OUTPUTS = ("overlay", "masks", "strip", "slots", "tracks")

WriteFrame = Callable[[Any], None]


class Slice(NamedTuple):
    """A few frames and what the model says about them; the strip shows `pictures` through the masks. `predicted`: the
    frames are the model's own, it was not shown any."""

    frames: UInt8[ndarray, "T H W 3"]
    masks: Float[Tensor, "T K h w"]
    slots: Float[ndarray, "T K D"]
    pictures: UInt8[ndarray, "..."]
    predicted: bool = False
    recon: Sequence[UInt8[ndarray, "H W 3"]] | None = None
    """Each frame beside what the model paints; None: not asked for."""


@contextmanager
def result_writer(
    folder: Path, view: View, *, save: tuple[str, ...], max_side: int, fps: float | None, source: str
) -> Iterator[Callable[[Slice], None]]:
    """Open the files named in `save`, recon.mp4 among them; yields write(slice). Each file appears whole once the block
    ends well.

    Args:
        max_side: longest side of overlay and masks in pixels.
        fps: frames in a second of the videos; None: one picture, so PNG.
        source: name of the input, noted in tracks.json.
    """
    make_folder(folder)
    size = view.canvas(max_side)
    suffix, film = (".png", still_writer) if fps is None else (".mp4", partial(film_writer, fps=fps))
    about = {"source": source, "fps": fps, "size": size, **view.describe()}
    opened = {
        "overlay": lambda: film(folder / f"overlay{suffix}"),
        "masks": lambda: _mask_writer(folder / "masks"),
        "strip": lambda: film(folder / f"slots{suffix}"),
        "slots": lambda: _slot_writer(folder / "slots.npz"),
        "tracks": lambda: _track_writer(folder / "tracks.json", about),
        "recon": lambda: film(folder / f"recon{suffix}"),
    }
    with ExitStack() as stack:
        sinks = {name: stack.enter_context(opened[name]()) for name in opened if name in save}
        yield partial(_write, sinks, view, size)


def make_folder(folder: Path) -> None:
    """Make a folder for results.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}). Choose another folder.") from error


def _write(sinks: dict[str, WriteFrame], view: View, size: tuple[int, int], part: Slice) -> None:
    ids = view.enlarge(part.masks, size)
    mark = mark_predicted if part.predicted else np.asarray
    items: dict[str, Callable[[], Iterable[Any]]] = {
        "overlay": lambda: (mark(overlay(resized(frame, size), i)) for frame, i in zip(part.frames, ids)),
        "masks": lambda: ids,
        "strip": lambda: map(mark, slot_strip(part.pictures, part.masks.numpy())),
        "slots": lambda: part.slots,
        "tracks": lambda: ((i, part.predicted) for i in ids),
        "recon": lambda: map(mark, part.recon or ()),
    }
    for name, write in sinks.items():
        for item in items[name]():
            write(item)


# ------------------------------------------------------------------------------------------------------ masks


class ObjectMask(NamedTuple):
    """One slot in one frame: its box (ymin, xmin, ymax, xmax) in [0, 1], pixels, and run lengths."""

    slot: int
    box: tuple[float, float, float, float]
    area: int
    counts: list[int]


def object_masks(ids: Int[ndarray, "H W"]) -> list[ObjectMask]:
    """Every slot that has pixels in the frame, with box, area and run lengths."""
    flat = ids.T.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    values, places = flat[starts], ndimage.find_objects(ids.astype(np.int32) + 1)
    found = []
    for slot in np.unique(values).tolist():
        own = values == slot
        bounds = np.column_stack([starts[own], ends[own]]).ravel()
        counts = np.diff(bounds, prepend=0, append=flat.size)
        area = int((ends[own] - starts[own]).sum())
        place = places[slot]
        found.append(
            ObjectMask(
                slot, box_of(place, ids.shape), area, counts[: len(counts) - (counts[-1] == 0)].tolist()
            )
        )
    return found


def decode_mask(mask: dict[str, Any]) -> Bool[ndarray, "H W"]:
    """The mask that `{"size": [H, W], "counts": [...]}` of tracks.json stands for."""
    height, width = mask["size"]
    inside = np.arange(len(mask["counts"])) % 2 == 1
    return np.repeat(inside, mask["counts"]).reshape(width, height).T


# ---------------------------------------------------------------------------------------------------- writing


@contextmanager
def _track_writer(
    file: Path, about: dict[str, Any]
) -> Iterator[Callable[[tuple[Int[ndarray, "H W"], bool]], None]]:
    """Write tracks.json frame by frame: `about`, `frames`, then a summary of `slots`.

    Yields write((ids, predicted)); an entry of a frame that the model was not shown says `"predicted": true`.
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
    objects = [
        {
            "slot": mask.slot,
            "box": [round(side, 5) for side in mask.box],
            "area": mask.area,
            "mask": {"size": list(size), "counts": mask.counts},
        }
        for mask in found
    ]
    return {"frame": number, "objects": objects}


@contextmanager
def _mask_writer(folder: Path) -> Iterator[Callable[[Int[ndarray, "H W"]], None]]:
    """Write 00000.png and so on, indexed pictures of slot numbers; remove those of a longer video before."""
    number = 0

    def write(ids: Int[ndarray, "H W"]) -> None:
        nonlocal number
        write_palette_png(folder / f"{number:05d}.png", ids, PALETTE)
        number += 1

    yield write
    for file in folder.glob("*.png"):
        if re.fullmatch(r"\d{5,}", file.stem) and int(file.stem) >= number:
            file.unlink()


@contextmanager
def _slot_writer(file: Path) -> Iterator[Callable[[Float[ndarray, "K D"]], None]]:
    """Collect slots on the disk, then write `slots` [T, K, D] float32 of an .npz; yields write(frame)."""
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


@contextmanager
def film_writer(file: Path, fps: float) -> Iterator[WriteFrame]:
    """Encode in a thread of its own, so that several films grow side by side; yields write(frame).

    A film whose block ends with an error leaves no file; an error of the encoder is raised by the next write.
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=8)
    with ThreadPoolExecutor(1) as pool:
        encoding = pool.submit(write_video, file, _until_end(waiting), fps)

        def write(frame: Any) -> None:
            while not encoding.done():
                try:
                    return waiting.put(frame, timeout=0.2)
                except queue.Full:
                    continue
            encoding.result()

        try:
            yield write
        except BaseException:
            write(_Abandoned())
            encoding.exception()
            raise
        write(None)
        encoding.result()


class _Abandoned(Exception):
    """Put in a film's queue to end it without a file."""


def _until_end(waiting: "queue.Queue[Any]") -> Iterable[UInt8[ndarray, "H W 3"]]:
    while (item := waiting.get()) is not None:
        if isinstance(item, _Abandoned):
            raise item
        yield item


@contextmanager
def still_writer(file: Path) -> Iterator[WriteFrame]:
    """The same face as `film_writer` for a video of one frame: a PNG."""
    yield lambda frame: write_png(file, frame)

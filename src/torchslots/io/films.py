"""Read video files frame by frame with PyAV: seek by time stamps, and refuse truncated files."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from torchslots.io.errors import UserError

FILM_SUFFIXES = tuple(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ogv .wmv .flv .3gp .ts".split())
"""Endings of files that PyAV reads."""
_ATOMS = b"ftyp moov mdat free skip wide uuid moof sidx".split()
_SEEK_FROM = 32
"""From this frame on a start is sought by time stamp; before it, decoding from frame 0 is as quick."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The opened container and its first video stream.

    Raises:
        UserError: PyAV cannot read the file, then or in the block; it is truncated; it has no video stream.
    """
    import av

    _check_extent(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} has no video track: it is sound only, or truncated. Copy it again.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    # PyAV raises IndexError where a header names no readable stream
    except (av.FFmpegError, IndexError) as error:
        raise UserError(
            f"{path} cannot be read as a video ({error}): it is truncated, damaged or of another kind. "
            "Copy it again, or write it anew with ffmpeg."
        ) from error


def film_frames(path: Path, start: int, stop: int | None) -> Iterator[UInt8[ndarray, "H W 3"]]:
    """Frames `start` to `stop` (None: the end) of a film; a late start is sought by its time stamp.

    Raises:
        UserError: as `opened`, or the film is shorter than its track states.
    """
    times = time_stamps(path) if start >= _SEEK_FROM else None
    if times is not None and start >= len(times):
        return
    with opened(path) as (container, stream):
        if times is not None:
            container.seek(int(times[start]), stream=stream, backward=True)
        number = 0 if times is None else start
        size = end = None
        for frame in container.decode(stream):
            if times is not None and frame.pts < times[start]:
                continue
            size, end = size or (frame.width, frame.height), frame.time
            if number >= start:
                yield _rgb(frame, *size)
            number += 1
            if stop is not None and number >= stop:
                return
        _check_length(path, stream, end)


def _rgb(frame: Any, width: int, height: int) -> UInt8[ndarray, "H W 3"]:
    """A decoded frame in RGB, rotated by the display matrix (quarter turns, counter-clockwise)."""
    rgb = frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.ascontiguousarray(np.rot90(rgb, k=round(frame.rotation / 90)))


def time_stamps(path: Path) -> ndarray | None:
    """Time stamps of a film's frames, in units of the stream; None where packets do not match frames.

    Raises:
        UserError: as `film_frames`.
    """
    status = path.stat()
    return _read_time_stamps(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _read_time_stamps(path: Path, _changed: int, _size: int) -> ndarray | None:
    with opened(path) as (container, stream):
        # AVI and MPEG streams do not stamp every frame; VP8 has packets that show nothing.
        stamped = any(name in container.format.name for name in ("mp4", "matroska"))
        if not stamped or stream.codec_context.name in ("vp8", "libvpx"):
            return None
        packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        if any(packet.pts is None for packet in packets):
            return None
        times = np.unique([packet.pts for packet in packets])
        _check_length(path, stream, float(times[-1] * stream.time_base) if len(times) else None)
        return times if len(times) == len(packets) else None


def _check_extent(path: Path) -> None:
    """Refuse an mp4, mov or AVI whose chunks claim more bytes than the file has; libav reads such files."""
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            if head[:4] == b"RIFF":
                length = int.from_bytes(head[4:8], "little") + 8
            elif head[4:8] in _ATOMS:
                length = int.from_bytes(head[:4], "big")
                length = int.from_bytes(head[8:], "big") if length == 1 else length
            else:
                return
            if length < 8:  # unknown: the recorder never filled it in
                return
            at += length
    if at > size:
        raise UserError(f"{path} is truncated: {size} bytes of at least {at}. Copy or download it again.")


def _check_length(path: Path, stream: Any, end: float | None) -> None:
    """Refuse a film without frames, or (Matroska, WebM) one far shorter than its track states."""
    if end is None:
        raise UserError(f"{path} is a video without a single frame. Record or copy it again.")
    stated = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    if stated is None:
        return
    seconds = sum(float(part) * unit for part, unit in zip(stated.groups(), (3600, 60, 1)))
    if end < 0.95 * seconds - 0.1:
        raise UserError(
            f"{path} is truncated: {end:.1f} of {seconds:.1f} seconds are there. Copy or download it again."
        )

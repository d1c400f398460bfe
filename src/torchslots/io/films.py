"""Read video files frame by frame with PyAV: seek by time stamps, and refuse truncated files."""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from torchslots.io.errors import UserError, first_line, note

FILM_SUFFIXES = tuple(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ogv .wmv .flv .3gp .ts".split())
"""Endings of files that PyAV reads."""
_ATOMS = b"ftyp moov mdat free skip wide uuid moof sidx".split()
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
"""Colour matrix as a film states it, and as the scaler names it: BT.709, FCC, BT.601, SMPTE 240M, BT.2020."""
_DEFAULT_MATRIX = 5
"""BT.601, which libav takes where a film states nothing."""
_SEEK_FROM = 32
"""From this frame on a start is sought by time stamp; before it, decoding from frame 0 is as quick."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The opened container and its first video stream.

    Raises:
        UserError: PyAV cannot read the file, then or in the block; it is truncated; it has no video stream.
    """
    import av

    try:
        _check_extent(path)
        with av.open(str(path.absolute())) as container:  # a name with a colon would be a protocol to FFmpeg
            if not container.streams.video:
                raise UserError(f"{path} has no video track: it is sound only, or truncated. Copy it again.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except UserError:
        raise
    except Exception as error:  # PyAV raises whatever a damaged header or its metadata make it meet
        raise UserError(
            f"{path} cannot be read as a video ({first_line(error)}): it is truncated, damaged or of another kind. "
            "Copy it again, or write it anew with ffmpeg."
        ) from error


def film_size(path: Path) -> tuple[int, int]:
    """Height and width that a film's track states.

    Raises:
        UserError: as `opened`.
    """
    with opened(path) as (_, stream):
        return stream.height, stream.width


def film_frames(
    path: Path, start: int, stop: int | None, allow_damaged: bool = False
) -> Iterator[UInt8[ndarray, "H W 3"]]:
    """Frames `start` to `stop` (None: the end) of a film; a late start is sought by its time stamp.

    Args:
        allow_damaged: go on where the decoder reports damage, and list those frames at the end; a frame that is missing
            repeats the one before.

    Raises:
        UserError: as `opened`, frames are damaged, or the film is shorter than its track states.
    """
    damaged: list[int] = []
    try:
        for frame in _whole(_numbered(path, start, stop, damaged), start):
            if damaged and not allow_damaged:
                break
            yield frame
        if damaged and not allow_damaged:
            raise UserError(
                f"{path} is damaged: the decoder reports {named_frames(damaged_frames(path))}. Those that build on "
                "them may be wrong, too. Copy or download it again; `--allow-damaged` of predict and edit goes on all "
                "the same."
            )
    finally:  # the reader may stop before the end
        if damaged and allow_damaged:
            said = f"{path} is damaged, and read all the same: the decoder reports {named_frames(damaged)}."
            note(said, everywhere=True)


def _whole(numbered: Iterator[tuple[int, Any]], start: int) -> Iterator[UInt8[ndarray, "H W 3"]]:
    """Frames from `start` on in RGB, of the first one's size; where a number is missing, the one before again."""
    size = last = None
    wanted = start
    for number, frame in numbered:
        if number < start:
            continue
        size = size or (frame.width, frame.height)
        shown = _rgb(frame, *size)
        for _ in range(wanted, number):
            yield shown if last is None else last
        yield shown
        last, wanted = shown, number + 1


def damaged_frames(path: Path) -> list[int]:
    """Numbers of the frames that the decoder reports as corrupt, could not decode, or did not find.

    Raises:
        UserError: as `opened`.
    """
    damaged: list[int] = []
    for _ in _numbered(path, 0, None, damaged):
        pass
    return sorted(set(damaged))


def named_frames(numbers: list[int]) -> str:
    """Numbers as text, runs of them as ranges: frames 3, 7 to 9."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return f"frame{'s' * (len(set(numbers)) > 1)} " + ", ".join(" to ".join(map(str, run)) for run in runs)


def _numbered(
    path: Path, start: int, stop: int | None, damaged: list[int], lead: int = 0
) -> Iterator[tuple[int, Any]]:
    """Decoded frames with their numbers, from `start` or before; numbers of faulty ones are appended to `damaged`.

    Args:
        lead: frames before `start` from which a late start is sought. Where the key frame that is found comes too late,
            as in an open group of pictures, or gives faulty frames, it is sought from further ahead.

    Raises:
        UserError: as `opened`, or the film is shorter than its track states.
    """
    times = time_stamps(path)
    if times is not None and start >= len(times):
        return
    sought = times is not None and start - lead >= _SEEK_FROM
    with opened(path) as (container, stream):
        if times is not None and sought:
            container.seek(int(times[start - lead]), stream=stream, backward=True)
        number, end, failed, begun, late = -1, None, False, not sought, False
        for frame in _decoded(container, stream):
            if frame is None:
                failed = True
                damaged += [number + 1] if times is None else []
                continue
            end, before = frame.time, number
            number = (
                number + 1 if times is None or frame.pts is None else int(np.searchsorted(times, frame.pts))
            )
            first = start if sought and not begun else before + 1
            begun = begun or bool(frame.key_frame) or number >= start
            if not begun:
                continue
            faulty = [*range(first, number), *([number] if frame.is_corrupt else [])]
            late = bool(sought and faulty and faulty[0] <= start)
            if late:
                break
            damaged += faulty
            yield number, frame
            if stop is not None and number >= stop - 1:
                return
        if begun and not late:
            _check_length(path, stream, end)
            if times is not None:
                missing = list(range(number + 1, len(times)))
                damaged += missing or ([number] if failed and not damaged else [])
            return
    yield from _numbered(path, start, stop, damaged, 2 * lead + 16)


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Frames in the order of presentation; None where a packet is corrupt or cannot be decoded."""
    import av

    for packet in container.demux(stream):
        if packet.is_corrupt and packet.size:
            yield None
        try:
            frames = packet.decode()
        except av.EOFError:
            return
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            yield None
            continue
        yield from frames


def _rgb(frame: Any, width: int, height: int) -> UInt8[ndarray, "H W 3"]:
    """A decoded frame in RGB, by its own colour matrix, oriented by its display matrix."""
    if frame.format.is_rgb:
        rgb = frame.to_ndarray(format="rgb24", width=width, height=height)
    else:
        shown = frame.reformat(
            width,
            height,
            "rgb24",
            src_colorspace=_MATRICES.get(int(frame.colorspace), _DEFAULT_MATRIX),
            dst_colorspace=_DEFAULT_MATRIX,
            src_color_range=_range(frame),
            dst_color_range=2,
        )
        rgb = shown.to_ndarray()
    return np.ascontiguousarray(_oriented(rgb, frame.side_data.get("DISPLAYMATRIX")))


def _range(frame: Any) -> int:
    """1 for 16 to 235, 2 for 0 to 255; by the format where the film states nothing."""
    stated = int(frame.color_range)
    return stated if stated in (1, 2) else 1 + frame.format.name.startswith(("yuvj", "gray"))


def _oriented(image: UInt8[ndarray, "H W 3"], matrix: Any) -> UInt8[ndarray, "h w 3"]:
    """The image by a display matrix, of which quarter turns and mirrors are used.

    The matrix takes (x, y) of the stored image to a x + c y and b x + d y of the shown one.
    """
    if matrix is None:
        return image
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    across, down = a, d
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, across, down = image.swapaxes(0, 1), c, b
    return image[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


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


def _check_length(path: Path, stream: Any, last: float | None) -> None:
    """Refuse a film without frames, or (Matroska, WebM) one far shorter than its track states.

    Args:
        last: when the last frame begins, in seconds; None: there is none.
    """
    if last is None:
        raise UserError(f"{path} is a video without a single frame. Record or copy it again.")
    stated = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    if stated is None:
        return
    seconds = sum(float(part) * unit for part, unit in zip(stated.groups(), (3600, 60, 1)))
    end = last + (float(1 / stream.average_rate) if stream.average_rate else 0.0)
    if end < 0.95 * seconds - 0.1:
        raise UserError(
            f"{path} is truncated: {end:.1f} of {seconds:.1f} seconds are there. Copy or download it again."
        )

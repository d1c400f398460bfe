"""Reading and writing pictures and videos: files in, uint8 RGB arrays out, and back (Pillow, PyAV).

A video is a film (mp4, mov, avi, mkv, webm, ...), an animated picture (GIF, WebP, APNG), one picture (a video
of one frame) or a folder of pictures in natural order (2 before 10). Colours: transparency is dropped, not
blended, as the readers of CLEVR and CLEVRTex do; 16-bit pictures are scaled to 8 bits; pictures and films are
turned upright where the camera noted how it was held. Everything is written to a temporary file beside the
target and then renamed, so that a file under its final name is always whole.
"""

import errno
import os
import re
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from numpy import ndarray
from PIL import Image, ImageOps, ImageSequence

from torchslots.errors import UserError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".apng")
"""File names that Pillow reads."""
FILM_SUFFIXES = (
    *(
        ".mp4",
        ".m4v",
        ".mov",
        ".avi",
        ".mkv",
        ".webm",
        ".mpg",
        ".mpeg",
        ".ogv",
        ".wmv",
        ".flv",
        ".3gp",
        ".ts",
    ),
)
"""File names that PyAV reads."""
_ANIMATED = (".gif", ".webp", ".png", ".apng")
_H264 = ("libx264", "libopenh264")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)
_SEEK_FROM = 32
"""A later frame is sought by its time stamp; before it, decoding from the start is as quick."""


# ---------------------------------------------------------------------------------------------------- reading


def read_frames(path: Path | str, start: int = 0, count: int | None = None) -> UInt8[ndarray, "T H W 3"]:
    """Frames `start` to `start + count` (None: to the end) of a video; fewer where it ends before.

    Raises:
        UserError: the file is missing, empty, truncated, no picture and no video, or ends before `start`.
    """
    if start < 0 or (count is not None and count < 1):
        raise UserError(
            f"{path}: cannot read {count} frames from frame {start}; start at 0 or later and read 1 or more."
        )
    frames = list(_frames(Path(path), start, None if count is None else start + count))
    if not frames:
        raise UserError(f"{path} has {frame_count(path)} frames, none from number {start} on. Start earlier.")
    return np.stack(frames)


def iter_frames(path: Path | str, chunk: int) -> Iterator[UInt8[ndarray, "T H W 3"]]:
    """All frames in order, `chunk` at once (the last may be fewer), in constant memory.

    Raises:
        UserError: as `read_frames`, at the frame where the fault is met.
    """
    frames = _frames(Path(path), 0, None)
    while some := list(islice(frames, chunk)):
        yield np.stack(some)


def frame_count(path: Path | str) -> int:
    """Number of frames; a film's packets are counted, not decoded, where that is exact.

    Raises:
        UserError: as `read_frames`.
    """
    path = _existing(Path(path))
    if path.is_dir():
        return len(picture_files(path))
    if path.suffix.lower() in PICTURE_SUFFIXES:
        with _picture(path) as image:
            return _num_pictures(path, image)
    times = _timeline(path)
    return sum(1 for _ in _frames(path, 0, None)) if times is None else len(times)


def fps(path: Path | str) -> float | None:
    """Frames in a second (the mean, where it varies); None for a picture or a folder, which have no clock."""
    path = _existing(Path(path))
    if path.is_dir():
        return None
    if path.suffix.lower() in PICTURE_SUFFIXES:
        with _picture(path) as image:
            spans = [frame.info.get("duration", 0) for frame in ImageSequence.Iterator(image)]
        return 1000 * len(spans) / sum(spans) if len(spans) > 1 and sum(spans) > 0 else None
    with _film(path) as (_, stream):
        rate = stream.average_rate or stream.guessed_rate
        return float(rate) if rate else None


def read_image(path: Path | str) -> UInt8[ndarray, "H W 3"]:
    """One picture (the first frame, if it moves).

    Raises:
        UserError: the file is missing, empty, truncated or no picture.
    """
    path = _existing(Path(path))
    with _picture(path) as image:
        return _rgb(image)


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order.

    Raises:
        UserError: there is none.
    """
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and _visible(file)]
    if not files:
        raise UserError(
            f"{folder} holds no pictures. A folder is read as one video: its {_known(PICTURE_SUFFIXES)}."
        )
    return sorted(files, key=lambda file: natural_key(file.name))


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key in which the numbers inside a name count as numbers: `frame_2` before `frame_10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _frames(path: Path, start: int, stop: int | None) -> Iterator[UInt8[ndarray, "H W 3"]]:
    """Frames one by one, whatever kind of video it is; all have the size of the first."""
    _existing(path)
    if path.is_dir():
        yield from _folder_frames(path, start, stop)
    elif path.suffix.lower() in PICTURE_SUFFIXES:
        yield from _picture_frames(path, start, stop)
    elif path.suffix.lower() in FILM_SUFFIXES:
        yield from _film_frames(path, start, stop)
    else:
        kinds = _known((*PICTURE_SUFFIXES, *FILM_SUFFIXES))
        raise UserError(f"{path} is neither a picture nor a video by its name. Known endings: {kinds}.")


def _folder_frames(folder: Path, start: int, stop: int | None) -> Iterator[UInt8[ndarray, "H W 3"]]:
    shape = None
    for file in picture_files(folder)[start:stop]:
        frame = read_image(file)
        shape = shape or frame.shape
        if frame.shape != shape:
            (h, w, _), (height, width, _) = frame.shape, shape
            raise UserError(
                f"{file} is {w}x{h} pixels, the frames before it {width}x{height}. A folder is one video: "
                "bring its pictures to one size, or move the others to a folder of their own."
            )
        yield frame


def _picture_frames(path: Path, start: int, stop: int | None) -> Iterator[UInt8[ndarray, "H W 3"]]:
    with _picture(path) as image:
        if _num_pictures(path, image) == 1:
            yield from [_rgb(image)][start:stop]
            return
        for frame in islice(ImageSequence.Iterator(image), start, stop):
            yield _rgb(frame)


def _num_pictures(path: Path, image: Image.Image) -> int:
    # A phone's .jpg or a scanner's .tif may hold several pictures that are no video.
    return getattr(image, "n_frames", 1) if path.suffix.lower() in _ANIMATED else 1


@contextmanager
def _picture(path: Path) -> Iterator[Image.Image]:
    """The opened picture; Pillow's errors in the block become a `UserError`."""
    try:
        if path.suffix.lower() == ".gif":
            _check_trailer(path)
        with Image.open(path) as image:
            yield image
    except Image.UnidentifiedImageError as error:
        raise UserError(
            f"{path} is not a picture, whatever its name says. Remove it or write it again."
        ) from error
    except (*_PILLOW_ERRORS, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path} cannot be read as a picture ({error}). Remove it or write it again."
        ) from error


def _check_trailer(path: Path) -> None:
    with path.open("rb") as file:
        magic, _ = file.read(3), file.seek(max(path.stat().st_size - 64, 0))
        if magic == b"GIF" and not file.read().rstrip(b"\0").endswith(b";"):
            raise OSError("truncated: it does not end as a GIF does")


def _rgb(image: Image.Image) -> UInt8[ndarray, "H W 3"]:
    """8-bit RGB, upright; alpha dropped."""
    if image.mode.startswith("I"):
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    upright = ImageOps.exif_transpose(image)
    full = upright.convert("RGBA") if upright.mode in ("P", "PA", "LA", "La", "RGBa") else upright
    return np.array(full.convert("RGB"))


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} does not exist. Check the name.")
    if path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes). Copy or record it again.")
    return path


def _visible(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".")


def _known(suffixes: Iterable[str]) -> str:
    return ", ".join(suffix.lstrip(".") for suffix in suffixes)


# ------------------------------------------------------------------------------------------------------ films


@contextmanager
def _film(path: Path) -> Iterator[tuple[Any, Any]]:
    """The opened container and its first video stream; PyAV's errors in the block become a `UserError`."""
    import av

    _check_extent(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} has no video track: it is sound only, or truncated. Copy it again.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except (
        av.FFmpegError,
        IndexError,
    ) as error:  # PyAV raises IndexError where a header names no readable stream
        raise UserError(
            f"{path} cannot be read as a video ({error}): it is truncated, damaged or of another kind. "
            "Copy it again, or write it anew with ffmpeg."
        ) from error


def _film_frames(path: Path, start: int, stop: int | None) -> Iterator[UInt8[ndarray, "H W 3"]]:
    """Frames of a film; a late start is sought by its time stamp, exactly, where the stamps allow it."""
    times = _timeline(path) if start >= _SEEK_FROM else None
    if times is not None and start >= len(times):
        return
    with _film(path) as (container, stream):
        if times is not None:
            container.seek(int(times[start]), stream=stream, backward=True)
        decoded, shown, first = container.decode(stream), 0, 0 if times is None else start
        size = end = None
        for frame in decoded:
            if times is not None and frame.pts < times[start]:
                continue
            size, end = size or (frame.width, frame.height), frame.time
            if first + shown >= start:
                yield _film_rgb(frame, *size)
            shown += 1
            if stop is not None and first + shown >= stop:
                return
        _check_length(path, stream, end)


def _film_rgb(frame: Any, width: int, height: int) -> UInt8[ndarray, "H W 3"]:
    """A decoded frame in RGB, turned as the display matrix asks (counter-clockwise, quarter turns)."""
    rgb = frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.ascontiguousarray(np.rot90(rgb, k=round(frame.rotation / 90)))


def _timeline(path: Path) -> ndarray | None:
    """Time stamps of a film's frames, in units of the stream; None where packets do not match frames."""
    status = path.stat()
    return _read_timeline(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _read_timeline(path: Path, _changed: int, _size: int) -> ndarray | None:
    with _film(path) as (container, stream):
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
    """Refuse an mp4, mov or AVI whose chunks claim more bytes than the file has; libav would read on."""
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            if head[:4] == b"RIFF":
                length = int.from_bytes(head[4:8], "little") + 8
            elif head[4:8] in (
                b"ftyp",
                b"moov",
                b"mdat",
                b"free",
                b"skip",
                b"wide",
                b"uuid",
                b"moof",
                b"sidx",
            ):
                length = int.from_bytes(head[:4], "big")
                length = int.from_bytes(head[8:], "big") if length == 1 else length
            else:
                return
            if length < 8:  # unknown: written by a recorder that did not come back to fill it in
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


# ---------------------------------------------------------------------------------------------------- writing


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well, and is removed otherwise.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise UserError(
                f"No space left to write {path} ({error.strerror}). Free some space or choose another folder."
            ) from error
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}). Choose another folder."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def write_video(path: Path | str, frames: Iterable[UInt8[ndarray, "H W 3"]], fps: float | int = 12) -> None:
    """Write an mp4 (or mov, mkv) that browsers play: H.264, yuv420p.

    Odd sizes are padded to even ones by repeating the last row or column. Where this build of PyAV has no
    H.264 encoder, MPEG-4 part 2 is written and a warning says so: VLC and mpv play that, browsers do not.

    Raises:
        UserError: no frames, another ending than .mp4, .m4v, .mov or .mkv, no space left, or a folder that
            cannot be written.
    """
    import av

    path = Path(path)
    if path.suffix.lower() not in (".mp4", ".m4v", ".mov", ".mkv"):
        raise UserError(f"{path}: videos are written as .mp4, .mov or .mkv. Choose one of these endings.")
    first, frames = _peek(path, frames)
    codec = _encoder(path)
    with replacing(path) as part:
        try:
            with av.open(str(part), "w", container_options={"movflags": "+faststart"}) as container:
                stream = _video_stream(container, codec, first, fps)
                for frame in frames:
                    container.mux(stream.encode(_encodable(frame)))
                container.mux(stream.encode())
        except av.FFmpegError as error:
            raise OSError(error.errno, error.strerror) from error


def write_gif(path: Path | str, frames: Iterable[UInt8[ndarray, "H W 3"]], fps: float | int = 12) -> None:
    """Write a GIF that loops for ever, with one palette of 256 colours chosen from the whole clip, dithered.

    Times are rounded to GIF's 10 ms so that the total stays right. All frames are held in memory.

    Raises:
        UserError: as `write_video`.
    """
    _, frames = _peek(path, frames)
    clip = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    palette = _clip_palette(clip)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for frame in clip]
    ends = [round(100 * (i + 1) / fps) for i in range(len(clip))]
    durations = [max(10 * (end - start), 20) for start, end in zip([0, *ends], ends)]
    with replacing(path) as part:
        more = {"append_images": indexed[1:], "duration": durations, "loop": 0} if len(indexed) > 1 else {}
        indexed[0].save(part, format="GIF", save_all=len(indexed) > 1, disposal=1, **more)


def write_png(path: Path | str, image: UInt8[ndarray, "H W *C"]) -> None:
    """Write a grey, RGB or RGBA picture.

    Raises:
        UserError: no space left, or a folder that cannot be written.
    """
    with replacing(path) as part:
        Image.fromarray(np.ascontiguousarray(image)).save(part, format="PNG")


def write_palette_png(
    path: Path | str, ids: Integer[ndarray, "H W"], palette: UInt8[ndarray, "colours 3"]
) -> None:
    """Write integer ids as an indexed picture: viewers show `palette`, `numpy.asarray` gives the ids.

    Args:
        palette: colour of each id, at most 256: `torchslots.draw.PALETTE` for those used everywhere else.

    Raises:
        UserError: an id outside 0 to 255, no space left, or a folder that cannot be written.
    """
    if ids.size and (ids.min() < 0 or ids.max() > 255):
        raise UserError(
            f"{path}: ids run from {ids.min()} to {ids.max()}, an indexed picture holds 0 to 255. Use .npy."
        )
    image = Image.fromarray(np.ascontiguousarray(ids.astype(np.uint8)))
    image.putpalette(np.ascontiguousarray(palette[:256]).tobytes())
    with replacing(path) as part:
        image.save(part, format="PNG")


def _peek(path: Path | str, frames: Iterable[ndarray]) -> tuple[ndarray, Iterator[ndarray]]:
    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        raise UserError(f"There are no frames to write to {path}. Check that the input is not empty.")
    return first, chain([first], stream)


def _encoder(path: Path) -> str:
    import av

    for name in _H264:
        if name in av.codecs_available:
            return name
    warnings.warn(
        f"{path}: this PyAV has no H.264 encoder, so MPEG-4 part 2 is written, which browsers do not play. "
        "`pip install --force-reinstall av` brings one with libx264.",
        stacklevel=3,
    )
    return "mpeg4"


def _video_stream(container: Any, codec: str, first: ndarray, fps: float | int) -> Any:
    """A stream of near-lossless quality, marked BT.709 as players assume it."""
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
    stream.height, stream.width = (side + side % 2 for side in first.shape[:2])
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
    if codec == "libx264":
        stream.options = {"crf": "16", "preset": "medium"}
    else:
        stream.bit_rate = int(stream.height * stream.width * max(fps, 1) * 0.5)
    return stream


def _encodable(frame: UInt8[ndarray, "H W 3"]) -> Any:
    import av

    h, w, _ = frame.shape
    even = np.pad(frame, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
    return rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")


def _clip_palette(clip: list[Image.Image]) -> Image.Image:
    """256 colours for the whole clip: median cut over at most 16 of its frames, side by side."""
    some = clip[:: -(-len(clip) // 16)]
    width, height = some[0].size
    sheet = Image.new("RGB", (width * len(some), height))
    for i, frame in enumerate(some):
        sheet.paste(frame, (i * width, 0))
    return sheet.quantize(256, method=Image.Quantize.MEDIANCUT)

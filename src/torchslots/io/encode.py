"""Write images and videos atomically (Pillow, PyAV)."""

import warnings
import zlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from numpy import ndarray
from PIL import Image

from torchslots.io.errors import UserError
from torchslots.io.files import atomic_file

_H264 = ("libx264", "libopenh264")
_CONTAINERS = {".mp4": "mp4", ".m4v": "ipod", ".mov": "mov", ".mkv": "matroska"}


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
    if path.suffix.lower() not in _CONTAINERS:
        raise UserError(f"{path}: videos are written as .mp4, .mov or .mkv. Choose one of these endings.")
    first, frames = _peek(path, frames)
    codec = _encoder(path)
    with atomic_file(path) as part:
        try:
            kind = _CONTAINERS[path.suffix.lower()]
            place = str(part.absolute())  # a name with a colon would be a protocol to FFmpeg
            with av.open(place, "w", kind, container_options={"movflags": "+faststart"}) as container:
                stream = _video_stream(container, codec, first, fps)
                for frame in frames:
                    container.mux(stream.encode(_encodable(frame)))
                container.mux(stream.encode())
        except av.FFmpegError as error:
            raise OSError(error.errno, error.strerror) from error


def write_gif(path: Path | str, frames: Iterable[UInt8[ndarray, "H W 3"]], fps: float | int = 12) -> None:
    """Write a GIF that loops forever, dithered to one palette of 256 colours for the whole clip.

    Times are rounded to GIF's 10 ms such that their sum is right. All frames are held in memory.

    Raises:
        UserError: as `write_video`.
    """
    _, frames = _peek(path, frames)
    clip = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    palette = _clip_palette(clip)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for frame in clip]
    ends = [round(100 * (i + 1) / fps) for i in range(len(clip))]
    durations = [max(10 * (end - start), 20) for start, end in zip([0, *ends], ends)]
    with atomic_file(path) as part:
        more = {"append_images": indexed[1:], "duration": durations, "loop": 0} if len(indexed) > 1 else {}
        indexed[0].save(part, format="GIF", save_all=len(indexed) > 1, disposal=1, **more)


def write_png(path: Path | str, image: UInt8[ndarray, "H W *C"]) -> None:
    """Write a grey, RGB or RGBA image.

    Raises:
        UserError: no space left, or a folder that cannot be written.
    """
    with atomic_file(path) as part:
        Image.fromarray(np.ascontiguousarray(image)).save(part, format="PNG")


def write_palette_png(
    path: Path | str, ids: Integer[ndarray, "H W"], palette: UInt8[ndarray, "colours 3"]
) -> None:
    """Write integer ids as an indexed image: viewers show `palette`, `numpy.asarray` gives the ids.

    Args:
        palette: colour of each id, at most 256, such as `torchslots.io.draw.PALETTE`.

    Raises:
        UserError: an id outside 0 to 255, no space left, or a folder that cannot be written.
    """
    if ids.size and (ids.min() < 0 or ids.max() > 255):
        raise UserError(
            f"{path}: ids run from {ids.min()} to {ids.max()}, an indexed image holds 0 to 255. Use .npy."
        )
    with atomic_file(path) as part:
        palette_image(ids, palette).save(part, format="PNG", compress_type=zlib.Z_RLE)


def palette_image(ids: Integer[ndarray, "H W"], palette: UInt8[ndarray, "colours 3"]) -> Image.Image:
    """Ids 0 to 255 as an indexed image that shows `palette`."""
    image = Image.fromarray(np.ascontiguousarray(ids.astype(np.uint8)))
    image.putpalette(np.ascontiguousarray(palette[:256]).tobytes())
    return image


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
    """A stream of near-lossless quality, marked BT.709, which players assume."""
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
    stream.height, stream.width = (side + side % 2 for side in first.shape[:2])
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
    if codec == "libx264":
        stream.options = {"crf": "16", "preset": "superfast"}  # looks few frames ahead, so it holds few
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

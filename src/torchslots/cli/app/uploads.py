"""Files that a person hands to the app: bounded, renamed, and kept in the session's own folder."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from torchslots.io import video
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError
from torchslots.io.files import size_text

_LONGEST_NAME = 60
_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of what is taken."""

    max_upload: int = 200
    """Largest file that is taken, in MB."""
    max_frames: int = 1000
    """Longest film that is taken, in frames."""


class Film(NamedTuple):
    """A film or image of a session."""

    path: Path
    num_frames: int
    first: UInt8[ndarray, "H W 3"]
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """Known boxes of the first frame (ymin, xmin, ymax, xmax) in [0, 1]; (): none."""

    @property
    def name(self) -> str:
        return self.path.name

    def describe(self) -> str:
        """Name, length and size."""
        height, width = self.first.shape[:2]
        frames = f"{self.num_frames} frames" if self.num_frames > 1 else "one image"
        return f"{self.name}: {frames}, {width} x {height} pixels"


def safe_name(name: str) -> str:
    """A file name of letters, digits, `_`, `-` and `.` that begins with none of the latter two."""
    path = Path(name.replace("\\", "/"))
    stem = re.sub(r"[^\w.-]+", "_", path.stem, flags=re.ASCII).strip("._-")[:_LONGEST_NAME]
    ending = re.sub(r"[^\w.]+", "", path.suffix.lower(), flags=re.ASCII)
    return f"{stem or 'film'}{ending}"


def take(file: Path, folder: Path, limits: Limits, name: str | None = None) -> Film:
    """Move an uploaded file into a folder and read its first frame; a file that is refused is removed.

    Args:
        name: the name that the person gave it; None: the file's.

    Raises:
        UserError: a file that is too large or too long, or no image or video.
    """
    called = safe_name(name or file.name)
    try:
        check_size(file, called, limits)
        folder.mkdir(parents=True, exist_ok=True)
        target = _free(folder / called)
        shutil.move(file, target)
    finally:
        file.unlink(missing_ok=True)
    try:
        return _read(target, limits)
    except UserError as error:
        target.unlink(missing_ok=True)
        raise UserError(str(error).replace(str(target), called)) from error


def check_size(file: Path, called: str, limits: Limits) -> None:
    """Compare a file with the bound.

    Raises:
        UserError: it is larger.
    """
    size = file.stat().st_size
    if size > limits.max_upload * _MEGABYTE:
        raise UserError(
            f"{called} has {size_text(size)}, and this app takes {limits.max_upload} MB. Cut or shrink it, or start "
            "the app with a larger --max-upload."
        )


def _free(path: Path) -> Path:
    """The path, with a number where a file has its name: results are named by names without endings."""
    taken, number, stem = {other.stem for other in path.parent.iterdir()}, 2, path.stem
    while path.stem in taken:
        path, number = path.with_name(f"{stem}_{number}{path.suffix}"), number + 1
    return path


def _read(path: Path, limits: Limits) -> Film:
    count = video.frame_count(path)
    if count > limits.max_frames:
        raise UserError(
            f"{path} has {count_text(count, 'frame')}, and this app takes {limits.max_frames}. Cut it, start the "
            "app with a larger "
            "--max-frames, or use `torchslots predict`."
        )
    return Film(path, count, np.ascontiguousarray(video.read_frames(path, 0, 1)[0]))

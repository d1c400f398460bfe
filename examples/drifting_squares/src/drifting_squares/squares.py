"""Moving squares: one .npz for each video, `video` uint8 [T, H, W, 3] and `segmentations` [T, H, W], 0 = background.

`python -m drifting_squares.squares FOLDER` writes them. The module imports nothing heavy, so that lists stay fast.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import torchslots

if TYPE_CHECKING:
    from torchslots.data.clips import Example
    from torchslots.data.config import DataConfig

COLOURS = ((220, 60, 50), (60, 170, 80), (60, 90, 210))


class Squares:
    """The videos of a split."""

    title, files = "Squares", "one .npz for each video"
    keys = ("video", "segmentations")

    def __init__(self, root: Path, split: str) -> None:
        from torchslots.data.find import find

        self.paths = find(
            root,
            lambda folder: sorted((folder / "squares" / split).glob("*.npz")) or None,
            f"squares/{split}/*.npz",
            "Write them: python -m drifting_squares.squares FOLDER.",
        )

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The file's name."""
        return self.paths[index].name

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """One video; `--skip-corrupt` leaves a damaged one out."""
        import numpy as np

        from torchslots.data.clips import Example
        from torchslots.data.formats.tfrecord import CorruptRecord

        try:
            with np.load(self.paths[index]) as file:
                arrays = {key: file[key] for key in keys or self.keys}
        except (OSError, ValueError, KeyError) as error:
            raise CorruptRecord(self.paths[index], index, f"cannot be read: {error}") from error
        num_frames = len(next(iter(arrays.values())))
        return Example(
            num_frames, lambda start, stop: {key: array[start:stop] for key, array in arrays.items()}
        )

    def num_objects(self, index: int) -> None:
        """Not stored: `data inspect` counts the ids of the masks."""


def open_squares(root: Path, split: str, config: DataConfig) -> Squares:
    """A split below `root`."""
    return Squares(root, split)


def write(folder: Path, num_videos: int = 40, num_frames: int = 8, side: int = 32) -> None:
    """Write the videos: three squares that move straight on, from edge to edge; every fifth is for validation."""
    import numpy as np

    rng = np.random.default_rng(0)
    for number in range(num_videos):
        video = np.full((num_frames, side, side, 3), 40, np.uint8)
        ids = np.zeros((num_frames, side, side), np.uint8)
        for name, colour in enumerate(COLOURS, 1):
            size, place = int(rng.integers(6, 11)), rng.integers(0, side - 11, 2)
            speed = rng.integers(-2, 3, 2)
            for t in range(num_frames):
                y, x = np.clip(place + t * speed, 0, side - size)
                video[t, y : y + size, x : x + size] = colour
                ids[t, y : y + size, x : x + size] = name
        path = folder / "squares" / ("validation" if number % 5 == 4 else "train") / f"{number:03d}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, video=video, segmentations=ids)


def register() -> None:
    """The entry point."""
    torchslots.register_dataset(
        "squares",
        open_squares,
        description="Squares that move straight on",
        licence="yours",
        size="40 videos of 8 frames at 32 pixels",
        get="Write it: python -m drifting_squares.squares FOLDER.",
    )


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "data/squares"))

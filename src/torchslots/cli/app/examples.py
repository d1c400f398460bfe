"""Examples for the app: a film and an image of the embedded generator, with the boxes of their objects."""

import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from torchslots.data.dataset import open_dataset
from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.sim.generate_videos import generate

_SIDE, _FRAMES, _FPS = 128, 12, 12.0
_OBJECTS = (3, 5)
NAMES = ("film", "image")


class Example(NamedTuple):
    """A file, and the boxes of the objects in its first frame."""

    file: Path
    boxes: tuple[tuple[float, float, float, float], ...]


class Examples:
    """Examples by name, generated in `folder` when one is first asked for."""

    def __init__(self, folder: Path, side: int = _SIDE, num_frames: int = _FRAMES) -> None:
        self._folder, self._side, self._num_frames = folder, side, num_frames
        self._made: dict[str, Example] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Example:
        """The example of that name.

        Raises:
            UserError: no such example.
        """
        if name not in NAMES:
            raise UserError(f"There is no example `{name}`. Choose from: {', '.join(NAMES)}.")
        with self._lock:
            self._made = self._made or self._make()
            return self._made[name]

    def _make(self) -> dict[str, Example]:
        fewest, most = _OBJECTS
        generate(
            self._folder / "data",
            train=len(NAMES),
            validation=0,
            min_objects=fewest,
            max_objects=most,
            resolution=self._side,
            num_frames=self._num_frames,
            seed=15,
            workers=1,
        )
        opened = open_dataset(
            "sim_a",
            self._folder / "data",
            frames=self._num_frames,
            resolution=self._side,
            keys=("video", "boxes"),
        )
        made = {}
        for name, sample in zip(NAMES, (opened[i] for i in range(len(NAMES)))):
            frames = (sample["video"] * 255).round().byte().permute(0, 2, 3, 1).numpy()
            file = self._folder / f"example_{name}{'.mp4' if name == 'film' else '.png'}"
            if name == "film":
                video.write_video(file, frames, fps=_FPS)
            else:
                video.write_png(file, frames[0])
            rows = np.round(sample["boxes"][0].numpy().astype(float), 4).tolist()
            made[name] = Example(file, tuple((a, b, c, d) for a, b, c, d in rows if c > a and d > b))
        return made

"""A folder of small films, images and frames of many shapes and lengths, as a user would have."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from torchslots.io import video

TINY = (
    "--model.slots.resolution 16 16 --data.resolution 16 --model.slots.encoder.channels 4 4 --model.slots.token-size 8 "
    "--model.slots.slot-size 8 --model.slots.num-slots 3 --model.slots.mlp-size 8 --model.slots.predictor.num-heads 2 "
    "--model.slots.predictor.mlp-size 8 --model.decoder.channels 4 4 --device cpu --num-plots 1 --train.num-workers 0 "
    "--train.batch-size 2 --train.log-every 1 --optim.warmup-steps 1"
).split()
"""Flags that make slots_video small."""


def moving(frames: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A bright square that moves over a plain ground."""
    film = np.full((frames, height, width, 3), 40 + 20 * seed, np.uint8)
    for t in range(frames):
        film[t, 4 : height // 2, 2 + t : width // 3 + t] = (250, 200 - 30 * seed, 90)
    return film


def own_films(root: Path) -> Path:
    """Five films in folders three deep, one shorter than a clip, two images and a folder of frames."""
    for seed, (name, frames, height, width) in enumerate(
        [
            ("a.mp4", 9, 32, 48),
            ("b c.mp4", 12, 48, 32),
            ("2024/may/d.mp4", 7, 32, 32),
            ("short.mp4", 2, 32, 32),
        ]
    ):
        video.write_video(root / name, moving(frames, height, width, seed))
    for name in ("photo.png", "2024/may/e.gif"):
        film = moving(1 if name.endswith("png") else 8, 30, 40)
        (video.write_png(root / name, film[0]) if len(film) == 1 else video.write_gif(root / name, film, 8))
    for t, frame in enumerate(moving(8, 24, 36, 1)):
        video.write_png(root / "frames" / f"{t}.png", frame)
    return root

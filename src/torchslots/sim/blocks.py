"""Points on bodies in blocks of neighbours, so that one test leaves out many that a shadow cannot reach."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from torchslots.sim.raycast import RaySet, Vectors

_LENGTH = 32


@dataclass(frozen=True)
class Blocks:
    """Points [3, n] and, sorted by frame, the blocks that they are divided into: some neighbours of one body."""

    points: Vectors
    starts: Int64[np.ndarray, "B"]
    counts: Int64[np.ndarray, "B"]
    frames: Int64[np.ndarray, "B"]
    bodies: Int64[np.ndarray, "B"]
    middle: Float32[np.ndarray, "3 B"]
    half: Float32[np.ndarray, "3 B"]
    """Half extents of a block's box, which is parallel to the axes."""

    @classmethod
    def of(cls, rays: Sequence[RaySet], points: Sequence[Vectors]) -> "Blocks":
        """Blocks of the points on several bodies; body i has a point for each of `rays[i]`."""
        joined = np.concatenate(points, 1)
        starts = np.cumsum([0, *(len(one.rays) for one in rays)])
        parts = [_divided(one, start) for one, start in zip(rays, starts)]
        bodies = np.repeat(np.arange(len(rays)), [len(start) for start, _ in parts])
        starts = np.concatenate([start for start, _ in parts])
        counts = np.diff(starts, append=joined.shape[1])
        frames = np.concatenate([frame for _, frame in parts])
        low, high = (
            f.reduceat(joined, starts, axis=1) if len(starts) else joined for f in (np.minimum, np.maximum)
        )
        order = np.argsort(frames, kind="stable")
        parts = starts, counts, frames, bodies, (low + high) / 2, (high - low) / 2
        return cls(joined, *(part.take(order, -1) for part in parts))

    def chosen(self, keep: Int64[np.ndarray, "n"], num_frames: int) -> RaySet:
        """Numbers of the points of some blocks, sorted by frame."""
        counts = self.counts[keep]
        before = np.concatenate([[0], np.cumsum(counts)])
        numbers = np.arange(before[-1]) + np.repeat(self.starts[keep] - before[:-1], counts)
        return RaySet(numbers, before[np.searchsorted(self.frames[keep], np.arange(num_frames + 1))])


def _divided(rays: RaySet, start: int) -> tuple[np.ndarray, np.ndarray]:
    """First point, counted from `start`, and frame of each block of a body."""
    firsts = [np.arange(part.start, part.stop, _LENGTH) for _, part in rays.slices]
    frames = np.repeat([frame for frame, _ in rays.slices], [len(first) for first in firsts])
    return start + np.concatenate([np.zeros(0, np.int64), *firsts]), frames.astype(np.int64)

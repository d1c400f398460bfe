"""Cast rays: the first body that each ray hits, for all frames of a video at once.

A ray is a number: frame * rays per frame + place in the frame. For each body only the rays within its box on the
screen are tested; vectors are components [3, n] in float32.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from torchslots.sim.camera import Camera, pixel_directions
from torchslots.sim.scene import Body

DOME_RADIUS = 60.0
"""Metres from the origin at which floor and sky end."""

Vectors = Float32[np.ndarray, "3 n"]
Columns = Float[np.ndarray, "T rows"] | Int64[np.ndarray, "T rows"]


@dataclass(frozen=True)
class PlacedBody:
    """A body with its position and rotation in each frame."""

    body: Body
    centers: Float[np.ndarray, "T 3"]
    rotations: Float[np.ndarray, "T 3 3"]

    def frames(self, part: slice) -> "PlacedBody":
        """The body in some of the frames."""
        return PlacedBody(self.body, self.centers[part], self.rotations[part])

    @cached_property
    def box_corners(self) -> Float[np.ndarray, "T 8 3"]:
        """Corners of the oriented box in world metres; x changes slowest, z fastest."""
        signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3, indexing="ij"), -1).reshape(8, 3)
        return self.centers[:, None] + np.einsum("tij,cj->tci", self.rotations, signs * self.body.half)


@dataclass(frozen=True)
class RayGrid:
    """All rays of a video: size x size in each frame (row by row), samples x samples in a pixel."""

    camera: Camera
    size: int
    samples: int = 1

    @property
    def num_frames(self) -> int:
        """Frames of the video."""
        return len(self.camera.positions)

    @property
    def per_frame(self) -> int:
        """Rays in each frame."""
        return self.size * self.size

    @cached_property
    def directions(self) -> Float32[np.ndarray, "T 3 n"]:
        """Unit directions in the world; for a fixed camera all frames share memory."""
        local = pixel_directions(self.size, 1)
        shape = (self.num_frames, 3, self.per_frame)
        if not self.camera.moves:
            return np.broadcast_to((self.camera.rotations[0] @ local).astype(np.float32), shape)
        return (self.camera.rotations @ local).astype(np.float32)


@dataclass(frozen=True)
class RaySet:
    """Some rays, sorted by frame: `bounds[t]:bounds[t + 1]` are those of frame t."""

    rays: Int64[np.ndarray, "n"]
    bounds: Int64[np.ndarray, "ends"]

    def select(self, places: Int64[np.ndarray, "some"]) -> "RaySet":
        """The rays at some places, in rising order."""
        return RaySet(self.rays.take(places), np.searchsorted(places, self.bounds))

    def each(self, values: Float[np.ndarray, "T"]) -> Float32[np.ndarray, "n"]:
        """The value of each ray's frame."""
        return np.repeat(values.astype(np.float32), np.diff(self.bounds))

    @property
    def slices(self) -> list[tuple[int, slice]]:
        """(frame, slice) of each frame that has rays."""
        ends = self.bounds.tolist()
        return [(t, slice(ends[t], ends[t + 1])) for t in range(len(ends) - 1) if ends[t + 1] > ends[t]]


@dataclass(frozen=True)
class Seen:
    """Visible part of one body: its rays, their lengths in metres, and the hit points in body coordinates."""

    rays: RaySet
    distance: Float32[np.ndarray, "n"]
    local: Vectors


@dataclass(frozen=True)
class Cast:
    """First hits: body numbers from 1 (0: none) and lengths (infinite: none) of all rays, and each body's part."""

    ids: UInt8[np.ndarray, "rays"]
    distance: Float32[np.ndarray, "rays"]
    seen: tuple[Seen, ...]


def rotate(
    matrices: Float[np.ndarray, "T 3 3"], vectors: Vectors, rays: RaySet, inverse: bool = False
) -> Vectors:
    """Rotate vectors by the matrix of their frame (inverse: by its transpose)."""
    turning = matrices.swapaxes(1, 2) if inverse else matrices
    of_rays = np.repeat(turning.astype(np.float32).reshape(len(turning), 9).T, np.diff(rays.bounds), axis=1)
    return _product(of_rays.reshape(3, 3, -1), vectors)


def apply(matrix: Float[np.ndarray, "3 3"], vectors: Vectors) -> Vectors:
    """Matrix times vectors, written out, because matrix libraries round differently on different machines."""
    return _product(matrix.astype(np.float32)[..., None], vectors)


def _product(m: Float32[np.ndarray, "3 3 *rays"], vectors: Vectors) -> Vectors:
    found = np.empty(vectors.shape, np.float32)
    for row, out in zip(m, found):
        np.multiply(row[0], vectors[0], out=out)
        out += row[1] * vectors[1]
        out += row[2] * vectors[2]
    return found


def dot(a: Vectors, b: Vectors) -> Float32[np.ndarray, "n"]:
    """Row-wise inner product of components [3, n]."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def per_ray(values: Float[np.ndarray, "T 3"], rays: RaySet) -> Vectors:
    """Repeat a vector of each frame for the rays of that frame."""
    return np.repeat(values.astype(np.float32).T, np.diff(rays.bounds), axis=1)


def cast(bodies: tuple[PlacedBody, ...], grid: RayGrid) -> Cast:
    """First hit of every ray of the video."""
    total = grid.num_frames * grid.per_frame
    ids, distance = np.zeros(total, np.uint8), np.full(total, np.inf, np.float32)
    tried = []
    for number, placed in enumerate(bodies, 1):
        seen = _hits(placed, grid)
        nearer = np.flatnonzero(seen.distance < distance.take(seen.rays.rays))
        rays = seen.rays.rays.take(nearer)
        distance[rays] = seen.distance.take(nearer)
        ids[rays] = number
        tried.append(seen)
    seen = (_first_only(part, ids, number) for number, part in enumerate(tried, 1))
    return Cast(ids, distance, tuple(seen))


def _hits(placed: PlacedBody, grid: RayGrid) -> Seen:
    rays = rays_in(screen_boxes(placed.box_corners, grid), grid)
    directions = ray_directions(rays, grid)
    turned = rotate(placed.rotations, directions, rays, inverse=True)
    offset = np.einsum("ti,tij->tj", grid.camera.positions - placed.centers, placed.rotations)
    origin = per_ray(offset, rays)
    enter, leave = placed.body.solid.interval(origin, turned, placed.body.half)
    hit = np.flatnonzero((enter < leave) & (enter > 0))
    enter = enter.take(hit)
    return Seen(rays.select(hit), enter, origin.take(hit, 1) + enter * turned.take(hit, 1))


def _first_only(seen: Seen, ids: UInt8[np.ndarray, "rays"], number: int) -> Seen:
    keep = np.flatnonzero(ids.take(seen.rays.rays) == number)
    return Seen(seen.rays.select(keep), seen.distance.take(keep), seen.local.take(keep, 1))


def screen_boxes(points: Float[np.ndarray, "T P 3"], grid: RayGrid) -> Int64[np.ndarray, "T 4"]:
    """First row, end row, first column, end column of the box around points; the whole screen if one is behind."""
    at, depth = grid.camera.project(points.swapaxes(0, 1))
    place = at * grid.size
    low = np.floor(place.min(0) - 0.5).clip(0, grid.size).astype(np.int64)
    high = np.ceil(place.max(0) + 0.5).clip(0, grid.size).astype(np.int64)
    boxes = np.stack([low[:, 1], high[:, 1], low[:, 0], high[:, 0]], -1)
    behind = depth.min(0) < 0.1
    return np.where(behind[:, None], [0, grid.size, 0, grid.size], boxes)


def rays_in(boxes: Int64[np.ndarray, "T 4"], grid: RayGrid) -> RaySet:
    """The rays within a screen box of each frame."""
    top, bottom, left, right = boxes[:, :, None].swapaxes(0, 1)
    rows = top + np.arange((bottom - top).max())
    return rays_between(rows, np.broadcast_to(left, rows.shape), np.where(rows < bottom, right, left), grid)


def rays_between(rows: Columns, first: Columns, end: Columns, grid: RayGrid) -> RaySet:
    """The rays of some rows of each frame, from a first column to before an end."""
    counts = (end - first).astype(np.int64).ravel()
    starts = np.arange(len(rows))[:, None] * grid.per_frame + rows * grid.size + first.astype(np.int64)
    before = np.concatenate([[0], np.cumsum(counts)])
    rays = np.arange(before[-1]) + np.repeat(starts.ravel() - before[:-1], counts)
    return RaySet(rays, before[np.arange(len(rows) + 1) * rows.shape[1]])


def ray_directions(rays: RaySet, grid: RayGrid) -> Vectors:
    """Unit directions of some rays."""
    if not grid.camera.moves:
        return grid.directions[0].take(rays.rays % grid.per_frame, 1)
    found = np.empty((3, len(rays.rays)), np.float32)
    for frame, part in rays.slices:
        found[:, part] = grid.directions[frame].take(rays.rays[part] - frame * grid.per_frame, 1)
    return found


def put(
    image: Float32[np.ndarray, "c rays"], rays: Int64[np.ndarray, "n"], values: Float32[np.ndarray, "c n"]
) -> None:
    """Set the values of some rays in an image of all; row by row, as NumPy is slow to index columns."""
    for row, new in zip(image, values):
        row[rays] = new

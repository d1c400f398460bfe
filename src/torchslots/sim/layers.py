"""Ground truth of videos at pixel centres: masks, depth, normals, object coordinates, flow, boxes, visibility."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from torchslots.sim.camera import FOCAL_LENGTH, SENSOR_WIDTH, Camera
from torchslots.sim.raycast import Cast, PlacedBody, RayGrid, Seen, apply, cast, per_ray, put, rotate
from torchslots.sim.render import ground


@dataclass(frozen=True)
class Layers:
    """Ground truth of each pixel; bodies are numbered from 1 in the order of `order`.

    Flow is (rows, columns) in pixels. Forward: the position in the next frame minus that in this one, zero in the last
    frame. Backward: the position in this frame minus that in the previous one, zero in the first. As published.
    """

    segmentation: UInt8[np.ndarray, "T H W"]
    depth: Float32[np.ndarray, "T H W"]
    normal: Float32[np.ndarray, "T H W 3"]
    object_coordinates: Float32[np.ndarray, "T H W 3"]
    forward_flow: Float32[np.ndarray, "T H W 2"]
    backward_flow: Float32[np.ndarray, "T H W 2"]
    visibility: Int64[np.ndarray, "N T"]
    order: Int64[np.ndarray, "N"]


def measure(bodies: tuple[PlacedBody, ...], camera: Camera, size: int) -> Layers:
    """Ground truth of a video; bodies are ordered by total visibility, largest first."""
    grid = RayGrid(camera, size)
    hits = cast(bodies, grid)
    visibility = np.stack([np.diff(seen.rays.bounds) for seen in hits.seen])
    order = np.argsort(-visibility.sum(1), kind="stable")
    rank = np.zeros(len(bodies) + 1, np.uint8)
    rank[order + 1] = np.arange(1, len(bodies) + 1)
    depth, normal, forward, backward = _background(grid, hits)
    coordinates = np.zeros_like(normal)
    for placed, seen in zip(bodies, hits.seen):
        rays = seen.rays.rays
        half = np.array(placed.body.half, np.float32)[:, None]
        outward = placed.body.solid.normal(seen.local, placed.body.half)
        put(coordinates, rays, np.clip(seen.local / (2 * half) + 0.5, 0, 1))
        put(normal, rays, rotate(placed.rotations, outward, seen.rays))
        put(forward, rays, _body_flow(placed, seen, grid, 1))
        put(backward, rays, _body_flow(placed, seen, grid, -1))
    shape = (grid.num_frames, size, size)
    return Layers(
        segmentation=rank[hits.ids].reshape(shape),
        depth=depth.reshape(shape),
        normal=_image(normal, shape),
        object_coordinates=_image(coordinates, shape),
        forward_flow=_image(forward, shape),
        backward_flow=_image(backward, shape),
        visibility=visibility[order],
        order=order,
    )


def boxes(
    segmentation: UInt8[np.ndarray, "T H W"], count: int
) -> list[tuple[Int64[np.ndarray, "n"], Float[np.ndarray, "n 4"]]]:
    """For each body the frames in which it is visible and its boxes there: (ymin, xmin, ymax, xmax) in 0..1.

    The far edges are those of the last pixel, so a box that fills the image is (0, 0, 1, 1).
    """
    frames, down, across = np.nonzero(segmentation)
    numbers = segmentation[frames, down, across].astype(np.int64) - 1
    num_frames, height, width = segmentation.shape
    rows, columns = np.zeros((num_frames, height, count), bool), np.zeros((num_frames, width, count), bool)
    rows[frames, down, numbers], columns[frames, across, numbers] = True, True
    edges = [rows.argmax(1) / height, columns.argmax(1) / width]
    edges += [1 - rows[:, ::-1].argmax(1) / height, 1 - columns[:, ::-1].argmax(1) / width]
    corners = np.stack(edges, -1)
    visible = np.any(rows, axis=1)
    return [(np.flatnonzero(visible[:, k]), corners[visible[:, k], k]) for k in range(count)]


def _image(components: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    return np.ascontiguousarray(components.T).reshape(*shape, -1)


def _background(grid: RayGrid, hits: Cast):
    """Depth everywhere, and floor and sky in the other layers."""
    total = grid.num_frames * grid.per_frame
    depth, normal = hits.distance.copy(), np.zeros((3, total), np.float32)
    forward, backward = np.zeros((2, total), np.float32), np.zeros((2, total), np.float32)
    moves = grid.camera.moves
    for frame in range(grid.num_frames):
        part = slice(frame * grid.per_frame, (frame + 1) * grid.per_frame)
        if frame == 0 or moves:
            origin = grid.camera.positions[frame]
            points, is_floor = ground(origin, grid.directions[frame])
            away = np.sqrt(((points - origin.astype(np.float32)[:, None]) ** 2).sum(0))
            facing = np.where(is_floor, np.array([[0], [0], [1]], np.float32), -points / np.float32(60))
        free = hits.ids[part] == 0
        depth[part] = np.where(free, away, depth[part])
        normal[:, part] = facing
        if moves:
            forward[:, part] = _shift(grid, points, frame, 1)
            backward[:, part] = _shift(grid, points, frame, -1)
    return depth, normal, forward, backward


def _shift(grid: RayGrid, points: np.ndarray, frame: int, step: int) -> np.ndarray:
    """Flow of static points: from this frame to the next, or from the previous one to this."""
    if not 0 <= frame + step < grid.num_frames:
        return np.zeros((2, points.shape[1]), np.float32)
    return (_pixels(grid, points, frame + step) - _pixels(grid, points, frame)) * np.float32(step)


def _body_flow(placed: PlacedBody, seen: Seen, grid: RayGrid, step: int) -> np.ndarray:
    """Flow of a body's visible points, 0 where there is no frame to compare with."""
    frames = np.arange(grid.num_frames)
    known = (frames + step >= 0) & (frames + step < grid.num_frames)
    others = np.where(known, frames + step, frames)
    here = _body_pixels(placed, seen, grid, frames)
    flow = (_body_pixels(placed, seen, grid, others) - here) * np.float32(step)
    return np.where(np.repeat(known, np.diff(seen.rays.bounds)), flow, np.float32(0))


def _body_pixels(
    placed: PlacedBody, seen: Seen, grid: RayGrid, frames: Int64[np.ndarray, "T"]
) -> Float32[np.ndarray, "2 n"]:
    """Where the points that each frame shows are in the frames of these numbers, (row, column) in pixels."""
    world = rotate(placed.rotations[frames], seen.local, seen.rays) + per_ray(
        placed.centers[frames], seen.rays
    )
    camera = grid.camera
    offset = world - per_ray(camera.positions[frames], seen.rays)
    return _projected(grid, rotate(camera.rotations[frames], offset, seen.rays, inverse=True))


def _pixels(grid: RayGrid, points: np.ndarray, frame: int) -> np.ndarray:
    """(row, column) in pixels of world points [3, n] in a frame."""
    camera = grid.camera
    local = apply(camera.rotations[frame].T, points - camera.positions[frame].astype(np.float32)[:, None])
    return _projected(grid, local)


def _projected(grid: RayGrid, local: np.ndarray) -> np.ndarray:
    """(row, column) in pixels of points in the camera's coordinates."""
    scale = np.float32(FOCAL_LENGTH / SENSOR_WIDTH * grid.size) / -local[2]
    return np.stack([-local[1] * scale, local[0] * scale]) + np.float32(grid.size / 2)

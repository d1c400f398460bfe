"""The soft shadow of a convex body in closed form, without sampling, so without noise.

A point is in a body's shadow if it is inside every plane through the lamp and an edge of the body's outline (of a
sphere: inside a cone). Its distance from the planes, in half widths of the penumbra there, gives the light by a smooth
step. The half width follows from the lamp's radius and the distances lamp - outline - point.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from torchslots.sim.blocks import Blocks
from torchslots.sim.camera import Camera, row_limits
from torchslots.sim.raycast import (
    PlacedBody,
    RayGrid,
    RaySet,
    Vectors,
    dot,
    per_ray,
    rays_between,
    screen_boxes,
)
from torchslots.sim.scene import Light

PerPoint = Float32[np.ndarray, "n"]
_NEVER = -1e6
_SHARPEST = 0.012
"""The narrowest penumbra in metres."""
_GROUP = 16
"""Points that are computed at once with the same plane."""
_MARGIN = 1.05
"""Penumbrae are taken to be wider by this factor where points that they cannot reach are left out."""


@dataclass(frozen=True)
class Outline:
    """A polyhedron seen from the lamp: a plane (origin: the body's centre) and a distance for each outer edge."""

    normals: Float[np.ndarray, "T E 3"]
    offsets: Float[np.ndarray, "T E"]
    edge_distance: Float[np.ndarray, "T E"]


class Shadow:
    """The shadow of one body by one lamp."""

    def __init__(self, placed: PlacedBody, light: Light) -> None:
        self.placed = placed
        self.light = light
        self.lamp = np.array(light.position) - placed.centers
        self.lamp_distance = np.linalg.norm(self.lamp, axis=-1)
        self.axis = -self.lamp / self.lamp_distance[:, None]
        self.radius = placed.body.radius
        self.outside = self.lamp_distance > 1.3 * self.radius + light.radius * (not light.is_sun)
        self.outline = _outline(placed, self.lamp, self.axis, self.lamp_distance)
        self.bounds = self.outline or _tangents(self.axis, self.lamp_distance, self.radius)

    def reaches(
        self, centers: Float[np.ndarray, "*any T 3"], radius: float | Float[np.ndarray, "*any 1"]
    ) -> Bool[np.ndarray, "*any T"]:
        """In which frames the shadow may touch balls; their radius in metres."""
        offset = centers - self.placed.centers
        along = (offset * self.axis).sum(-1)
        across = np.linalg.norm(offset - along[..., None] * self.axis, axis=-1)
        growth = np.maximum(along, 0) * self.radius / np.maximum(self.lamp_distance, 1e-3)
        spread = self.radius + radius + growth + self._widening(along + radius, self.lamp_distance)
        return self.outside & (along > -(self.radius + radius)) & (across < spread)

    def touched(self, blocks: Blocks, chosen: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "some"]:
        """Which of the chosen blocks of points the shadow may touch: some planes leave out most of them."""
        for some in (slice(0, None, 4), slice(None)):
            frames, half = blocks.frames.take(chosen), blocks.half.take(chosen, 1)
            offset = blocks.middle.take(chosen, 1) - _taken(self.placed.centers, frames)
            axis, planes = _taken(self.axis, frames), self.planes[some].take(frames, 2).swapaxes(0, 1)
            along = dot(offset, axis) + dot(half, np.abs(axis))
            planes[3] -= dot(half, np.abs(planes[:3]))
            beyond = _beyond(planes, offset, along + _taken(self.lamp_distance, frames))
            chosen = chosen[(along > -_SHARPEST) & (beyond < _MARGIN).all(0)]
        return chosen

    def floor_rays(self, grid: RayGrid) -> RaySet:
        """The rays that may see the shadow, if they meet the floor."""
        polygon, bounded = self.floor_polygon()
        boxes = np.where(bounded[:, None], screen_boxes(polygon, grid), [0, grid.size, 0, grid.size])
        boxes[~self.outside] = 0
        top, bottom, left, right = boxes[:, :, None].swapaxes(0, 1)
        rows = top + np.arange((bottom - top).max())
        lows, highs = row_limits(self._floor_lines(grid.camera), 0.5 - (rows + 0.5) / grid.size)
        low, high = np.minimum(*lows).max(0), np.maximum(*highs).min(0)
        first = np.floor((low + 0.5) * grid.size - 0.5).clip(left, right)
        end = np.ceil((high + 0.5) * grid.size + 0.5).clip(first, right)
        return rays_between(rows, first, np.where(rows < bottom, end, first), grid)

    def _floor_lines(self, camera: Camera) -> Float[np.ndarray, "2 E T 3"]:
        """Borders of the shadow on the floor as lines on the screen: of narrow penumbrae, and of those that widen."""
        bounds = self.bounds
        rate = _MARGIN * self.light.radius / bounds.edge_distance
        edge = self.axis[:, None] * rate[..., None]
        slopes = np.stack([bounds.normals, bounds.normals - edge])
        offset = camera.positions - self.placed.centers
        narrow = (bounds.normals @ offset[..., None])[..., 0] + bounds.offsets - _MARGIN * _SHARPEST
        beyond_edge = (offset * self.axis).sum(-1) + self.lamp_distance
        wide = narrow - rate * (beyond_edge[:, None] - bounds.edge_distance)
        return camera.floor_lines(slopes, np.stack([narrow, wide])).swapaxes(1, 2)

    def floor_polygon(self) -> tuple[Float[np.ndarray, "T P 3"], Bool[np.ndarray, "T"]]:
        """Points on the floor around the shadow, and in which frames they bound it (else it is unbounded)."""
        corners = self.placed.box_corners
        lamp = np.array(self.light.position)
        way = corners - lamp
        drop = -way[..., 2]
        bounded = (drop > 0.05).all(1) & self.outside
        reach = lamp[2] / np.maximum(drop, 0.05)
        spots = lamp + way * reach[..., None]
        grow = self.light.radius * (reach - 1) + _SHARPEST
        grow = grow * 1.5 / np.maximum(drop / np.linalg.norm(way, axis=-1), 0.2)
        shifts = np.array([[-1, -1, 0], [-1, 1, 0], [1, -1, 0], [1, 1, 0]], np.float64)
        polygon = spots[:, :, None] + grow[..., None, None] * shifts
        polygon[..., 2] = 0
        return polygon.reshape(len(polygon), -1, 3), bounded

    def occlusion(self, rays: RaySet, points: Vectors, in_front: bool) -> PerPoint:
        """Hidden part of the lamp, 0..1, seen from `points` (world metres), one for each ray.

        Args:
            in_front: Points may be between lamp and body; floor points never are.
        """
        offset = points - per_ray(self.placed.centers, rays)
        along = dot(offset, per_ray(self.axis, rays))
        distance = rays.each(self.lamp_distance)
        if self.outline is None:
            outside = self._cone(rays, offset, along, distance)
        else:
            outside = self._planes(rays, offset, along + distance)
        hidden = np.zeros_like(along)
        touched = np.flatnonzero((outside < 1) & (along > 0) if in_front else outside < 1)
        hidden[touched] = self._hidden(outside.take(touched), along.take(touched), distance.take(touched))
        return hidden

    def _hidden(self, outside: PerPoint, along: PerPoint, distance: PerPoint) -> PerPoint:
        """Hidden part of the lamp at points less than one half width outside of the shadow."""
        inside = np.clip(0.5 - 0.5 * outside, 0, 1)
        hidden = inside * inside * (3 - 2 * inside)
        wide = self._widening(along, distance) / np.float32(0.8 * self.radius)
        hidden /= np.sqrt(1 + wide**4)
        return hidden

    def _widening(self, along, lamp_distance):
        """Half width of the penumbra of the body's centre, `along` metres behind it."""
        return np.maximum(along, 0) * np.float32(self.light.radius) / lamp_distance + np.float32(_SHARPEST)

    def _cone(self, rays: RaySet, offset: Vectors, along: PerPoint, distance: PerPoint) -> PerPoint:
        sine = np.minimum(self.radius / self.lamp_distance, 0.99)
        cosine = np.sqrt(1 - sine * sine)
        across = offset - along * per_ray(self.axis, rays)
        across = np.sqrt(across[0] ** 2 + across[1] ** 2 + across[2] ** 2)
        signed = across * rays.each(cosine) - (along + distance) * rays.each(sine)
        behind = np.maximum(along + rays.each(self.lamp_distance * sine * sine), 0)
        rate = rays.each(self.light.radius / (self.lamp_distance * cosine**2))
        return signed / (behind * rate + np.float32(_SHARPEST))

    @cached_property
    def planes(self) -> Float32[np.ndarray, "E 6 T"]:
        """For each plane: components of the normal, offset, edge distance, half width of the penumbra per metre."""
        edge = self.bounds.edge_distance.T.astype(np.float32)
        normals = self.bounds.normals.transpose(2, 1, 0)
        parts = [*normals, self.bounds.offsets.T, edge, np.float32(self.light.radius) / edge]
        return np.stack(parts, 1).astype(np.float32)

    def _planes(self, rays: RaySet, offset: Vectors, from_lamp: PerPoint) -> PerPoint:
        """Half widths outside of the plane that a point is farthest from; for points at 1 or more, 1.

        Points that one plane puts out of the shadow are not looked at again: planes far apart come first.
        """
        found = np.ones_like(from_lamp)
        places, frames = _groups(rays.bounds)
        offset, from_lamp = offset.take(places, 1), from_lamp.take(places)
        worst = np.full_like(from_lamp, np.float32(_NEVER))
        for number in _spread(len(self.planes)):
            np.maximum(worst, _beyond(self.planes[number].take(frames, 1), offset, from_lamp), out=worst)
            near = np.flatnonzero(worst.min(0) < 1)
            if 4 * len(near) < 3 * len(frames):
                places, frames, worst = places.take(near, 1), frames[near], worst.take(near, 1)
                offset, from_lamp = offset.take(near, 2), from_lamp.take(near, 1)
        found[places] = np.minimum(worst, 1)
        return found


def _groups(
    bounds: Int64[np.ndarray, "ends"],
) -> tuple[Int64[np.ndarray, "each G"], Int64[np.ndarray, "G"]]:
    """Numbers of points in groups of equal size, each of one frame, and the frames; a frame's last point repeats."""
    counts = -(-np.diff(bounds) // _GROUP)
    frames = np.repeat(np.arange(len(counts)), counts)
    first = bounds[frames] + _GROUP * (np.arange(len(frames)) - np.repeat(np.cumsum(counts) - counts, counts))
    return np.minimum(first + np.arange(_GROUP)[:, None], bounds[frames + 1] - 1), frames


def _taken(
    values: Float[np.ndarray, "T *any"], frames: Int64[np.ndarray, "n"]
) -> Float32[np.ndarray, "*any n"]:
    return values.T.astype(np.float32).take(frames, -1)


def _spread(count: int) -> list[int]:
    """Numbers below `count`: every fourth, then those between."""
    return [number for start in range(4) for number in range(start, count, 4)]


def _beyond(
    planes: Float32[np.ndarray, "6 *any"],
    offset: Float32[np.ndarray, "3 *any"],
    from_lamp: Float32[np.ndarray, "*any"],
) -> Float32[np.ndarray, "*any"]:
    """Distance of points from a plane of the outline in half widths of the penumbra there."""
    x, y, z, shift, near, rate = planes
    signed = offset[0] * x
    signed += offset[1] * y
    signed += offset[2] * z
    signed += shift
    width = from_lamp - near
    width *= rate
    np.maximum(width, np.float32(_SHARPEST), out=width)
    signed /= width
    return signed


def _outline(placed: PlacedBody, lamp: np.ndarray, axis: np.ndarray, distance: np.ndarray) -> Outline | None:
    """Edges between a lit and an unlit face, and their planes through the lamp; None for a sphere."""
    hull = placed.body.solid.hull
    if hull is None:
        return None
    half = np.array(placed.body.half)
    corners = np.einsum("tij,cj->tci", placed.rotations, hull.corners * half)
    scaled = hull.normals / half
    scaled /= np.linalg.norm(scaled, axis=-1, keepdims=True)
    normals = np.einsum("tij,fj->tfi", placed.rotations, scaled)
    facing = (normals * (lamp[:, None] - corners[:, hull.face_corner])).sum(-1) > 0
    rim = facing[:, hull.edges[:, 2]] != facing[:, hull.edges[:, 3]]
    first = np.argsort(~rim, axis=1, kind="stable")[:, : max(1, rim.sum(1).max())]
    chosen = np.take_along_axis(rim, first, 1)
    one = np.take_along_axis(corners, hull.edges[first][..., 0, None], 1)
    two = np.take_along_axis(corners, hull.edges[first][..., 1, None], 1)
    planes = np.cross(one - lamp[:, None], two - lamp[:, None])
    planes /= np.maximum(np.linalg.norm(planes, axis=-1, keepdims=True), 1e-9)
    offsets = -(planes * one).sum(-1)
    planes = np.where(offsets[..., None] > 0, -planes, planes)
    middle = ((one + two) / 2 * axis[:, None]).sum(-1) + distance[:, None]
    return Outline(planes, np.where(chosen, -np.abs(offsets), _NEVER), np.maximum(middle, 1e-3))


def _tangents(axis: np.ndarray, distance: np.ndarray, radius: float, count: int = 12) -> Outline:
    """Planes through the lamp that touch a sphere, moved outwards by the narrowest penumbra."""
    sine = np.minimum(radius / distance, 0.99)
    cosine = np.sqrt(1 - sine * sine)
    side = np.cross(axis, np.eye(3)[np.abs(axis).argmin(-1)])
    side /= np.linalg.norm(side, axis=-1, keepdims=True)
    angle = 2 * math.pi * np.arange(count)[:, None] / count
    around = np.cos(angle) * side[:, None] + np.sin(angle) * np.cross(axis, side)[:, None]
    normals = around * cosine[:, None, None] - (axis * sine[:, None])[:, None]
    shape = (len(axis), count)
    near = np.broadcast_to((distance * cosine**2)[:, None], shape)
    return Outline(normals, np.broadcast_to(-(sine * distance)[:, None] - _SHARPEST, shape), near)

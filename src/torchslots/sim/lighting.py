"""Soft shadows of convex bodies in closed form, without sampling, so without noise.

A point is in a body's shadow if it is inside every plane through the lamp and an edge of the body's outline (of a
sphere: inside a cone). Its distance from the planes, in half widths of the penumbra there, gives the light by a smooth
step. The half width follows from the lamp's radius and the distances lamp - outline - point.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from torchslots.sim.raycast import PlacedBody, RayGrid, RaySet, per_ray, rays_in, screen_boxes
from torchslots.sim.scene import Light

Vectors = Float32[np.ndarray, "3 n"]
PerPoint = Float32[np.ndarray, "n"]
_NEVER = -1e6
_SHARPEST = 0.012
"""The narrowest penumbra in metres."""


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

    def reaches(self, centers: Float[np.ndarray, "T 3"], radius: float) -> Bool[np.ndarray, "T"]:
        """In which frames the shadow may touch a ball; its radius in metres."""
        offset = centers - self.placed.centers
        along = (offset * self.axis).sum(-1)
        across = np.linalg.norm(offset - along[:, None] * self.axis, axis=-1)
        growth = np.maximum(along, 0) * self.radius / np.maximum(self.lamp_distance, 1e-3)
        spread = self.radius + radius + growth + self._widening(along + radius, self.lamp_distance)
        return self.outside & (along > -(self.radius + radius)) & (across < spread)

    def floor_polygon(self) -> tuple[Float[np.ndarray, "T P 3"], Bool[np.ndarray, "T"]]:
        """Points on the floor around the shadow, and in which frames they bound it (else it is unbounded)."""
        corners = self.placed.box_corners
        lamp = self.lamp[:, None] + self.placed.centers[:, None]
        drop = lamp[..., 2] - corners[..., 2]
        bounded = (drop > 0.05).all(1) & self.outside
        way = corners - lamp
        reach = lamp[..., 2] / np.maximum(drop, 0.05)
        spots = lamp + way * reach[..., None]
        length = np.linalg.norm(way, axis=-1) * (reach - 1)
        grow = self.light.radius * length / np.linalg.norm(way, axis=-1) + _SHARPEST
        grow = grow * 1.5 / np.maximum(np.abs(way[..., 2]) / np.linalg.norm(way, axis=-1), 0.2)
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
            outside = self._planes(rays, self.outline, offset, along + distance)
        hidden = np.zeros_like(along)
        touched = np.flatnonzero((outside < 1) & (along > 0) if in_front else outside < 1)
        hidden[touched] = self._hidden(outside[touched], along[touched], distance[touched])
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

    def _planes(self, rays: RaySet, outline: Outline, offset: Vectors, from_lamp: PerPoint) -> PerPoint:
        """Half widths outside of the plane that a point is farthest from; for points at 1 or more, 1.

        Points that one plane puts out of the shadow are not looked at again: planes far apart come first.
        """
        edge = outline.edge_distance.astype(np.float32)
        parts = (
            *outline.normals.transpose(2, 0, 1),
            outline.offsets,
            edge,
            np.float32(self.light.radius) / edge,
        )
        planes = np.stack(parts).astype(np.float32)
        frames = np.repeat(np.arange(len(edge)), np.diff(rays.bounds))
        found, left = np.ones_like(from_lamp), np.arange(len(from_lamp))
        worst = np.full_like(from_lamp, np.float32(_NEVER))
        for number in _spread(edge.shape[1]):
            np.maximum(worst, _beyond(planes[:, :, number].take(frames, 1), offset, from_lamp), out=worst)
            near = np.flatnonzero(worst < 1)
            if 4 * len(near) < 3 * len(worst):
                offset, from_lamp, frames = offset[:, near], from_lamp[near], frames[near]
                worst, left = worst[near], left[near]
        found[left] = worst
        return found


def _spread(count: int) -> list[int]:
    """Numbers below `count`: every fourth, then those between."""
    return [number for start in range(4) for number in range(start, count, 4)]


def _beyond(planes: Float32[np.ndarray, "6 n"], offset: Vectors, from_lamp: PerPoint) -> PerPoint:
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


def dot(a: Vectors, b: Vectors) -> PerPoint:
    """Row-wise inner product of components [3, n]."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def toward(light: Light, points: Vectors) -> tuple[Vectors, PerPoint]:
    """Unit directions to the lamp, and its strength at the points on a surface that faces it."""
    place = np.array(light.position, np.float32)
    if light.is_sun:
        way = place / np.float32(np.linalg.norm(place))
        return np.broadcast_to(way[:, None], points.shape), np.full_like(points[0], light.power)
    way = place[:, None] - points
    squared = dot(way, way)
    way *= 1 / np.sqrt(squared)
    aim = place / np.float32(np.linalg.norm(place))
    emitted = np.maximum(way[0] * aim[0] + way[1] * aim[1] + way[2] * aim[2], 0)
    return way, np.float32(light.power) * emitted / np.maximum(squared, 1.0)


class Shadows:
    """The shadows of all bodies by all lamps of a scene."""

    def __init__(self, bodies: tuple[PlacedBody, ...], lights: tuple[Light, ...]) -> None:
        self.lights = lights
        self.bodies = bodies
        self.of = [[Shadow(placed, light) for placed in bodies] for light in lights]

    def on_floor(
        self, light: int, grid: RayGrid, points, is_floor: np.ndarray
    ) -> Float32[np.ndarray, "rays"]:
        """Part of the lamp that reaches the floor at every ray; 1 for rays that do not end on the floor.

        Args:
            points: From a frame to the floor points [3, n] of its rays.
            is_floor: Which rays end on the floor.
        """
        open_share = np.ones(is_floor.shape, np.float32)
        for shadow in self.of[light]:
            polygon, bounded = shadow.floor_polygon()
            boxes = screen_boxes(polygon, grid)
            boxes = np.where(bounded[:, None], boxes, [0, grid.size, 0, grid.size])
            boxes[~shadow.outside] = 0
            rays = rays_in(boxes, grid)
            rays = rays.where(is_floor[rays.rays])
            spots = np.empty((3, len(rays.rays)), np.float32)
            for frame, part in rays.slices:
                spots[:, part] = points(frame).take(rays.rays[part] - frame * grid.per_frame, 1)
            open_share[rays.rays] *= 1 - shadow.occlusion(rays, spots, in_front=False)
        return open_share

    def on_body(self, light: int, number: int, rays: RaySet, points: Vectors) -> PerPoint:
        """Part of the lamp that other bodies let through to points on body `number`."""
        open_share = np.ones_like(points[0])
        receiver = self.bodies[number]
        for other, shadow in enumerate(self.of[light]):
            if other == number:
                continue
            touched = np.repeat(shadow.reaches(receiver.centers, receiver.body.radius), np.diff(rays.bounds))
            if touched.any():
                open_share[touched] *= 1 - shadow.occlusion(rays.where(touched), points[:, touched], True)
        return open_share

"""How much light the lamps throw on a point, and how much of it the bodies keep away."""

import numpy as np
from jaxtyping import Float32

from torchslots.sim.raycast import PlacedBody, RayGrid, RaySet, Vectors, rays_in, screen_boxes
from torchslots.sim.scene import Light
from torchslots.sim.shadow import Shadow

PerPoint = Float32[np.ndarray, "n"]


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
        """Share of the lamp that reaches the floor at every ray (1 where the ray is not on the floor).

        `points(frame)` gives the floor points [3, n] of a frame's rays; `is_floor` marks the rays that end there.
        """
        open_share = np.ones(is_floor.shape, np.float32)
        for shadow in self.of[light]:
            polygon, bounded = shadow.floor_polygon()
            boxes = screen_boxes(polygon, grid)
            boxes = np.where(bounded[:, None], boxes, [0, grid.size, 0, grid.size])
            boxes[~shadow.outside] = 0
            rays = rays_in(boxes, grid)
            rays = rays.where(is_floor[rays.rays])
            for frame, part in rays.slices:
                chosen = rays.rays[part]
                spot = points(frame)[:, chosen - frame * grid.per_frame]
                open_share[chosen] *= 1 - shadow.occlusion(frame, spot, in_front=False)
        return open_share

    def on_body(self, light: int, number: int, rays: RaySet, points: Vectors) -> PerPoint:
        """Share of the lamp that other bodies let through to points on body `number`."""
        open_share = np.ones_like(points[0])
        receiver = self.bodies[number]
        for other, shadow in enumerate(self.of[light]):
            if other == number:
                continue
            touched = shadow.reaches(receiver.centers, receiver.body.radius)
            for frame, part in rays.slices:
                if touched[frame]:
                    open_share[part] *= 1 - shadow.occlusion(frame, points[:, part], in_front=True)
        return open_share

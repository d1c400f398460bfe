"""Light of lamps at points, and the shadows of all bodies by all lamps."""

import numpy as np
from jaxtyping import Bool, Float32

from torchslots.sim.blocks import Blocks
from torchslots.sim.raycast import PlacedBody, RayGrid, Vectors, dot
from torchslots.sim.scene import Light
from torchslots.sim.shadow import PerPoint, Shadow


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
        self, light: int, grid: RayGrid, points: Vectors, is_floor: Bool[np.ndarray, "rays"]
    ) -> Float32[np.ndarray, "rays"]:
        """Part of the lamp that reaches the floor at every ray; 1 for rays that do not end on the floor.

        Args:
            points: Where the rays end, of all frames or, for a fixed camera, of one.
            is_floor: Which rays end on the floor.
        """
        open_share = np.ones(is_floor.shape, np.float32)
        for shadow in self.of[light]:
            rays = shadow.floor_rays(grid)
            rays = rays.select(np.flatnonzero(is_floor.take(rays.rays)))
            spots = points.take(rays.rays % points.shape[1], 1)
            open_share[rays.rays] *= 1 - shadow.occlusion(rays, spots, in_front=False)
        return open_share

    def on_bodies(self, light: int, blocks: Blocks) -> PerPoint:
        """Part of the lamp that other bodies let through to points on bodies."""
        open_share = np.ones_like(blocks.points[0])
        centers = np.stack([placed.centers for placed in self.bodies])
        radii = np.array([[placed.body.radius] for placed in self.bodies])
        for number, shadow in enumerate(self.of[light]):
            reached = np.broadcast_to(shadow.reaches(centers, radii), centers.shape[:2])
            chosen = reached[blocks.bodies, blocks.frames] & (blocks.bodies != number)
            touched = shadow.touched(blocks, np.flatnonzero(chosen))
            if len(touched):
                rays = blocks.chosen(touched, len(shadow.lamp))
                open_share[rays.rays] *= 1 - shadow.occlusion(rays, blocks.points.take(rays.rays, 1), True)
        return open_share

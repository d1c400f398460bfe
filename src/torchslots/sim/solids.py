"""Three convex solids: intersections with rays, surface normals, corners and edges.

Rays are components [3, n] in the solid's coordinates, so that each operation reads contiguous memory. `half` is the
solid's half extents in metres; a cylinder's axis is z, a sphere has three equal extents.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

Rays = Float32[np.ndarray, "3 n"]
PerRay = Float32[np.ndarray, "n"]
Half = tuple[float, float, float]

_TINY = np.float32(1e-9)


@dataclass(frozen=True)
class Hull:
    """A convex polyhedron inside [-1, 1]^3 that casts a solid's shadow.

    `edges` rows are (corner, corner, face, face): the two faces that meet there.
    """

    corners: np.ndarray
    normals: np.ndarray
    face_corner: Int64[np.ndarray, "faces"]
    edges: Int64[np.ndarray, "edges 4"]


def _slab(origin: PerRay, direction: PerRay, half: float) -> tuple[PerRay, PerRay]:
    inverse = 1 / np.where(np.abs(direction) < _TINY, _TINY, direction)
    middle = -origin * inverse
    reach = np.abs(inverse) * np.float32(half)
    return middle - reach, middle + reach


class Cube:
    """A box with any three extents."""

    label = "cube"
    mujoco_type = "box"

    def __init__(self) -> None:
        self.hull = _prism_hull(4, math.sqrt(2), math.pi / 4)

    def interval(self, origin: Rays, direction: Rays, half: Half) -> tuple[PerRay, PerRay]:
        """Distances at which each ray (unit direction) enters and leaves; it misses where the first is greater."""
        enter, leave = _slab(origin[0], direction[0], half[0])
        for axis in (1, 2):
            near, far = _slab(origin[axis], direction[axis], half[axis])
            enter, leave = np.maximum(enter, near), np.minimum(leave, far)
        return enter, leave

    def normal(self, points: Rays, half: Half) -> Rays:
        """Outward unit normals of points on the surface."""
        near = np.abs(points) / np.array(half, np.float32)[:, None]
        x = (near[0] >= near[1]) & (near[0] >= near[2])
        y = ~x & (near[1] >= near[2])
        return np.sign(points) * np.stack([x, y, ~(x | y)])

    def mujoco_size(self, half: Half) -> tuple[float, ...]:
        """Size in the form of MuJoCo's geoms."""
        return half

    def volume(self, half: Half) -> float:
        """In cubic metres."""
        return 8 * half[0] * half[1] * half[2]


class Cylinder:
    """A circular cylinder along z; its shadow is that of a prism of 20 sides."""

    label = "cylinder"
    mujoco_type = "cylinder"

    def __init__(self) -> None:
        self.hull = _prism_hull(20, 1.0, 0.0)

    def interval(self, origin: Rays, direction: Rays, half: Half) -> tuple[PerRay, PerRay]:
        enter, leave = _slab(origin[2], direction[2], half[2])
        squared = direction[0] ** 2 + direction[1] ** 2
        squared = np.maximum(squared, _TINY)
        closest = -(origin[0] * direction[0] + origin[1] * direction[1]) / squared
        across = origin[0] * direction[1] - origin[1] * direction[0]
        beyond = np.float32(half[0] ** 2) * squared - across * across
        reach = np.sqrt(np.maximum(beyond, 0)) / squared
        leave = np.where(beyond < 0, np.float32(-np.inf), np.minimum(leave, closest + reach))
        return np.maximum(enter, closest - reach), leave

    def normal(self, points: Rays, half: Half) -> Rays:
        radial = np.maximum(np.sqrt(points[0] ** 2 + points[1] ** 2), _TINY)
        cap = np.abs(points[2]) * np.float32(half[0]) > radial * np.float32(half[2])
        side = ~cap / radial
        return np.stack([points[0] * side, points[1] * side, np.sign(points[2]) * cap])

    def mujoco_size(self, half: Half) -> tuple[float, ...]:
        return half[0], half[2]

    def volume(self, half: Half) -> float:
        return 2 * math.pi * half[0] ** 2 * half[2]


class Sphere:
    """A sphere; its shadow is computed exactly, so it has no hull."""

    label = "sphere"
    mujoco_type = "sphere"
    hull = None

    def interval(self, origin: Rays, direction: Rays, half: Half) -> tuple[PerRay, PerRay]:
        closest = -(origin[0] * direction[0] + origin[1] * direction[1] + origin[2] * direction[2])
        nearest = origin + closest * direction
        beyond = np.float32(half[0] ** 2) - (nearest[0] ** 2 + nearest[1] ** 2 + nearest[2] ** 2)
        reach = np.sqrt(np.maximum(beyond, 0))
        return closest - reach, np.where(beyond < 0, np.float32(-np.inf), closest + reach)

    def normal(self, points: Rays, half: Half) -> Rays:
        return points / np.float32(half[0])

    def mujoco_size(self, half: Half) -> tuple[float, ...]:
        return (half[0],)

    def volume(self, half: Half) -> float:
        return 4 / 3 * math.pi * half[0] ** 3


def _prism_hull(sides: int, radius: float, turn: float) -> Hull:
    """A prism along z; faces 0..sides-1 are the sides, then bottom and top."""
    angle = turn + 2 * math.pi * np.arange(sides) / sides
    ring = radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    corners = np.concatenate([np.insert(ring, 2, z, axis=1) for z in (-1.0, 1.0)])
    middle = angle + math.pi / sides
    normals = np.stack([np.cos(middle), np.sin(middle), np.zeros(sides)], 1)
    normals = np.concatenate([normals, [[0, 0, -1], [0, 0, 1]]])
    here, after = np.arange(sides), (np.arange(sides) + 1) % sides
    before = (here - 1) % sides
    bottom, top = np.full(sides, sides), np.full(sides, sides + 1)
    edges = [
        (here, after, here, bottom),
        (here + sides, after + sides, here, top),
        (here, here + sides, before, here),
    ]
    face_corner = np.concatenate([here, [0], [sides]])
    return Hull(corners, normals, face_corner, np.concatenate([np.stack(edge, 1) for edge in edges]))


Solid = Cube | Cylinder | Sphere
SOLIDS: tuple[Solid, ...] = (Cube(), Cylinder(), Sphere())
"""In the order of the published shape labels."""

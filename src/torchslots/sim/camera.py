"""Pinhole camera that looks at the origin: rays through pixels, projection of points.

Conventions of the published sets: the camera looks along its own -z with y up, quaternions are (w, x, y, z),
image positions are (x, y) in 0..1 from the upper left corner.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

FOCAL_LENGTH = 35.0
"""In millimetres, with SENSOR_WIDTH."""
SENSOR_WIDTH = 32.0
FIELD_OF_VIEW = 2 * math.atan(SENSOR_WIDTH / 2 / FOCAL_LENGTH)
"""In radians."""

Vectors = Float[np.ndarray, "*any 3"]
Matrices = Float[np.ndarray, "*any 3 3"]


@dataclass(frozen=True)
class Camera:
    """The camera's position (metres) and rotation (columns: right, up, back) in each frame."""

    positions: Float[np.ndarray, "T 3"]
    rotations: Float[np.ndarray, "T 3 3"]

    @property
    def moves(self) -> bool:
        """Whether the position changes between frames."""
        return bool((self.positions != self.positions[:1]).any())

    def project(self, points: Vectors) -> tuple[Float[np.ndarray, "*any 2"], Float[np.ndarray, "*any"]]:
        """Image positions (x, y) and depth along the axis in metres of `points` [..., T, 3].

        Behind the camera the depth is negative and the image position is meaningless.
        """
        local = np.einsum("...ti,tij->...tj", points - self.positions, self.rotations)
        depth = -local[..., 2]
        scale = FOCAL_LENGTH / SENSOR_WIDTH / np.where(np.abs(depth) < 1e-6, 1e-6, depth)
        return np.stack([0.5 + local[..., 0] * scale, 0.5 - local[..., 1] * scale], -1), depth

    def floor_lines(
        self, slopes: Float[np.ndarray, "*any T E 3"], heights: Float[np.ndarray, "*any T E"]
    ) -> Float[np.ndarray, "*any T E 3"]:
        """Lines on the screen where a linear function of the place is zero on the floor.

        At (x, y), measured from the middle of the image in its size, with y up, the function has the sign of
        l[0] * x + l[1] * y + l[2] if the floor is seen there.

        Args:
            slopes: The function's slope.
            heights: Its value at the camera.
        """
        lines = slopes * self.positions[:, None, 2:]
        lines[..., 2] -= heights
        lines = np.einsum("...tei,tij->...tej", lines, self.rotations)
        lines[..., 2] *= -FOCAL_LENGTH / SENSOR_WIDTH
        return lines

    def frames(self, part: slice) -> "Camera":
        """The camera in some of the frames."""
        return Camera(self.positions[part], self.rotations[part])


def looking_at_origin(positions: Float[np.ndarray, "T 3"]) -> Camera:
    """A camera at `positions` whose axis passes through the origin and whose image has z up."""
    back = positions / np.linalg.norm(positions, axis=-1, keepdims=True)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    return Camera(positions, np.stack([right, np.cross(back, right), back], -1))


def fixed_camera(num_frames: int, rng: np.random.Generator) -> Camera:
    """MOVi-A: CLEVR's position with up to a metre of jitter."""
    place = np.array([7.48113, -6.50764, 5.34367]) + rng.uniform(size=3)
    return looking_at_origin(np.repeat(place[None], num_frames, 0))


def shell_camera(num_frames: int, rng: np.random.Generator) -> Camera:
    """MOVi-C: anywhere in a half-sphere shell of 7 to 9 metres."""
    return looking_at_origin(np.repeat(_in_shell(7.0, 9.0, rng)[None], num_frames, 0))


def moving_camera(num_frames: int, rng: np.random.Generator) -> Camera:
    """MOVi-E: on a straight line of up to 4 metres with both ends in a half-sphere shell of 8 to 12 metres."""
    while True:
        start, way = _in_shell(8.0, 12.0, rng), rng.normal(size=3)
        end = start + way / np.linalg.norm(way) * rng.uniform(0, 4)
        if 8.0 <= np.linalg.norm(end) <= 12.0 and _above_floor(end):
            return looking_at_origin(start + np.linspace(0, 1, num_frames)[:, None] * (end - start))


def _in_shell(inner: float, outer: float, rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    while True:
        point = rng.uniform([-outer, -outer, 0.0], [outer, outer, outer])
        if inner <= np.linalg.norm(point) <= outer and _above_floor(point):
            return point


def _above_floor(point: Float[np.ndarray, "3"]) -> bool:
    """Neither lower than 0.6 m nor straight above the origin, where the image has no up."""
    return bool(point[2] > 0.6 and math.hypot(point[0], point[1]) > 0.5)


def pixel_directions(size: int, samples: int) -> Float[np.ndarray, "3 n"]:
    """Unit directions in the camera's frame through a grid of (size * samples)^2 points, row by row."""
    count = size * samples
    at = (np.arange(count) + 0.5) / count - 0.5
    x, y = np.meshgrid(at, -at)
    rays = np.stack([x.ravel(), y.ravel(), np.full(count * count, -FOCAL_LENGTH / SENSOR_WIDTH)])
    return rays / np.linalg.norm(rays, axis=0)


def row_limits(
    lines: Float[np.ndarray, "*any T 3"], y: Float[np.ndarray, "T rows"]
) -> tuple[Float[np.ndarray, "*any T rows"], Float[np.ndarray, "*any T rows"]]:
    """Between which x lines (see `Camera.floor_lines`) are negative at the heights `y` of each frame."""
    x, rise, shift = np.moveaxis(lines, -1, 0)[..., None]
    x = np.where(np.abs(x) < 1e-12, 1e-12, x)
    slope, start, below = rise / -x, shift / -x, x > 0
    low = np.where(below, 0, slope) * y + np.where(below, -np.inf, start)
    return low, np.where(below, slope, 0) * y + np.where(below, start, np.inf)


def rotation_matrices(quaternions: Float[np.ndarray, "*any 4"]) -> Matrices:
    """Rotation matrices of unit quaternions (w, x, y, z)."""
    w, x, y, z = np.moveaxis(np.asarray(quaternions, np.float64), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def quaternions_of(rotations: Matrices) -> Float[np.ndarray, "*any 4"]:
    """Unit quaternions (w, x, y, z) with w >= 0 of rotation matrices."""
    r = rotations
    trace = r[..., 0, 0] + r[..., 1, 1] + r[..., 2, 2]
    squares = [1 + trace] + [1 - trace + 2 * r[..., i, i] for i in range(3)]
    size = np.sqrt(np.maximum(np.stack(squares, -1), 0)) / 2
    sign = np.stack(
        [r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], -1
    )
    return np.concatenate([size[..., :1], np.copysign(size[..., 1:], sign)], -1)

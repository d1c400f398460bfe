"""A hand-made scene whose geometry is known."""

import numpy as np

from torchslots.sim.camera import Camera, looking_at_origin, rotation_matrices
from torchslots.sim.raycast import PlacedBody
from torchslots.sim.scene import RUBBER, Body
from torchslots.sim.solids import SOLIDS, Half

CUBE, CYLINDER, SPHERE = SOLIDS


def body(
    solid=SPHERE, half: Half = (0.5, 0.5, 0.5), position=(0.0, 0.0, 2.0), velocity=(0.0, 0.0, 0.0), **rest
) -> Body:
    """A rubber body at rest, upright, unless told otherwise."""
    rest = {"substance": RUBBER, "color": (0.2, 0.3, 0.4), "quaternion": (1.0, 0.0, 0.0, 0.0)} | rest
    return Body(solid=solid, half=half, position=position, velocity=velocity, **rest)


def moving(what: Body, num_frames: int, rng: np.random.Generator) -> PlacedBody:
    """The body on a straight line through its position, turning steadily about an axis."""
    way, axis = rng.normal(size=3) * 0.08, rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    angle = 0.05 + 0.12 * np.arange(num_frames)
    turns = np.concatenate([np.cos(angle / 2)[:, None], np.sin(angle / 2)[:, None] * axis], 1)
    centers = np.array(what.position) + np.arange(num_frames)[:, None] * way
    return PlacedBody(what, centers, rotation_matrices(turns))


def camera(num_frames: int, step: float = 0.0) -> Camera:
    """Eight metres away; `step` metres to the side from frame to frame."""
    place = np.array([6.0, -5.0, 4.0]) + np.arange(num_frames)[:, None] * [step, step, 0.0]
    return looking_at_origin(place)

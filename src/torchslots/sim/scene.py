"""Sample scenes: objects, lights, camera and surroundings from the published statistics.

The values are those of the MOVi workers of Kubric (Greff et al., CVPR 2022): object sizes, colours, friction
and restitution of MOVi-A; the camera shells of MOVi-C and MOVi-E. Differences: objects start inside the view, resting
objects of MOVi-E are placed on the floor instead of dropped, and C and E use textured solids.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from torchslots.io.errors import UserError
from torchslots.sim.camera import Camera, fixed_camera, moving_camera, shell_camera
from torchslots.sim.solids import SOLIDS, Half, Solid
from torchslots.sim.texture import (
    Backdrop,
    SolidTexture,
    daylight,
    film,
    plain_backdrop,
    sample_backdrop,
    sample_solid_texture,
)

Variant = Literal["a", "c", "e"]
Rng = np.random.Generator
Vector = tuple[float, float, float]

COLORS = {
    "blue": (42, 75, 215),
    "brown": (129, 74, 25),
    "cyan": (41, 208, 208),
    "gray": (87, 87, 87),
    "green": (29, 105, 20),
    "purple": (129, 38, 192),
    "red": (173, 35, 35),
    "yellow": (255, 238, 51),
}
"""CLEVR's colours, sRGB 0..255, in the order of the published labels."""
SIZES = {"small": 0.7, "large": 1.4}
"""Edge of a cube, diameter of a sphere, in metres."""
CATEGORIES = tuple(
    "Action Figures,Bag,Board Games,Bottles and Cans and Cups,Camera,Car Seat,Consumer Goods,Hat,Headphones,Keyboard,"
    "Legos,Media Cases,Mouse,None,Shoe,Stuffed Toys,Toys".split(",")
)
"""The published category labels of MOVi-C and E; ours are boxes, cans and balls."""
_CATEGORY_OF = {"cube": "Media Cases", "cylinder": "Bottles and Cans and Cups", "sphere": "Toys"}

FLOOR_FRICTION, FLOOR_RESTITUTION = 0.3, 0.5
_SPAWN_LOW, _SPAWN_HIGH = np.array([-5.0, -5.0, 1.0]), np.array([5.0, 5.0, 5.0])
_ATTEMPTS, _RESTARTS = 300, 40


@dataclass(frozen=True)
class Substance:
    """A material, for physics and for light. Density in the published unit, 1 for water."""

    label: str
    density: float
    friction: float
    restitution: float
    metallic: bool


METAL = Substance("metal", density=2.7, friction=0.4, restitution=0.3, metallic=True)
RUBBER = Substance("rubber", density=1.1, friction=0.8, restitution=0.7, metallic=False)
PLAIN = Substance("plain", density=1.0, friction=0.5, restitution=0.5, metallic=False)
SUBSTANCES = (METAL, RUBBER)
"""In the order of the published material labels."""


@dataclass(frozen=True)
class Body:
    """One object: its properties, start and velocity (metres, metres per second, quaternion wxyz)."""

    solid: Solid
    half: Half
    substance: Substance
    color: Vector
    position: Vector
    quaternion: tuple[float, float, float, float]
    velocity: Vector
    size_label: int = 0
    color_label: int = 0
    texture: SolidTexture | None = None
    scale: float = 1.0
    is_dynamic: bool = True

    @property
    def radius(self) -> float:
        """Radius of the bounding sphere, in metres."""
        return {"cube": math.hypot(*self.half), "cylinder": math.hypot(self.half[0], self.half[2])}.get(
            self.solid.label, self.half[0]
        )

    @property
    def mass(self) -> float:
        """Density times volume, in the unit of the published sets."""
        return self.substance.density * self.solid.volume(self.half)

    @property
    def asset_id(self) -> str:
        """Name of its looks, in place of the published sets' scanned object."""
        return f"{self.solid.label}_{self.texture.name if self.texture else self.substance.label}"

    @property
    def category(self) -> int:
        """Index into CATEGORIES."""
        return CATEGORIES.index(_CATEGORY_OF[self.solid.label])


@dataclass(frozen=True)
class Light:
    """A spherical lamp. `power` is the brightness of a white surface that faces it at one metre.

    A sun has parallel rays, and its `power` holds at any distance.
    """

    position: Vector
    radius: float
    power: float
    color: Vector
    is_sun: bool = False


@dataclass(frozen=True)
class Scene:
    """All that physics and the ray caster need; `develop` maps light to display intensity."""

    bodies: tuple[Body, ...]
    lights: tuple[Light, ...]
    camera: Camera
    backdrop: Backdrop
    ambient: float
    develop: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Kind:
    """Samplers of a published set's camera, objects, lights and surroundings.

    `objects`: fewest and most. `thrown`: most moving ones, the others rest on the floor; None: all move.
    """

    objects: tuple[int, int]
    thrown: int | None
    camera: Callable[[int, Rng], Camera]
    shape: Callable[[Rng], dict]
    lights: Callable[[Rng], tuple[Light, ...]]
    backdrop: Callable[[Rng], Backdrop]
    ambient: float
    develop: Callable[[np.ndarray], np.ndarray]


def sample_scene(variant: Variant, counts: tuple[int, int], num_frames: int, rng: Rng) -> Scene:
    """Sample a scene with `counts` = (fewest, most) objects.

    Raises:
        UserError: the objects do not fit into the view.
    """
    kind = KINDS[variant]
    for _ in range(_RESTARTS):
        camera = kind.camera(num_frames, rng)
        number = int(rng.integers(counts[0], counts[1] + 1))
        bodies = _sample_bodies(kind, number, camera, rng)
        if len(bodies) == number:
            lights, backdrop = kind.lights(rng), kind.backdrop(rng)
            return Scene(tuple(bodies), lights, camera, backdrop, kind.ambient, kind.develop)
    raise UserError(
        f"{counts[0]} to {counts[1]} objects do not fit without overlap into the view of a sim_{variant} video. "
        "Ask for fewer."
    )


def _sample_bodies(kind: Kind, number: int, camera: Camera, rng: Rng) -> list[Body]:
    """Resting objects first, then moving ones; fewer than `number` if there is no place."""
    thrown = number if kind.thrown is None else min(number, int(rng.integers(1, kind.thrown + 1)))
    bodies: list[Body] = []
    for index in range(number):
        body = _place(kind.shape(rng), bodies, camera, rng, resting=index < number - thrown)
        if body is None:
            break
        bodies.append(body)
    return bodies


def _sample_clevr(rng: Rng) -> dict:
    solid = SOLIDS[rng.integers(3)]
    size_label = int(rng.integers(2))
    color_label = int(rng.integers(len(COLORS)))
    half = list(SIZES.values())[size_label] / 2
    return {
        "solid": solid,
        "half": (half, half, half),
        "substance": SUBSTANCES[rng.integers(2)],
        "color": linear_color(list(COLORS.values())[color_label]),
        "size_label": size_label,
        "color_label": color_label,
    }


def _sample_textured(rng: Rng) -> dict:
    solid = SOLIDS[rng.choice(3, p=[0.5, 0.3, 0.2])]
    scale = float(rng.uniform(0.75, 3.0) * 0.8)
    sides = np.ones(3)
    if solid.label == "cube":
        sides[rng.permutation(3)[:2]] = rng.uniform(0.3, 1.0, 2)
    elif solid.label == "cylinder":
        sides = np.array([1, 1, rng.uniform(0.4, 2.2)])
        sides /= sides.max()
    x, y, z = (float(side * scale / 2) for side in sides)
    texture = sample_solid_texture(rng)
    shape = {"solid": solid, "half": (x, y, z), "substance": PLAIN, "scale": scale}
    return {**shape, "color": texture.mean, "texture": texture}


def _place(shape: dict, others: list[Body], camera: Camera, rng: Rng, resting: bool) -> Body | None:
    """Sample positions until the body overlaps no other and is inside the first frame; None: no position found."""
    for _ in range(_ATTEMPTS):
        body = _resting_body(shape, rng) if resting else _thrown_body(shape, rng)
        center = np.array(body.position)
        clear = all(math.dist(center, other.position) > body.radius + other.radius for other in others)
        above = resting or center[2] > body.radius + 0.02
        if clear and above and _in_view(center, body.radius, camera):
            return body
    return None


def _thrown_body(shape: dict, rng: Rng) -> Body:
    position = rng.uniform(_SPAWN_LOW, _SPAWN_HIGH)
    quaternion = rng.normal(size=4)
    quaternion /= np.linalg.norm(quaternion)
    velocity = rng.uniform([-4, -4, 0], [4, 4, 0]) - position * [1, 1, 0]
    return Body(**shape, position=_tuple(position), quaternion=_tuple(quaternion), velocity=_tuple(velocity))


def _resting_body(shape: dict, rng: Rng) -> Body:
    x, y = rng.uniform(-7, 7, 2)
    yaw = rng.uniform(0, math.pi)
    turn = (math.cos(yaw), 0.0, 0.0, math.sin(yaw))
    place = (float(x), float(y), shape["half"][2])
    return Body(**shape, position=place, quaternion=turn, velocity=(0.0, 0.0, 0.0), is_dynamic=False)


def _in_view(center: np.ndarray, radius: float, camera: Camera) -> bool:
    """Whether the bounding sphere is inside the first frame and not too close to the camera."""
    at, depth = camera.frames(slice(1)).project(center[None])
    if depth[0] < radius + 1.5:
        return False
    margin = radius / depth[0] * 35 / 32
    return bool((at[0] > 0.8 * margin).all() and (at[0] < 1 - 0.8 * margin).all())


def _clevr_lights(rng: Rng) -> tuple[Light, ...]:
    """CLEVR's sun and three lamps, each moved by up to a metre."""
    jitter = rng.uniform(size=(4, 3))
    sun = np.array([11.6608, -6.62799, 25.8232]) + jitter[0]
    return (
        Light(_tuple(200 * sun / np.linalg.norm(sun)), 200 * 0.06, 0.143, (1.0, 1.0, 1.0), is_sun=True),
        Light(_tuple(np.array([6.44671, -2.90517, 4.2584]) + jitter[1]), 0.3, 10.1, (1.0, 0.96, 0.9)),
        Light(_tuple(np.array([-4.67112, -4.0136, 3.01122]) + jitter[2]), 0.3, 3.04, (0.98, 0.99, 1.05)),
        Light(_tuple(np.array([-1.1685, 2.64602, 5.81574]) + jitter[3]), 0.3, 5.07, (1.0, 0.98, 0.95)),
    )


def _outdoor_lights(rng: Rng) -> tuple[Light, ...]:
    """A sun above 39 degrees, and the sky as a wide lamp overhead, which gives contact shadows."""
    angle, height = rng.uniform(0, 2 * math.pi), rng.uniform(0.8, 2.0)
    toward = np.array([math.cos(angle), math.sin(angle), height]) / math.hypot(1, height)
    size, power = float(rng.uniform(0.03, 0.12)), float(rng.uniform(0.4, 1.1))
    sun = Light(_tuple(200 * toward), 200 * size, power, (1.0, 0.97, 0.92), is_sun=True)
    return sun, Light((0.0, 0.0, 200.0), 200 * 0.6, 0.35, (0.94, 0.97, 1.05), is_sun=True)


def linear_color(srgb: tuple[int, int, int]) -> Vector:
    """Linear light, 0..1, of sRGB 0..255."""
    value = np.array(srgb) / 255
    return _tuple(np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4))


def _tuple(values: np.ndarray) -> tuple:
    return tuple(float(value) for value in values)


_OUTDOORS = Kind(
    (3, 10), None, shell_camera, _sample_textured, _outdoor_lights, sample_backdrop, 0.15, daylight
)
KINDS: dict[Variant, Kind] = {
    "a": Kind((3, 10), None, fixed_camera, _sample_clevr, _clevr_lights, plain_backdrop, 0.05, film),
    "c": _OUTDOORS,
    "e": replace(_OUTDOORS, objects=(11, 23), thrown=3, camera=moving_camera),
}
"""By the letter of the published set."""

"""Render images of rooms with coloured walls and floor, sky and a few objects, 64 x 64 pixels.

Like Objects Room (Kabra et al., Multi-Object Datasets, 2019), with its entities: sky, floor and two halves of the
wall, then the objects. Sizes, colours and light are ours.
"""

import colorsys
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from torchslots.data.formats.example import encode_example
from torchslots.sim.solids import SOLIDS, Solid

SIZE = 64
"""Height and width of an image in pixels."""
SKY, FLOOR, LEFT_WALL, RIGHT_WALL = range(4)
NUM_BACKGROUND = 4
MOST_OBJECTS = 3
_SAMPLES = 2
"""Rays of a pixel along each axis; the mask is that of one ray through its centre."""
_LEAST_SEEN = 12
"""Fewest visible pixels of an object."""
_WALL, _HEIGHT = 3.0, 1.7
"""Half the width of the room, and how high its walls are, in metres."""
_CAMERA_HEIGHT, _CAMERA_DISTANCE, _FOCUS = 1.35, 2.7, 0.95
"""Metres above the floor and from the middle of the room, and focal length in image widths."""
_TOWARD_LIGHT = np.array([0.35, -0.25, 0.9], np.float32) / np.float32(math.sqrt(0.995))
_AMBIENT, _SHADOW = 0.45, 0.55
_SKY_COLOR = (0.55, 0.75, 0.95)

Vectors = Float32[np.ndarray, "3 n"]
PerRay = Float32[np.ndarray, "n"]
Rng = np.random.Generator


@dataclass(frozen=True)
class _Object:
    """A solid on the floor, rotated about the vertical. `half` in metres, `color` 0..1."""

    solid: Solid
    half: tuple[float, float, float]
    center: tuple[float, float]
    turn: float
    color: tuple[float, float, float]

    def local(self, vectors: Vectors, offset: bool) -> Vectors:
        """World to object coordinates; `offset`: the vectors are points, not directions."""
        x, y, z = vectors
        if offset:
            x, y = x - np.float32(self.center[0]), y - np.float32(self.center[1])
            z = z - np.float32(self.half[2])
        cosine, sine = np.float32(math.cos(self.turn)), np.float32(math.sin(self.turn))
        return np.stack([cosine * x + sine * y, cosine * y - sine * x, z])

    def world(self, normals: Vectors) -> Vectors:
        """Directions in world coordinates."""
        x, y, z = normals
        cosine, sine = np.float32(math.cos(self.turn)), np.float32(math.sin(self.turn))
        return np.stack([cosine * x - sine * y, sine * x + cosine * y, z])


@dataclass(frozen=True)
class _Room:
    """A room; `heading` and `pitch` of the camera in radians, colours 0..1."""

    objects: tuple[_Object, ...]
    heading: float
    pitch: float
    floor: tuple[float, float, float]
    wall: tuple[float, float, float]


class _Hit(NamedTuple):
    """First hit of each ray: entity, distance in metres, unit normal."""

    entity: Int64[np.ndarray, "n"]
    distance: PerRay
    normal: Vectors


def room_record(rng: Rng, most_objects: int = MOST_OBJECTS) -> bytes:
    """One record of the published schema; where there are fewer objects, the last masks are empty."""
    image, mask = sample_room(rng, most_objects)
    return encode_example({"image": image, "mask": mask}, one_byte=("image", "mask"))


def sample_room(
    rng: Rng, most_objects: int = MOST_OBJECTS
) -> tuple[UInt8[np.ndarray, "64 64 3"], UInt8[np.ndarray, "E 64 64 1"]]:
    """Sample a room with 1 to `most_objects` objects: its image, and a mask of 0 or 255 for each entity.

    Rooms are sampled again until each object is visible.
    """
    while True:
        room = _sample(rng, int(rng.integers(1, most_objects + 1)))
        entity = _cast(room, *_rays(room, SIZE)).entity.reshape(SIZE, SIZE)
        mask = entity == np.arange(NUM_BACKGROUND + most_objects)[:, None, None]
        if (mask[NUM_BACKGROUND:][: len(room.objects)].sum((1, 2)) >= _LEAST_SEEN).all():
            break
    origin, directions = _rays(room, SIZE * _SAMPLES)
    light = _shade(room, origin, directions, _cast(room, origin, directions))
    light = light.reshape(3, SIZE, _SAMPLES, SIZE, _SAMPLES).mean((2, 4))
    image = (light.clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(image), mask[..., None].astype(np.uint8) * np.uint8(255)


def _sample(rng: Rng, number: int) -> _Room:
    heading = float(rng.uniform(0, 2 * math.pi))
    objects: list[_Object] = []
    while len(objects) < number:
        fresh = _sample_object(rng)
        apart = (math.dist(fresh.center, it.center) > fresh.half[0] + it.half[0] + 0.15 for it in objects)
        if all(apart):
            objects.append(fresh)
    pitch = float(rng.uniform(0.12, 0.28))
    return _Room(tuple(objects), heading, pitch, floor=_color(rng, 0.45), wall=_color(rng, 0.45))


def _sample_object(rng: Rng) -> _Object:
    solid = SOLIDS[rng.integers(len(SOLIDS))]
    half = float(rng.uniform(0.22, 0.42))
    height = half if solid.label == "sphere" else half * float(rng.uniform(0.8, 1.5))
    reach, angle = 1.5 * math.sqrt(rng.uniform()), rng.uniform(0, 2 * math.pi)
    center = (reach * math.cos(angle), reach * math.sin(angle))
    return _Object(solid, (half, half, height), center, float(rng.uniform(0, 2 * math.pi)), _color(rng, 0.6))


def _color(rng: Rng, saturation: float) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(saturation, 0.95), rng.uniform(0.55, 0.95))


def _rays(room: _Room, size: int) -> tuple[Vectors, Vectors]:
    """Origin [3, 1] and unit directions through the centres of size x size squares, row by row."""
    forward = np.array([math.cos(room.heading), math.sin(room.heading), 0.0])
    origin = np.array([0.0, 0.0, _CAMERA_HEIGHT]) - _CAMERA_DISTANCE * forward
    right = np.array([forward[1], -forward[0], 0.0])
    ahead = math.cos(room.pitch) * forward - [0.0, 0.0, math.sin(room.pitch)]
    at = (np.arange(size) + 0.5) / size - 0.5
    x, y = (part.ravel()[None] for part in np.meshgrid(at, -at))
    ways = _FOCUS * ahead[:, None] + x * right[:, None] + y * np.cross(right, ahead)[:, None]
    ways /= np.linalg.norm(ways, axis=0)
    return origin.astype(np.float32)[:, None], ways.astype(np.float32)


def _cast(room: _Room, origin: Vectors, directions: Vectors) -> _Hit:
    entity, distance, normal = _cast_room(room, origin, directions)
    for number, thing in enumerate(room.objects, NUM_BACKGROUND):
        start, way = thing.local(origin, True), thing.local(directions, False)
        enter, leave = thing.solid.interval(np.broadcast_to(start, way.shape), way, thing.half)
        nearer = (enter < leave) & (enter > 0) & (enter < distance)
        entity[nearer], distance[nearer] = number, enter[nearer]
        points = start + enter[nearer] * way[:, nearer]
        normal[:, nearer] = thing.world(thing.solid.normal(points, thing.half))
    return _Hit(entity, distance, normal)


def _cast_room(room: _Room, origin: Vectors, directions: Vectors) -> _Hit:
    """Floor, walls and sky; the halves of the wall meet straight ahead."""
    x, y, z = np.where(np.abs(directions) < 1e-6, np.float32(1e-6), directions)
    reach = [(np.float32(_WALL) * np.sign(way) - origin[axis]) / way for axis, way in enumerate((x, y))]
    distance = np.minimum(*reach)
    normal = np.zeros_like(directions)
    normal[0], normal[1] = (reach[0] <= reach[1]) * -np.sign(x), (reach[0] > reach[1]) * -np.sign(y)
    leftward = math.cos(room.heading) * y - math.sin(room.heading) * x > 0
    entity = np.where(leftward, LEFT_WALL, RIGHT_WALL)
    down = -origin[2] / z
    on_floor = (z < 0) & (down < distance)
    above = origin[2] + distance * z > _HEIGHT
    entity[on_floor], entity[above] = FLOOR, SKY
    normal[:, on_floor] = np.array([[0], [0], [1]], np.float32)
    return _Hit(entity, np.where(on_floor, down, np.where(above, np.float32(np.inf), distance)), normal)


def _shade(room: _Room, origin: Vectors, directions: Vectors, hit: _Hit) -> Float[np.ndarray, "3 n"]:
    colors = [_SKY_COLOR, room.floor, room.wall, room.wall, *(thing.color for thing in room.objects)]
    facing = np.maximum(_TOWARD_LIGHT @ hit.normal, 0)
    floor = np.flatnonzero(hit.entity == FLOOR)
    points = origin + hit.distance[floor] * directions[:, floor]
    facing[floor] *= np.where(_in_shadow(room, points), np.float32(1 - _SHADOW), np.float32(1))
    brightness = np.where(hit.entity == SKY, 1, _AMBIENT + (1 - _AMBIENT) * facing)
    return np.array(colors)[hit.entity].T * brightness


def _in_shadow(room: _Room, points: Vectors) -> np.ndarray:
    hidden = np.zeros(points.shape[1], bool)
    way = np.broadcast_to(_TOWARD_LIGHT[:, None], points.shape)
    for thing in room.objects:
        enter, leave = thing.solid.interval(thing.local(points, True), thing.local(way, False), thing.half)
        hidden |= (enter < leave) & (leave > 1e-3)
    return hidden

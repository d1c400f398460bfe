"""Render CLEVR-like images of 3 to 10 solids with masks and properties; plain, or textured as in CLEVRTex.

Sizes, spacing, camera and its jitter are CLEVR's (Johnson et al., 2017); light and textures are those of the generated
videos. An image is the middle of a square one, so its height may not exceed its width.
"""

import io
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from torchslots.data.formats.example import encode_example
from torchslots.data.formats.png import encode_png
from torchslots.data.objects import LABELS
from torchslots.io.draw import PALETTE
from torchslots.io.encode import palette_image
from torchslots.sim.camera import Camera, looking_at_origin, rotation_matrices
from torchslots.sim.raycast import PlacedBody, RayGrid, cast
from torchslots.sim.render import render_video
from torchslots.sim.scene import COLORS, KINDS, PLAIN, SUBSTANCES, Body, Scene, linear_color
from torchslots.sim.solids import SOLIDS
from torchslots.sim.texture import sample_solid_texture

OBJECTS = (3, 10)
"""Fewest and most in an image."""
NUM_ENTITIES = 1 + OBJECTS[1]
_CAMERA = np.array([7.48113, -6.50764, 5.34367])
_JITTER = 0.5
_RADII = {"large": 0.7, "small": 0.35}
"""Of a sphere or cylinder, and of a cube's circumscribed circle, in CLEVR's units."""
_REACH, _GAP, _MARGIN = 3.0, 0.25, 0.4
"""Objects are within REACH of the centre along both axes, GAP apart, MARGIN apart along the camera's ground axes."""
_LEAST_SEEN = 200 / (320 * 480)
"""Least part of the image that an object fills, or the scene is sampled again."""
_ATTEMPTS = 50
_SAMPLES = 2

Rng = np.random.Generator
Size = tuple[int, int]


@dataclass(frozen=True)
class ClevrObject:
    """One object by the names of CLEVR's scene lists; `rotation` in degrees about the vertical."""

    position: tuple[float, float, float]
    rotation: float
    size: str
    shape: str
    color: str
    material: str

    @property
    def radius(self) -> float:
        """Radius of its footprint, for spacing."""
        return _RADII[self.size]

    @property
    def body(self) -> Body:
        """The object for the ray caster."""
        half = self.position[2]
        turn = math.radians(self.rotation) / 2
        return Body(
            solid=next(solid for solid in SOLIDS if solid.label == self.shape),
            half=(half, half, half),
            substance=next(substance for substance in SUBSTANCES if substance.label == self.material),
            color=linear_color(COLORS[self.color]),
            position=self.position,
            quaternion=(math.cos(turn), 0.0, 0.0, math.sin(turn)),
            velocity=(0.0, 0.0, 0.0),
        )


@dataclass(frozen=True)
class ClevrExample:
    """An image and its objects."""

    image: UInt8[np.ndarray, "H W 3"]
    masks: Bool[np.ndarray, "n H W"]
    objects: tuple[ClevrObject, ...]
    pixel_coords: Float[np.ndarray, "n 3"]
    """Column, row and distance along the camera's axis of the objects' centres."""
    ground: str
    """Name of the floor."""


def sample_clevr(rng: Rng, size: Size, textured: bool = False, most: int = OBJECTS[1]) -> ClevrExample:
    """Sample, render and measure one image of `size` = (height, width) pixels.

    Args:
        textured: Objects and floor have textures, the light is outdoors; an object's material is its texture's name.
        most: Most objects; `OBJECTS` has the fewest.
    """
    while True:
        objects, camera = _sample_objects(rng, most)
        placed = tuple(_placed(thing.body) for thing in objects)
        ids = _middle(cast(placed, RayGrid(camera, size[1])).ids.reshape(1, size[1], size[1]), size)[0]
        masks = ids == np.arange(1, len(objects) + 1)[:, None, None]
        if (masks.mean((1, 2)) >= _LEAST_SEEN).all():
            break
    kind = KINDS["c" if textured else "a"]
    if textured:
        placed = tuple(replace(one, body=_patterned(one.body, rng)) for one in placed)
        objects = [replace(thing, material=one.body.asset_id) for thing, one in zip(objects, placed)]
    bodies = tuple(one.body for one in placed)
    scene = Scene(bodies, kind.lights(rng), camera, kind.backdrop(rng), kind.ambient, kind.develop)
    image = _middle(render_video(scene, placed, size[1], _SAMPLES), size)[0]
    at, depth = camera.project(np.array([thing.position for thing in objects])[:, None])
    coords = np.concatenate([at[:, 0] * size[1] - [0, (size[1] - size[0]) // 2], depth], 1)
    return ClevrExample(image, masks, tuple(objects), coords, scene.backdrop.name)


def masked_record(example: ClevrExample) -> bytes:
    """A record of CLEVR with masks; entity 0 is the background.

    The published set does not document its codes: here they count from 1 in the order of `properties.LABELS`.
    """
    objects = example.objects
    masks = np.zeros((NUM_ENTITIES, *example.masks.shape[1:], 1), np.uint8)
    masks[0, ..., 0] = ~example.masks.any(0)
    masks[1 : len(objects) + 1, ..., 0] = example.masks
    features: dict[str, Any] = {
        "image": example.image,
        "mask": masks * np.uint8(255),
        "visibility": (np.arange(NUM_ENTITIES) <= len(objects)).astype(np.float32),
        "rotation": _rows([thing.rotation for thing in objects]),
        "pixel_coords": _rows(example.pixel_coords),
    }
    for axis, name in enumerate("xyz"):
        features[name] = _rows([thing.position[axis] for thing in objects])
    for name, labels in LABELS.items():
        codes = [1 + labels.index(getattr(thing, name)) for thing in objects]
        features[name] = _rows(codes).astype(np.uint8)
    return encode_example(features, one_byte=("image", "mask", *LABELS))


def scene_entry(example: ClevrExample) -> list[dict[str, Any]]:
    """The objects in the format of CLEVR's scene lists."""
    names = ("rotation", "size", "color", "material", "shape")
    return [
        {"3d_coords": list(thing.position), "pixel_coords": coords.tolist()}
        | {name: getattr(thing, name) for name in names}
        for thing, coords in zip(example.objects, example.pixel_coords)
    ]


def encode_ids(example: ClevrExample) -> bytes:
    """A palette PNG whose indices are the objects' numbers from 1, as in CLEVRTex."""
    ids = (example.masks * np.arange(1, len(example.masks) + 1)[:, None, None]).sum(0).astype(np.uint8)
    stream = io.BytesIO()
    palette_image(ids, PALETTE).save(stream, "PNG")
    return stream.getvalue()


def encode_image(example: ClevrExample) -> bytes:
    """A PNG file with an alpha channel, as in CLEVR."""
    return encode_png(np.dstack([example.image, np.full(example.image.shape[:2], 255, np.uint8)]))


def _sample_objects(rng: Rng, most: int) -> tuple[list[ClevrObject], Camera]:
    while True:
        camera = looking_at_origin((_CAMERA + rng.uniform(-_JITTER, _JITTER, 3))[None])
        number = int(rng.integers(OBJECTS[0], most + 1))
        objects: list[ClevrObject] = []
        for _ in range(_ATTEMPTS * number):
            fresh = _sample_object(rng)
            if _clear(fresh, objects, camera):
                objects.append(fresh)
            if len(objects) == number:
                return objects, camera


def _sample_object(rng: Rng) -> ClevrObject:
    size = ("large", "small")[rng.integers(2)]
    shape = SOLIDS[rng.integers(len(SOLIDS))].label
    half = _RADII[size] / (math.sqrt(2) if shape == "cube" else 1)
    x, y = rng.uniform(-_REACH, _REACH, 2)
    color, material = list(COLORS)[rng.integers(len(COLORS))], SUBSTANCES[rng.integers(2)].label
    return ClevrObject((float(x), float(y), half), float(rng.uniform(0, 360)), size, shape, color, material)


def _clear(fresh: ClevrObject, others: list[ClevrObject], camera: Camera) -> bool:
    """Whether an object keeps its distance from the others, on the floor and along the camera's ground axes."""
    axes = camera.rotations[0, :2, [0, 2]]
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    for other in others:
        offset = np.subtract(fresh.position[:2], other.position[:2])
        near = np.hypot(*offset) < fresh.radius + other.radius + _GAP
        if near or (np.abs(axes @ offset) < _MARGIN).any():
            return False
    return True


def _patterned(body: Body, rng: Rng) -> Body:
    texture = sample_solid_texture(rng)
    return replace(body, texture=texture, color=texture.mean, substance=PLAIN)


def _placed(body: Body) -> PlacedBody:
    rotation = rotation_matrices(np.array(body.quaternion))
    return PlacedBody(body, np.array(body.position)[None], rotation[None])


def _middle(frames: np.ndarray, size: Size) -> np.ndarray:
    """The middle rows of square frames."""
    top = (size[1] - size[0]) // 2
    return frames[:, top : top + size[0]]


def _rows(values: Any) -> np.ndarray:
    """Properties of objects after a row of zeros for the background, padded with zeros."""
    values = np.asarray(values, np.float32)
    rows = np.zeros((NUM_ENTITIES, *values.shape[1:]), np.float32)
    rows[1 : len(values) + 1] = values
    return rows

"""Render videos by ray casting with materials, lamps, shadows and reflections."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Float32, UInt8

from torchslots.sim.blocks import Blocks
from torchslots.sim.camera import FOCAL_LENGTH, SENSOR_WIDTH
from torchslots.sim.lighting import Shadows, toward
from torchslots.sim.raycast import (
    DOME_RADIUS,
    PlacedBody,
    RayGrid,
    RaySet,
    Seen,
    Vectors,
    cast,
    dot,
    per_ray,
    put,
    ray_directions,
    rotate,
)
from torchslots.sim.scene import Light, Scene
from torchslots.sim.texture import to_srgb

Colors = Float32[np.ndarray, "3 n"]
_RAYS_AT_ONCE = 2_000_000
_BOUNCE = 0.5
"""Part of the floor's light that reaches surfaces facing down."""
_ROUGHNESS = 0.12
_BRIGHTEST = np.float32(4)
"""Light is clipped here before the rays of a pixel are averaged, so that highlights at edges stay small."""
_GLOSS = {True: (400.0, 8.0), False: (12.0, 0.04)}
"""Exponent and strength of a lamp's highlight, on metal and on rubber."""


def render_video(
    scene: Scene, bodies: tuple[PlacedBody, ...], size: int, samples: int
) -> UInt8[np.ndarray, "T H W 3"]:
    """Render all frames with `samples` x `samples` rays for each pixel, in parts of about 200 MB."""
    step = max(1, _RAYS_AT_ONCE // (size * samples) ** 2)
    parts = []
    for first in range(0, len(scene.camera.positions), step):
        part = slice(first, first + step)
        placed = tuple(body.frames(part) for body in bodies)
        light = _render(scene, placed, RayGrid(scene.camera.frames(part), size * samples, samples))
        parts.append(to_srgb(scene.develop(light)))
    return np.concatenate(parts)


def _render(scene: Scene, bodies: tuple[PlacedBody, ...], grid: RayGrid) -> Float32[np.ndarray, "T H W 3"]:
    hits = cast(bodies, grid)
    shadows = Shadows(bodies, scene.lights)
    image = _surroundings(scene, shadows, grid, hits.ids == 0)
    for surface in _surfaces(shadows, hits.seen):
        if len(surface.seen.rays.rays):
            put(image, surface.seen.rays.rays, _body_colors(scene, shadows, grid, surface))
    np.minimum(image, _BRIGHTEST, out=image)
    return _pixels(image, grid).transpose(1, 2, 3, 0)


def _pixels(image: Float32[np.ndarray, "3 rays"], grid: RayGrid) -> Float32[np.ndarray, "3 T H W"]:
    """Averages over the rays of each pixel: along rows, then along columns. NumPy's own mean is slow over few."""
    samples, size = grid.samples, grid.size // grid.samples
    rows = _sum([image[:, first::samples] for first in range(samples)])
    rows = rows.reshape(3, grid.num_frames, size, samples, size)
    return _sum([rows[:, :, :, first] for first in range(samples)]) / np.float32(samples * samples)


def _sum(parts: list[np.ndarray]) -> np.ndarray:
    """The parts' sum, rounded as NumPy's sum over an axis of this length is."""
    return reduce(np.add, parts) if len(parts) < 8 else np.stack(parts, -1).sum(-1)


def ground(origin: np.ndarray, directions: Vectors) -> tuple[Vectors, np.ndarray]:
    """Where rays from `origin` meet the floor or, beyond DOME_RADIUS, the dome; and which meet the floor."""
    start = origin.astype(np.float32)
    along = directions[0] * start[0] + directions[1] * start[1] + directions[2] * start[2]
    outer = -along + np.sqrt(along * along + np.float32(DOME_RADIUS**2) - np.float32(start @ start))
    down = directions[2] < -1e-6
    reach = np.where(down, -start[2] / np.where(down, directions[2], -1), np.float32(np.inf))
    return start[:, None] + np.minimum(reach, outer) * directions, reach < outer


def _surroundings(
    scene: Scene, shadows: Shadows, grid: RayGrid, free: np.ndarray
) -> Float32[np.ndarray, "3 rays"]:
    """Floor and sky behind the bodies; for a fixed camera the unshadowed floor is computed once."""
    count = grid.num_frames if grid.camera.moves else 1
    places = [ground(grid.camera.positions[t], grid.directions[t]) for t in range(count)]
    spots, is_floor = (np.concatenate(parts, -1) for parts in zip(*places))
    albedo = np.concatenate([_floor_colors(scene, grid, t, *place) for t, place in enumerate(places)], 1)
    sky = np.concatenate(
        [np.where(floor, 0, scene.backdrop.sky_color(points)) for points, floor in places], 1
    )
    light = np.stack([_floor_light(lamp, spots) for lamp in scene.lights])
    repeats = grid.num_frames // count
    image = np.tile(_lit(scene, albedo, sky, light), (1, repeats))
    is_seen = np.tile(is_floor, repeats) & free
    shares = [shadows.on_floor(number, grid, spots, is_seen) for number in range(len(scene.lights))]
    dark = np.flatnonzero(reduce(np.minimum, shares) < 1)
    albedo, sky, light = (part.take(dark % spots.shape[1], 1) for part in (albedo, sky, light))
    put(image, dark, _lit(scene, albedo, sky, light, [share.take(dark) for share in shares]))
    return image


def _lit(
    scene: Scene, albedo: Colors, sky: Colors, light: np.ndarray, shares: Sequence[np.ndarray] | None = None
) -> Colors:
    """The floor's colours under all lamps, of which each reaches it in part (None: fully), plus the sky's."""
    image = np.empty_like(sky)
    for channel in range(3):
        received = np.full(sky.shape[1], scene.ambient, np.float32)
        for number, lamp in enumerate(scene.lights):
            strength = light[number] * np.float32(lamp.color[channel])
            received += strength if shares is None else strength * shares[number]
        image[channel] = albedo[channel] * received + sky[channel]
    return image


def _floor_colors(scene: Scene, grid: RayGrid, frame: int, points: Vectors, is_floor: np.ndarray) -> Colors:
    """Reflectance of the floor, 0 in the sky."""
    offset = points - grid.camera.positions[frame].astype(np.float32)[:, None]
    distance = np.sqrt(dot(offset, offset))
    slant = np.maximum(-offset[2] / distance, np.float32(0.02))
    footprint = distance * np.float32(SENSOR_WIDTH / FOCAL_LENGTH / grid.size) / np.sqrt(slant)
    return np.where(is_floor, scene.backdrop.floor_color(points, footprint), 0)


def _floor_light(lamp: Light, points: Vectors) -> Float32[np.ndarray, "n"]:
    way, strength = toward(lamp, points)
    return strength * np.maximum(way[2], 0)


@dataclass(frozen=True)
class _Surface:
    """Visible part of one body: world points and the part of each lamp that other bodies let through to them."""

    number: int
    seen: Seen
    points: Vectors
    open_shares: Float32[np.ndarray, "lamps n"]


def _surfaces(shadows: Shadows, visible: tuple[Seen, ...]) -> list[_Surface]:
    rays = [seen.rays for seen in visible]
    points = [
        rotate(placed.rotations, seen.local, seen.rays) + per_ray(placed.centers, seen.rays)
        for placed, seen in zip(shadows.bodies, visible)
    ]
    blocks = Blocks.of(rays, points)
    shares = np.stack([shadows.on_bodies(light, blocks) for light in range(len(shadows.lights))])
    parts = np.split(shares, np.cumsum([len(one.rays) for one in rays])[:-1], axis=1)
    return [_Surface(*parts) for parts in zip(range(len(rays)), visible, points, parts)]


def _body_colors(scene: Scene, shadows: Shadows, grid: RayGrid, surface: _Surface) -> Colors:
    placed, seen = shadows.bodies[surface.number], surface.seen
    rays = seen.rays
    normals = rotate(placed.rotations, placed.body.solid.normal(seen.local, placed.body.half), rays)
    directions = ray_directions(rays, grid)
    mirrored = directions - 2 * dot(directions, normals) * normals + _scatter(grid, rays)
    mirrored /= np.sqrt(dot(mirrored, mirrored))
    albedo = _albedo(placed, seen.local)
    metallic = placed.body.substance.metallic
    diffuse, gloss = _lamps(scene, surface, normals, mirrored, metallic)
    if metallic:
        around = _environment(scene, shadows, surface, mirrored)
        return albedo * (around + 0.06 * diffuse) + (0.25 + 0.75 * albedo) * gloss
    return albedo * diffuse + gloss


def _scatter(grid: RayGrid, rays: RaySet) -> Vectors:
    """Turns mirrored rays a little, each ray of a pixel another way, so that metal is not quite a mirror."""
    count = np.int64(grid.samples)
    step = np.float32(_ROUGHNESS / grid.samples)
    across = (rays.rays % count - (grid.samples - 1) / 2).astype(np.float32) * step
    down = (rays.rays // grid.size % count - (grid.samples - 1) / 2).astype(np.float32) * step
    return np.stack([across, across + down, down])


def _albedo(placed: PlacedBody, local: Vectors) -> Colors:
    if placed.body.texture is None:
        return np.broadcast_to(np.array(placed.body.color, np.float32)[:, None], local.shape)
    return placed.body.texture.color(local / np.float32(max(placed.body.half)))


def _lamps(scene: Scene, surface: _Surface, normals: Vectors, mirrored: Vectors, metallic: bool):
    """Light received [3, n] and highlights [3, n]."""
    exponent, strength = _GLOSS[metallic]
    points = surface.points
    received, gloss = _ambient(scene, normals), np.zeros_like(points)
    for light, open_share in zip(scene.lights, surface.open_shares):
        way, power = toward(light, points)
        power = power * open_share
        facing = np.maximum(dot(way, normals), 0) * power
        shine = _power(dot(way, mirrored), exponent) * power * np.float32(strength)
        for channel in range(3):
            received[channel] += facing * np.float32(light.color[channel])
            gloss[channel] += shine * np.float32(light.color[channel])
    return received, gloss


def _power(values: np.ndarray, exponent: float) -> np.ndarray:
    """Positive values to a high power, computed where that is not 0 in single precision."""
    found = np.zeros_like(values)
    large = np.flatnonzero(values > 10 ** (-46 / exponent))
    found[large] = values.take(large) ** np.float32(exponent)
    return found


def _ambient(scene: Scene, normals: Vectors) -> Colors:
    """Sky light from above, the floor's from below."""
    up = 0.5 + 0.5 * normals[2]
    floor = np.array(scene.backdrop.floor, np.float32) * np.float32(1.3 * _BOUNCE)
    return np.stack([np.float32(scene.ambient) * (0.4 + 0.6 * up) + floor[c] * (1 - up) for c in range(3)])


def _environment(scene: Scene, shadows: Shadows, surface: _Surface, ways: Vectors) -> Colors:
    """Colours in a mirror: floor, sky, and the other bodies."""
    number, rays, points = surface.number, surface.seen.rays, surface.points
    colors = _reflected_floor(scene, points, ways)
    nearest = np.full_like(points[0], np.inf)
    for other, placed in enumerate(shadows.bodies):
        if other != number:
            _reflect_body(scene, placed, shadows.bodies[number], rays, points, ways, nearest, colors)
    return colors


def _reflected_floor(scene: Scene, points: Vectors, ways: Vectors) -> Colors:
    down = np.maximum(-ways[2], np.float32(0.02))
    spot = points + ways * (points[2] / down)
    spot[2] = 0
    received = np.full(points.shape, scene.ambient, np.float32)
    for light in scene.lights:
        received += _floor_light(light, spot) * np.array(light.color, np.float32)[:, None]
    seen = np.clip(-ways[2] * 12 + 0.5, 0, 1)
    footprint = np.full_like(seen, 0.1)
    floor = scene.backdrop.floor_color(spot, footprint) * received
    return floor * seen + scene.backdrop.sky_color(ways) * (1 - seen)


def _reflect_body(scene, placed: PlacedBody, mirror: PlacedBody, rays, points, ways, nearest, colors) -> None:
    offset = per_ray(placed.centers, rays) - points
    along = dot(offset, ways)
    close = (dot(offset, offset) - along * along < np.float32(placed.body.radius**2)) & (along > 0)
    close = np.flatnonzero(close)
    if not len(close):
        return
    near = rays.select(close)
    origin = rotate(placed.rotations, -offset.take(close, 1), near, inverse=True)
    way = rotate(placed.rotations, ways.take(close, 1), near, inverse=True)
    enter, leave = placed.body.solid.interval(origin, way, placed.body.half)
    hit = np.flatnonzero((enter < leave) & (leave > 0) & (enter > -0.05) & (enter < nearest.take(close)))
    chosen, local = close.take(hit), (origin + enter * way).take(hit, 1)
    nearest[chosen] = enter.take(hit)
    normals = rotate(placed.rotations, placed.body.solid.normal(local, placed.body.half), near.select(hit))
    put(colors, chosen, _plain_colors(scene, placed, local, normals))


def _plain_colors(scene: Scene, placed: PlacedBody, local: Vectors, normals: Vectors) -> Colors:
    """A body in a mirror: lit by the sun and the sky, without shadows."""
    light = scene.lights[0]
    way, power = toward(light, normals)
    return _albedo(placed, local) * (_ambient(scene, normals) + np.maximum(dot(way, normals), 0) * power)

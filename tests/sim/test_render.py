"""Pictures: shortcuts change nothing, shadows are clean, metal has no dark patches, masks fit."""

from dataclasses import replace

import numpy as np
import pytest

from sim.small_scene import CUBE, CYLINDER, SPHERE, body
from torchslots.sim import render
from torchslots.sim.camera import rotation_matrices
from torchslots.sim.layers import measure
from torchslots.sim.lighting import Shadows
from torchslots.sim.physics import simulate
from torchslots.sim.raycast import PlacedBody, rays_in
from torchslots.sim.render import render_video
from torchslots.sim.scene import METAL, sample_scene
from torchslots.sim.shadow import Shadow
from torchslots.sim.texture import daylight, film, to_srgb

SIZE = 48
TURNED = (0.9, 0.3, 0.2, 0.06**0.5)


def drawn(variant, seed, num_frames=3):
    scene = sample_scene(variant, (4, 6), num_frames, np.random.default_rng(seed))
    motion = simulate(scene.bodies, num_frames)
    turns = rotation_matrices(motion.quaternions)
    placed = tuple(PlacedBody(b, motion.positions[i], turns[i]) for i, b in enumerate(scene.bodies))
    return scene, placed


def alone(thing):
    """MOVi-A's lights, floor and camera around one body."""
    scene, _ = drawn("a", 0, 1)
    turn = rotation_matrices(np.array(thing.quaternion))[None]
    placed = (PlacedBody(thing, np.array([thing.position]), turn),)
    return replace(scene, bodies=(thing,)), placed


def all_rays(shadow, grid):
    """Every ray of the frames in which the body throws a shadow."""
    return rays_in(shadow.outside[:, None] * np.array([[0, grid.size, 0, grid.size]]), grid)


@pytest.mark.parametrize("variant", ["a", "c", "e"])
def test_shortcuts_change_no_pixel(variant, monkeypatch):
    scene, placed = drawn(variant, 1)
    fast = render_video(scene, placed, SIZE, 2)
    monkeypatch.setattr(Shadow, "floor_rays", all_rays)
    monkeypatch.setattr(Shadow, "reaches", lambda shadow, centers, radius: shadow.outside)
    monkeypatch.setattr(Shadow, "touched", lambda shadow, blocks, chosen: chosen)
    monkeypatch.setattr(render, "_RAYS_AT_ONCE", 1)
    np.testing.assert_array_equal(render_video(scene, placed, SIZE, 2), fast)


def test_shadows_darken_the_floor_and_have_no_speckles(monkeypatch):
    scene, placed = alone(body(CUBE, position=(0.0, 0.0, 1.6), quaternion=TURNED))
    with_shadow = render_video(scene, placed, SIZE, 2)[0].astype(float).mean(-1)
    monkeypatch.setattr(
        Shadows, "on_floor", lambda self, light, grid, points, is_floor: np.ones(len(is_floor))
    )
    without = render_video(scene, placed, SIZE, 2)[0].astype(float).mean(-1)
    floor = measure(placed, scene.camera, SIZE).segmentation[0] == 0
    near_body = np.lib.stride_tricks.sliding_window_view(np.pad(~floor, 2), (5, 5)).any((2, 3))
    drop = np.where(near_body, 0, without - with_shadow)
    assert drop.max() > 12
    assert drop.min() >= -1
    ring = [np.roll(drop, shift, axis) for axis in (0, 1) for shift in (-1, 1)]
    lonely = (drop > np.maximum.reduce(ring) + 3) | (drop < np.minimum.reduce(ring) - 3)
    assert not (lonely & ~near_body & ~np.roll(near_body, 1, 0) & ~np.roll(near_body, -1, 0)).any()


@pytest.mark.parametrize("solid", [CUBE, CYLINDER, SPHERE])
def test_lonely_metal_has_no_dark_patches(solid):
    thing = body(solid, half=(0.9, 0.9, 0.9), substance=METAL, color=(0.63, 0.63, 0.63), quaternion=TURNED)
    scene, placed = alone(thing)
    picture = render_video(scene, placed, SIZE, 2)[0].mean(-1)
    mask = measure(placed, scene.camera, SIZE).segmentation[0] == 1
    assert mask.sum() > 30
    assert picture[mask].min() > 40


def test_mean_colour_is_near_the_published_clips():
    means = [render_video(*drawn("a", seed, 2), 32, 1).mean((0, 1, 2)) for seed in range(8)]
    np.testing.assert_allclose(np.mean(means, axis=0), (111, 112, 109), atol=9)


def test_picture_changes_inside_the_mask():
    thing = body(SPHERE, color=(1.0, 0.02, 0.02), half=(0.8, 0.8, 0.8), position=(0.0, 0.0, 1.0))
    scene, placed = alone(thing)
    picture = render_video(scene, placed, SIZE, 2)[0].astype(int)
    red = picture[..., 0] - picture[..., 1] > 40
    mask = measure(placed, scene.camera, SIZE).segmentation[0] == 1
    assert (red & mask).sum() / (red | mask).sum() > 0.93


def test_tone_curves_rise_and_srgb_fits_known_values():
    light = np.linspace(0, 3, 400, dtype=np.float32)
    for curve in (film, daylight):
        assert curve(light)[0] == 0
        assert (np.diff(curve(light)) > 0).all()
    np.testing.assert_array_equal(
        to_srgb(np.array([0, 0.0031308, 0.214, 1, 7], np.float32)), [0, 10, 127, 255, 255]
    )

"""Closed-form shadows against rays sent to many points of the lamp."""

import numpy as np
import pytest

from sim.small_scene import CUBE, CYLINDER, SPHERE, body
from torchslots.sim.camera import rotation_matrices
from torchslots.sim.raycast import PlacedBody, RaySet
from torchslots.sim.scene import Light
from torchslots.sim.shadow import Shadow

TURN = np.array([0.8, 0.3, -0.4, 0.33])
CASES = [(CUBE, (0.5, 0.8, 0.4)), (CYLINDER, (0.5, 0.5, 0.7)), (SPHERE, (0.6, 0.6, 0.6))]
LAMP = (2.0, -1.5, 6.0)


def place(solid, half):
    turn = rotation_matrices(TURN / np.linalg.norm(TURN))
    return PlacedBody(body(solid, half), np.array([[0.3, 0.2, 1.8]]), turn[None])


def floor(count):
    at = np.linspace(-3, 3, count)
    x, y = np.meshgrid(at, at)
    return np.stack([x.ravel(), y.ravel(), np.zeros(count * count)]).astype(np.float32)


def blocked(placed, points, lamp):
    """Whether the straight way from each point to a place of the lamp meets the body."""
    way = np.asarray(lamp)[:, None] - points
    length = np.linalg.norm(way, axis=0)
    way = way / length
    turn = placed.rotations[0].T
    origin = (turn @ (points - placed.centers[0][:, None])).astype(np.float32)
    enter, leave = placed.body.solid.interval(origin, (turn @ way).astype(np.float32), placed.body.half)
    return (enter < leave) & (leave > 0) & (enter < length)


def sampled(placed, points, radius):
    """Hidden share of a round lamp that faces the body."""
    axis = np.array(LAMP) - placed.centers[0]
    across = np.cross(axis, [0, 0, 1])
    across /= np.linalg.norm(across)
    down = np.cross(axis, across) / np.linalg.norm(axis)
    turns, rings = np.meshgrid(np.arange(16) * np.pi / 8, np.sqrt((np.arange(6) + 0.5) / 6))
    offsets = rings.ravel()[:, None] * (
        np.cos(turns).ravel()[:, None] * across + np.sin(turns).ravel()[:, None] * down
    )
    return np.mean([blocked(placed, points, np.array(LAMP) + radius * offset) for offset in offsets], axis=0)


def one_frame(points: np.ndarray) -> RaySet:
    """Rays of a video's only frame, one to each point."""
    return RaySet(np.arange(points.shape[1]), np.array([0, points.shape[1]]))


@pytest.mark.parametrize(("solid", "half"), CASES)
@pytest.mark.parametrize("radius", [0.1, 0.5])
def test_hidden_share_is_near_the_sampled_one(solid, half, radius):
    placed, points = place(solid, half), floor(41)
    hidden = Shadow(placed, Light(LAMP, radius, 1.0, (1.0, 1.0, 1.0))).occlusion(
        one_frame(points), points, in_front=False
    )
    expected = sampled(placed, points, radius)
    assert 0.02 < expected.mean() < 0.5
    assert abs(hidden - expected).mean() < 0.012
    assert abs(hidden - expected).max() < 0.35
    assert hidden[expected == 1].min() > 0.85
    assert hidden[expected == 0].max() < 0.35


@pytest.mark.parametrize(("solid", "half"), CASES)
def test_penumbra_is_smooth(solid, half):
    points = np.zeros((3, 4001), np.float32)
    points[0], points[1] = np.linspace(-4, 4, 4001), 0.93
    hidden = Shadow(place(solid, half), Light(LAMP, 0.5, 1.0, (1.0, 1.0, 1.0))).occlusion(
        one_frame(points), points, in_front=False
    )
    assert hidden.max() > 0.9
    assert abs(np.diff(hidden)).max() < 0.03


@pytest.mark.parametrize(("solid", "half"), CASES)
def test_points_between_lamp_and_body_are_lit(solid, half):
    placed = place(solid, half)
    shadow = Shadow(placed, Light(LAMP, 0.3, 1.0, (1.0, 1.0, 1.0)))
    way = np.array(LAMP) - placed.centers[0]
    points = (placed.centers[0] + np.array([[0.4], [-0.4]]) * way).T.astype(np.float32)
    np.testing.assert_allclose(shadow.occlusion(one_frame(points), points, in_front=True), [0, 1], atol=0.05)


@pytest.mark.parametrize(("solid", "half"), CASES)
def test_floor_polygon_holds_the_whole_shadow(solid, half):
    shadow = Shadow(place(solid, half), Light(LAMP, 0.5, 1.0, (1.0, 1.0, 1.0)))
    polygon, bounded = shadow.floor_polygon()
    points = floor(61)
    dark = points[:, shadow.occlusion(one_frame(points), points, in_front=False) > 0.01]
    assert bounded[0]
    assert dark.shape[1] > 20
    assert (dark.min(1)[:2] >= polygon[0, :, :2].min(0)).all()
    assert (dark.max(1)[:2] <= polygon[0, :, :2].max(0)).all()


def test_a_lamp_inside_a_body_throws_no_shadow():
    placed = place(SPHERE, (0.6, 0.6, 0.6))
    shadow = Shadow(placed, Light((0.3, 0.2, 1.9), 0.2, 1.0, (1.0, 1.0, 1.0)))
    assert not shadow.outside[0]
    assert not shadow.reaches(np.zeros((1, 3)), 1.0)[0]

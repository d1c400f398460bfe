"""Ray intervals and normals against points tested one by one."""

import numpy as np
import pytest

from sim.small_scene import CUBE, CYLINDER, SPHERE

CASES = [(CUBE, (0.4, 0.7, 0.3)), (CYLINDER, (0.5, 0.5, 0.8)), (SPHERE, (0.6, 0.6, 0.6))]


def inside(solid, half, points):
    """Membership, written without any ray."""
    x, y, z = points
    if solid is CUBE:
        return (abs(x) < half[0]) & (abs(y) < half[1]) & (abs(z) < half[2])
    if solid is CYLINDER:
        return (np.hypot(x, y) < half[0]) & (abs(z) < half[2])
    return np.sqrt(x * x + y * y + z * z) < half[0]


def random_rays(count):
    rng = np.random.default_rng(0)
    origin = rng.normal(size=(3, count))
    origin *= 3 / np.linalg.norm(origin, axis=0)
    way = rng.normal(size=(3, count)) * 0.6 - origin
    return origin.astype(np.float32), (way / np.linalg.norm(way, axis=0)).astype(np.float32)


@pytest.mark.parametrize(("solid", "half"), CASES)
def test_interval_is_where_the_ray_is_inside(solid, half):
    origin, way = random_rays(300)
    enter, leave = solid.interval(origin, way, half)
    lengths = np.linspace(0, 6, 1201)
    within = inside(solid, half, origin[..., None] + way[..., None] * lengths)
    expected = (lengths > enter[:, None]) & (lengths < leave[:, None])
    near_edge = np.minimum(abs(lengths - enter[:, None]), abs(lengths - leave[:, None])) < 1e-3
    assert 50 < within.any(1).sum() < 300
    assert (within == expected)[~near_edge].all()


@pytest.mark.parametrize(("solid", "half"), CASES)
def test_normals_are_unit_and_face_the_ray(solid, half):
    origin, way = random_rays(300)
    enter, leave = solid.interval(origin, way, half)
    hit = enter < leave
    points = (origin + enter * way)[:, hit]
    normals = solid.normal(points, half)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-5)
    assert ((normals * way[:, hit]).sum(0) < 0.2).all()
    outward = points + np.float32(0.02) * normals
    assert not inside(solid, half, outward).any()


def test_rays_along_an_axis_have_no_division_by_zero():
    origin = np.array([[-2, 0, 0.1], [0, -2, 0], [0.1, 0.1, -2]], np.float32)
    way = np.eye(3, dtype=np.float32)
    for solid, half in CASES:
        enter, leave = solid.interval(origin, way, half)
        assert (enter < leave).all()
        assert np.isfinite(enter).all()


@pytest.mark.parametrize(("solid", "half"), CASES)
def test_volume(solid, half):
    points = np.random.default_rng(1).uniform(-1, 1, (3, 200_000))
    assert solid.volume(half) == pytest.approx(8 * inside(solid, half, points).mean(), rel=0.03)

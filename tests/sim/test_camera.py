"""Rays and projection are each other's inverse; quaternions and matrices too."""

import numpy as np
import pytest

from sim.small_scene import camera
from torchslots.sim.camera import (
    fixed_camera,
    moving_camera,
    pixel_directions,
    quaternions_of,
    rotation_matrices,
    shell_camera,
)


def test_rays_project_to_their_pixels():
    view = camera(1)
    points = view.positions[0] + 7 * (view.rotations[0] @ pixel_directions(5, 2)).T
    places, depth = view.project(points[:, None])
    rows, columns = np.divmod(np.arange(100), 10)
    np.testing.assert_allclose(places[:, 0], (np.stack([columns, rows], 1) + 0.5) / 10, atol=1e-9)
    assert (depth > 6).all()


def test_origin_is_in_the_middle_and_up_is_up():
    view = camera(3, step=0.4)
    points = np.stack([np.zeros((3, 3)), np.tile([0.0, 0.0, 1.0], (3, 1))])
    places, _ = view.project(points)
    np.testing.assert_allclose(places[0], 0.5, atol=1e-12)
    np.testing.assert_allclose(places[1, :, 0], 0.5, atol=1e-12)
    assert (places[1, :, 1] < 0.45).all()


def test_quaternions_round_trip():
    quaternions = np.random.default_rng(0).normal(size=(50, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    quaternions *= np.sign(quaternions[:, :1])
    matrices = rotation_matrices(quaternions)
    np.testing.assert_allclose(matrices @ matrices.swapaxes(1, 2), np.tile(np.eye(3), (50, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(matrices), 1)
    np.testing.assert_allclose(quaternions_of(matrices), quaternions, atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_viewpoints_are_the_published_ones(seed):
    rng = np.random.default_rng(seed)
    near_clevr = fixed_camera(4, rng).positions - [7.48113, -6.50764, 5.34367]
    assert ((near_clevr >= 0) & (near_clevr <= 1)).all()
    shell = shell_camera(4, rng)
    assert 7 <= np.linalg.norm(shell.positions[0]) <= 9
    assert not shell.moves
    moving = moving_camera(4, rng)
    steps = np.diff(moving.positions, axis=0)
    np.testing.assert_allclose(steps, np.tile(steps[:1], (3, 1)), atol=1e-12)
    assert 0 < np.linalg.norm(moving.positions[-1] - moving.positions[0]) <= 4

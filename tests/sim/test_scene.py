"""What is drawn: inside the view, apart from each other, and the same again from the same seed."""

import math
from itertools import combinations

import numpy as np
import pytest

from torchslots.io.errors import UserError
from torchslots.sim import scene as scene_module
from torchslots.sim.scene import KINDS, sample_scene


@pytest.mark.parametrize("variant", ["a", "c", "e"])
@pytest.mark.parametrize("seed", range(4))
def test_objects_start_apart_and_inside_the_view(variant, seed):
    scene = sample_scene(variant, KINDS[variant].objects, 6, np.random.default_rng(seed))
    low, high = KINDS[variant].objects
    assert low <= len(scene.bodies) <= high
    for one, two in combinations(scene.bodies, 2):
        assert math.dist(one.position, two.position) > one.radius + two.radius
    for body in scene.bodies:
        place, depth = scene.camera.frames(slice(1)).project(np.array(body.position)[None])
        assert depth[0] > 0
        assert (place > 0.01).all()
        assert (place < 0.99).all()
        lowest = body.half[2] if not body.is_dynamic else body.radius
        assert body.position[2] >= lowest - 1e-9


def test_same_seed_same_scene():
    one, two = (sample_scene("a", (3, 10), 6, np.random.default_rng(7)) for _ in range(2))
    assert one.bodies == two.bodies
    assert one.lights == two.lights
    assert sample_scene("a", (3, 10), 6, np.random.default_rng(8)).bodies != one.bodies


def test_thrown_towards_the_middle():
    scenes = [sample_scene("a", (5, 5), 2, np.random.default_rng(seed)) for seed in range(20)]
    inward = [-np.dot(b.position[:2], b.velocity[:2]) for s in scenes for b in s.bodies]
    assert np.mean(np.array(inward) > 0) > 0.75


def test_moving_and_standing_objects_of_e():
    for seed in range(6):
        bodies = sample_scene("e", (8, 12), 3, np.random.default_rng(seed)).bodies
        thrown = [body for body in bodies if body.is_dynamic]
        assert 1 <= len(thrown) <= 3
        assert all(any(body.velocity) for body in thrown)
        assert not any(any(body.velocity) for body in bodies if not body.is_dynamic)


def test_too_many_objects_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(scene_module, "_RESTARTS", 2)
    with pytest.raises(UserError, match="fit without overlap"):
        sample_scene("a", (80, 80), 2, np.random.default_rng(0))

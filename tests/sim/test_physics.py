"""Motion against what can be worked out by hand."""

import numpy as np
import pytest

from sim.small_scene import CUBE, SPHERE, body
from torchslots.sim.physics import FLOOR, simulate
from torchslots.sim.scene import METAL, RUBBER, sample_scene


def test_free_fall():
    motion = simulate((body(position=(0.0, 0.0, 40.0), velocity=(1.0, -2.0, 3.0)),), 12)
    time = np.arange(12) / 12
    expected = np.stack([time, -2 * time, 40 + 3 * time - 9.81 / 2 * time**2], 1)
    np.testing.assert_allclose(motion.positions[0], expected, atol=0.02)
    np.testing.assert_allclose(motion.velocities[0, :, 2], 3 - 9.81 * time, atol=1e-6)
    assert len(motion.collisions.frame) == 0


@pytest.mark.parametrize("substance", [RUBBER, METAL])
def test_bounce_has_the_wanted_restitution(substance):
    ball = body(SPHERE, (0.35, 0.35, 0.35), (0.0, 0.0, 3.0), substance=substance)
    motion = simulate((ball,), 24)
    landing = np.sqrt(2 * (3 - 0.35) / 9.81)
    frame = int(landing * 12) + 1
    speed = motion.velocities[0, frame, 2] + 9.81 * (frame / 12 - landing - 0.014)
    landed = 9.81 * landing
    assert speed / landed == pytest.approx(0.5 * substance.restitution, abs=0.06)


def test_a_box_on_the_floor_stays_there():
    motion = simulate((body(CUBE, (0.5, 0.4, 0.3), (1.0, 2.0, 0.3)),), 24)
    np.testing.assert_allclose(motion.positions[0], np.tile([1.0, 2.0, 0.3], (24, 1)), atol=0.01)
    np.testing.assert_allclose(np.abs(motion.quaternions[0, :, 0]), 1, atol=1e-3)


def test_collisions_name_partners_and_places():
    bodies = (
        body(SPHERE, position=(-1.0, 0.0, 0.5), velocity=(4.0, 0.0, 0.0)),
        body(SPHERE, position=(1.0, 0.0, 0.5)),
    )
    hits = simulate(bodies, 12).collisions
    between = [i for i, pair in enumerate(hits.bodies.tolist()) if FLOOR not in pair]
    assert len(between) >= 1
    assert set(hits.bodies[between[0]].tolist()) == {0, 1}
    assert abs(hits.normal[between[0], 0]) > 0.95
    assert hits.frame[between[0]] in (2, 3)
    assert hits.position[between[0], 0] == pytest.approx(0.5, abs=0.1)
    assert (hits.force > 0).all()
    assert (np.diff(hits.frame) >= 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_nothing_sinks_or_explodes(seed):
    scene = sample_scene("a", (10, 10), 24, np.random.default_rng(seed))
    motion = simulate(scene.bodies, 24)
    assert motion.positions[..., 2].min() > 0.3
    assert motion.positions[..., 2].max() < 7
    np.testing.assert_allclose(np.linalg.norm(motion.quaternions, axis=-1), 1, atol=1e-9)
    spheres = [i for i, b in enumerate(scene.bodies) if b.solid is SPHERE]
    lowest = motion.positions[spheres, :, 2] - np.array([scene.bodies[i].half[0] for i in spheres])[:, None]
    assert lowest.min() > -0.08

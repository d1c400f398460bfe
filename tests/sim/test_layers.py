"""Masks, boxes, depth, coordinates and flow against each other and against known motion."""

import numpy as np
import pytest

from sim.small_scene import CUBE, CYLINDER, SPHERE, body, camera, moving
from torchslots.sim.layers import boxes, measure
from torchslots.sim.raycast import PlacedBody

SIZE, FRAMES = 48, 4
SHAPES = [(CUBE, (0.9, 0.5, 0.7)), (CYLINDER, (0.6, 0.6, 0.8)), (SPHERE, (0.7, 0.7, 0.7))]
SPOTS = [(-1.5, 1.2, 1.0), (1.2, 1.0, 1.2), (0.2, -1.4, 1.1)]


@pytest.fixture(scope="module", params=[0.0, 0.3], ids=["still camera", "moving camera"])
def video(request):
    rng = np.random.default_rng(3)
    things = [body(*shape, position=spot) for shape, spot in zip(SHAPES, SPOTS)]
    placed = tuple(moving(thing, FRAMES, rng) for thing in things)
    view = camera(FRAMES, request.param)
    return placed, view, measure(placed, view, SIZE)


def in_order(placed, layers):
    return [placed[i] for i in layers.order]


def world_points(placed, layers, frame, number):
    """World metres of the pixels of a body, from its object coordinates."""
    mask = layers.segmentation[frame] == number
    thing = in_order(placed, layers)[number - 1]
    local = (layers.object_coordinates[frame][mask] - 0.5) * 2 * np.array(thing.body.half)
    return mask, local, thing, local @ thing.rotations[frame].T + thing.centers[frame]


def test_object_coordinates_project_to_their_pixel(video):
    placed, view, layers = video
    for frame in range(FRAMES):
        for number in (1, 2, 3):
            mask, _, _, world = world_points(placed, layers, frame, number)
            places, _ = view.frames(slice(frame, frame + 1)).project(world[:, None])
            rows, columns = np.nonzero(mask)
            assert len(rows) > 30
            np.testing.assert_allclose(places[:, 0] * SIZE, np.stack([columns, rows], 1) + 0.5, atol=1e-3)


def test_depth_is_the_distance_to_the_camera(video):
    placed, view, layers = video
    for frame in range(FRAMES):
        for number in (1, 2, 3):
            mask, _, _, world = world_points(placed, layers, frame, number)
            distance = np.linalg.norm(world - view.positions[frame], axis=1)
            np.testing.assert_allclose(layers.depth[frame][mask], distance, atol=2e-4)
    floor = (layers.segmentation[0] == 0) & (layers.normal[0, ..., 2] == 1)
    heights = view.positions[0, 2] - layers.depth[0] * _fall(view, 0)
    np.testing.assert_allclose(heights[floor], 0, atol=2e-3)


def _fall(view, frame):
    """How far a ray sinks on each metre."""
    at = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    x, y = np.meshgrid(at, -at)
    local = np.stack([x, y, np.full_like(x, -35 / 32)], -1)
    return -(local / np.linalg.norm(local, axis=-1, keepdims=True) @ view.rotations[frame].T)[..., 2]


@pytest.mark.parametrize("step", [1, -1])
def test_flow_follows_the_surface(video, step):
    placed, view, layers = video
    flow = layers.forward_flow if step == 1 else layers.backward_flow
    for frame in range(max(0, -step), FRAMES - max(0, step)):
        for number in (1, 2, 3):
            mask, local, thing, _ = world_points(placed, layers, frame, number)
            other = local @ thing.rotations[frame + step].T + thing.centers[frame + step]
            there, _ = view.frames(slice(frame + step, frame + step + 1)).project(other[:, None])
            rows, columns = np.nonzero(mask)
            moved = there[:, 0, ::-1] * SIZE - np.stack([rows, columns], 1) - 0.5
            assert abs(moved).max() > 0.1
            np.testing.assert_allclose(flow[frame][mask], step * moved, atol=2e-3)


def test_flow_has_the_sign_of_the_motion_and_ends_at_zero(video):
    _, _, layers = video
    assert not layers.backward_flow[0].any()
    assert not layers.forward_flow[-1].any()
    middle = layers.segmentation[1] == 1
    forward, backward = layers.forward_flow[1][middle].mean(0), layers.backward_flow[1][middle].mean(0)
    assert np.dot(forward, backward) > 0


def test_background_flow_is_the_cameras(video):
    _, view, layers = video
    floor = (layers.segmentation[1] == 0) & (layers.normal[1, ..., 2] == 1)
    if not view.moves:
        assert not layers.forward_flow[1][floor].any()
        return
    rows, columns = np.nonzero(floor)
    at = np.stack([(columns + 0.5) / SIZE - 0.5, 0.5 - (rows + 0.5) / SIZE, np.full(len(rows), -35 / 32)], 1)
    way = at / np.linalg.norm(at, axis=1, keepdims=True) @ view.rotations[1].T
    points = view.positions[1] + way * layers.depth[1][floor][:, None]
    there, _ = view.frames(slice(2, 3)).project(points[:, None])
    moved = there[:, 0, ::-1] * SIZE - np.stack([rows, columns], 1) - 0.5
    np.testing.assert_allclose(layers.forward_flow[1][floor], moved, atol=5e-3)


def test_visibility_counts_pixels_and_orders_bodies(video):
    _, _, layers = video
    counts = [[(frame == number).sum() for frame in layers.segmentation] for number in (1, 2, 3)]
    assert layers.visibility.tolist() == counts
    totals = layers.visibility.sum(1)
    assert (np.diff(totals) <= 0).all()


def test_boxes_are_the_extent_of_the_masks(video):
    _, _, layers = video
    for number, (frames, corners) in enumerate(boxes(layers.segmentation, 3), 1):
        assert frames.tolist() == [t for t in range(FRAMES) if (layers.segmentation[t] == number).any()]
        for frame, box in zip(frames, corners):
            rows, columns = np.nonzero(layers.segmentation[frame] == number)
            expected = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
            np.testing.assert_allclose(box * SIZE, expected, atol=1e-6)


def test_nearest_body_wins_and_hidden_bodies_have_no_boxes():
    view = camera(1)
    way = view.positions[0] / np.linalg.norm(view.positions[0])
    near = PlacedBody(body(SPHERE, (0.8, 0.8, 0.8)), way[None] * 2, np.eye(3)[None])
    behind = PlacedBody(body(SPHERE, (0.3, 0.3, 0.3)), way[None] * 0.2, np.eye(3)[None])
    layers = measure((behind, near), view, SIZE)
    assert layers.order.tolist() == [1, 0]
    assert layers.visibility[:, 0].tolist() == [(layers.segmentation == 1).sum(), 0]
    middle = layers.depth[0, SIZE // 2, SIZE // 2]
    assert middle == pytest.approx(np.linalg.norm(view.positions[0]) - 2.8, abs=0.01)
    assert len(boxes(layers.segmentation, 2)[1][0]) == 0


def test_sphere_covers_the_expected_area():
    view = camera(1)
    ball = PlacedBody(body(SPHERE, (0.9, 0.9, 0.9)), np.zeros((1, 3)), np.eye(3)[None])
    layers = measure((ball,), view, 200)
    distance = np.linalg.norm(view.positions[0])
    radius = np.tan(np.arcsin(0.9 / distance)) * 35 / 32 * 200
    assert layers.visibility[0, 0] == pytest.approx(np.pi * radius**2, rel=0.01)

"""Records: encodings, value ranges, and what they say about each other, read back by the project's own reader."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from torchslots.data.formats.png import decode_frames
from torchslots.data.sets.movi import MoviReader
from torchslots.sim.camera import rotation_matrices
from torchslots.sim.generate_videos import generate
from torchslots.sim.record import encode_pngs

SIZE, FRAMES = 40, 5


@pytest.fixture(scope="module", params=["a", "c", "e"])
def example(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    settings: dict[str, Any] = {
        "resolution": SIZE,
        "num_frames": FRAMES,
        "samples": 1,
        "min_objects": 4,
        "max_objects": 5,
    }
    generate(root, variant=request.param, train=1, validation=0, workers=1, **settings)
    return MoviReader(root, f"sim_{request.param}", "train").example(0)


def values(example, key):
    low, high = example[f"metadata/{key}_range"]
    return example[key].astype(np.float64) / 65535 * (high - low) + low


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_round_trip(channels, dtype):
    images = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (2, 7, 5, channels)).astype(dtype)
    files = encode_pngs(images)
    np.testing.assert_array_equal(decode_frames(files), images)
    assert Image.open(io.BytesIO(files[0])).size == (5, 7)


def test_shapes_and_kinds(example):
    count = int(example["metadata/num_instances"])
    assert 4 <= count <= 5
    assert example["video"].shape == (FRAMES, SIZE, SIZE, 3)
    assert example["segmentations"].shape == (FRAMES, SIZE, SIZE, 1)
    assert example["normal"].dtype == np.uint16
    assert example["forward_flow"].shape == (FRAMES, SIZE, SIZE, 2)
    assert example["instances/bboxes_3d"].shape == (count, FRAMES, 8, 3)
    assert set(np.unique(example["segmentations"])) <= set(range(count + 1))


def test_picture_is_neither_dark_nor_blown_out(example):
    assert 50 < example["video"].mean() < 200
    assert example["video"].std() > 4
    assert (example["video"] == 255).mean() < 0.2


def test_ranges_are_used_up(example):
    assert example["depth"].min() == 0
    assert example["depth"].max() == 65535
    assert 2 < example["metadata/depth_range"][0] < example["metadata/depth_range"][1] <= 73
    assert example["backward_flow"].max() == 65535
    np.testing.assert_allclose(values(example, "backward_flow")[0], 0, atol=1e-3)


def test_boxes_visibility_and_masks_agree(example):
    masks = example["segmentations"][..., 0]
    boxes, frames = example["instances/bboxes"], example["instances/bbox_frames"]
    lengths = [int(n) for n in boxes.row_lengths]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for k, visibility in enumerate(example["instances/visibility"]):
        mask = masks == k + 1
        assert visibility.tolist() == mask.sum((1, 2)).tolist()
        part = slice(starts[k], starts[k + 1])
        assert frames.values[part].tolist() == np.flatnonzero(visibility).tolist()
        for frame, box in zip(frames.values[part], boxes.values[part]):
            rows, columns = np.nonzero(mask[frame])
            expected = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
            np.testing.assert_allclose(box * SIZE, expected, atol=1e-5)


def test_boxes_in_space_are_turned_as_the_quaternions_say(example):
    turns = rotation_matrices(example["instances/quaternions"])
    offsets = example["instances/bboxes_3d"] - example["instances/positions"][:, :, None]
    local = np.einsum("ntij,ntci->ntcj", turns, offsets)
    np.testing.assert_allclose(local, np.broadcast_to(local[:, :1], local.shape), atol=1e-4)
    np.testing.assert_allclose(local[:, :, 0], -local[:, :, 7], atol=1e-4)
    assert (local[:, :, 7] > 0).all()


def test_image_positions_follow_the_camera(example):
    turns = rotation_matrices(example["camera/quaternions"])
    offsets = example["instances/positions"] - example["camera/positions"]
    local = np.einsum("tij,nti->ntj", turns, offsets)
    scale = example["camera/focal_length"] / example["camera/sensor_width"]
    places = 0.5 + local[..., :2] / -local[..., 2:] * scale * [1, -1]
    np.testing.assert_allclose(example["instances/image_positions"], places, atol=1e-4)


def test_masses_and_positions_belong_to_their_masks(example):
    """The middle of a body that is well visible is near the middle of its mask."""
    masks = example["segmentations"][0, ..., 0]
    near = []
    for k, place in enumerate(example["instances/image_positions"][:, 0]):
        rows, columns = np.nonzero(masks == k + 1)
        if len(rows) > 8:
            near.append(np.hypot(*(np.array([columns.mean(), rows.mean()]) + 0.5 - place * SIZE)))
    assert len(near) >= 1
    assert np.median(near) < 1.5, near


def test_collisions_name_instances(example):
    partners = example["events/collisions/instances"]
    count = int(example["metadata/num_instances"])
    assert partners.shape[1:] == (2,)
    assert ((partners < count) | (partners == 65535)).all()
    assert (example["events/collisions/frame"] < FRAMES).all()

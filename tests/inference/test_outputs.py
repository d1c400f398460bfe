"""Run lengths against a worked case and against the picture; writers that fail leave nothing half done."""

import json
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from torchslots.inference import outputs as tracks
from torchslots.inference.view import View
from torchslots.io import video
from torchslots.io.errors import UserError


@contextmanager
def full_disk(num_bytes: int):
    """No file of this process may grow beyond `num_bytes`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def random_slice(num_frames=3, num_slots=4, size=16, seed=0) -> tracks.Slice:
    rng = np.random.default_rng(seed)
    masks = torch.from_numpy(rng.random((num_frames, num_slots, size, size), dtype=np.float32)).softmax(1)
    frames = rng.integers(0, 256, (num_frames, 96, 96, 3), dtype=np.uint8)
    small = frames[:, ::6, ::6]
    return tracks.Slice(frames, masks, rng.random((num_frames, num_slots, 8), dtype=np.float32), small)


def writer(folder, **changes):
    settings = {"save": tracks.OUTPUTS, "max_side": 1280, "fps": 12.0, "source": "clip.mp4"} | changes
    return tracks.result_writer(folder, View(96, 96, (16, 16)), **settings)


def test_run_lengths_of_a_worked_case():
    ids = np.array([[1, 1, 0], [0, 1, 2]])
    found = {mask.slot: mask for mask in tracks.object_masks(ids)}
    # Down the columns the ids are 1 0, 1 1, 0 2.
    assert found[0].counts == [1, 1, 2, 1, 1]
    assert found[1].counts == [0, 1, 1, 2, 2]
    assert found[2].counts == [5, 1]
    assert found[1].area == 3
    assert found[1].box == (0, 0, 1, pytest.approx(2 / 3))
    assert found[2].box == (0.5, pytest.approx(2 / 3), 1, 1)


@pytest.mark.parametrize("cell", [1, 5])
def test_run_lengths_decode_to_the_masks_they_came_from(cell):
    ids = np.random.default_rng(0).integers(0, 5, (13, 17))
    ids = ids.repeat(cell, 0).repeat(cell, 1)[:13, :17]
    found = tracks.object_masks(ids)
    assert [mask.slot for mask in found] == [0, 1, 2, 3, 4]
    for mask in found:
        decoded = tracks.decode_mask({"size": [13, 17], "counts": mask.counts})
        assert np.array_equal(decoded, ids == mask.slot)
        assert mask.area == decoded.sum()
        (rows, columns) = (np.flatnonzero(decoded.any(1 - axis)) for axis in (0, 1))
        bottom, right = (rows[-1] + 1) / 13, (columns[-1] + 1) / 17
        assert mask.box == (rows[0] / 13, columns[0] / 17, bottom, right)


def test_all_files_tell_the_same_story(tmp_path):
    parts = [random_slice(seed=0), random_slice(num_frames=2, seed=1)]
    with writer(tmp_path) as write:
        for part in parts:
            write(part)
    told = json.loads((tmp_path / "tracks.json").read_text())
    assert [frame["frame"] for frame in told["frames"]] == [0, 1, 2, 3, 4]
    for frame in told["frames"]:
        ids = np.asarray(Image.open(tmp_path / "masks" / f"{frame['frame']:05d}.png"))
        for entry in frame["objects"]:
            assert np.array_equal(tracks.decode_mask(entry["mask"]), ids == entry["slot"])
    assert told["slots"][2] == {"slot": 2, "first_frame": 0, "frames": 5, "last_frame": 4}
    slots = np.load(tmp_path / "slots.npz")["slots"]
    assert np.array_equal(slots, np.concatenate([part.slots for part in parts]))
    assert video.read_frames(tmp_path / "overlay.mp4").shape == (5, 96, 96, 3)
    assert video.frame_count(tmp_path / "slots.mp4") == 5


def test_a_slot_that_comes_late_and_goes_early_says_so(tmp_path):
    with tracks._track_writer(tmp_path / "tracks.json", {"source": "x"}) as write:
        for ids in ([[0, 0]], [[0, 3]], [[0, 0]], [[3, 0]], [[0, 0]]):
            write((np.array(ids), False))
    told = json.loads((tmp_path / "tracks.json").read_text())
    assert told["slots"][1] == {"slot": 3, "first_frame": 1, "frames": 2, "last_frame": 3}


def test_only_what_was_asked_for_is_written(tmp_path):
    with writer(tmp_path, save=("slots",)) as write:
        write(random_slice())
    assert [path.name for path in tmp_path.iterdir()] == ["slots.npz"]


def test_masks_of_a_longer_video_before_are_removed_and_nothing_else(tmp_path):
    for number in (2, 3):
        with writer(tmp_path, save=("masks",)) as write:
            write(random_slice(num_frames=5 - number))
        (tmp_path / "masks" / "mine.png").write_bytes(b"kept")
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == [
        "00000.png",
        "00001.png",
        "mine.png",
    ]


@pytest.mark.parametrize("name", ["overlay", "strip", "slots", "tracks"])
def test_an_error_midway_leaves_no_half_file_and_no_thread(tmp_path, name):
    with pytest.raises(ZeroDivisionError), writer(tmp_path, save=(name,)) as write:
        write(random_slice(num_frames=20))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["overlay", "strip", "slots", "tracks"])
def test_a_full_disk_is_said_and_leaves_no_half_file(tmp_path, name):
    with (
        pytest.raises(UserError, match="No space left"),
        full_disk(2000),
        writer(tmp_path, save=(name,)) as write,
    ):
        for seed in range(4):
            write(random_slice(num_frames=10, num_slots=8, seed=seed))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for name in tracks.OUTPUTS:
        with (
            pytest.raises(UserError, match="cannot be written"),
            writer(tmp_path / "file", save=(name,)) as write,
        ):
            write(random_slice())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

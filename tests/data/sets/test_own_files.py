from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.opened import own_clips
from torchslots.data.catalog import open_dataset
from torchslots.data.clips import Clips
from torchslots.data.config import DataConfig
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.loader import eval_batches, train_batches
from torchslots.data.prepare import prepare
from torchslots.data.sets.own_files import split_clips
from torchslots.data.sets.own_masks import read_masks
from torchslots.data.transforms import mask_boxes
from torchslots.io import video
from torchslots.io.errors import UserError

CONFIG = DataConfig(dataset="folder", resolution=16, num_frames=4, max_instances=5)


def numbered(count: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Frames whose grey level is ten times their number."""
    return np.broadcast_to(
        10 * np.arange(count, dtype=np.uint8)[:, None, None, None], (count, height, width, 3)
    )


def save_frames(folder: Path, frames: np.ndarray) -> Path:
    for t, frame in enumerate(frames):
        video.write_png(folder / f"{t}.png", frame)
    return folder


def two_objects(count: int, height: int = 24, width: int = 32) -> np.ndarray:
    ids = np.zeros((count, height, width), np.uint8)
    ids[:, 6:12, 8:20] = 1
    ids[1:, 12:24, 20:24] = 2
    return ids


def all_of(root: Path, **changes) -> Clips:
    return own_clips(root, "all", replace(CONFIG, **changes), train=False)


def test_every_kind_of_clip_is_found_in_natural_order(tmp_path):
    save_frames(tmp_path / "clip10", numbered(3))
    video.write_video(tmp_path / "clip2.mp4", numbered(3))
    video.write_gif(tmp_path / "clip1.gif", numbered(3))
    video.write_png(tmp_path / "still.png", numbered(1)[0])
    (tmp_path / "README.md").write_text("not a clip")
    (tmp_path / ".DS_Store").write_bytes(b"nor this")
    clips = all_of(tmp_path)
    assert [clips.name(i) for i in range(len(clips))] == ["clip1.gif", "clip2.mp4", "clip10", "still.png"]
    for i, frames in enumerate([3, 3, 3, 1]):
        sample = clips.sample(i, None)
        assert sample["video"].shape == (4, 3, 16, 16) and sample["video"].dtype == torch.float32
        assert sample["padding_mask"].flatten(1).all(1).tolist() == [True] * frames + [False] * (4 - frames)
        assert sample["video"][frames:].abs().max() == 0
        assert not {"segmentations", "boxes", "flow"} & set(sample)
    levels = clips.sample(2, None)["video"][:3, 0, 8, 8] * 255
    assert torch.allclose(levels, torch.tensor([0.0, 10.0, 20.0]))


def test_windows_in_training_lie_end_to_end(tmp_path):
    save_frames(tmp_path / "only", numbered(10))
    clips = own_clips(tmp_path, "train", CONFIG, train=True)
    seen = set()
    for seed in range(40):
        sample = clips.sample(0, np.random.default_rng(seed))
        first = round(float(sample["video"][0, 0, 0, 0]) * 25.5)
        held = sample["padding_mask"].flatten(1).all(1).sum().item()
        seen.add((first, held))
    assert seen == {(0, 4), (4, 4), (8, 2)}
    again = [clips.sample(0, np.random.default_rng(3))["video"] for _ in range(2)]
    assert torch.equal(*again)


def test_evaluation_takes_the_first_frames(tmp_path):
    save_frames(tmp_path / "only", numbered(10))
    for rng in (None, np.random.default_rng(0)):
        sample = own_clips(tmp_path, "train", CONFIG, train=False).sample(0, rng)
        assert torch.allclose(sample["video"][:, 0, 0, 0] * 255, torch.arange(4) * 10.0)
    assert len(own_clips(tmp_path, "train", CONFIG, train=True).sample(0, None)["video"]) == 10


def test_square_in_the_middle_and_masks_follow(tmp_path):
    frames = np.zeros((2, 24, 40, 3), np.uint8)
    frames[:, :, 8:32] = 200
    save_frames(tmp_path / "wide", frames)
    ids = np.zeros((2, 24, 40), np.uint8)
    ids[:, :12, 8:20], ids[:, 12:, :8] = 1, 2
    np.savez(tmp_path / "masks.npz", ids)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks.npz").rename(tmp_path / "masks" / "wide.npz")
    sample = all_of(tmp_path, resolution=12).sample(0, None)
    assert torch.allclose(sample["video"][:2], torch.tensor(200 / 255)), "only the middle square is kept"
    assert sample["segmentations"].dtype == torch.int32
    assert sample["segmentations"][0, :6, :6].eq(1).all() and sample["segmentations"][0].sum() == 36
    assert sample["boxes"].shape == (4, 5, 4)
    assert sample["boxes"][0, 0].tolist() == [0, 0, 0.5, 0.5] and sample["boxes"][0, 1:].abs().max() == 0
    assert sample["boxes"][2:].abs().max() == 0, "padding has no boxes"


def test_halving_is_the_published_resize_and_more_averages(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    save_frames(tmp_path / "noise", noise)
    exact = torch.from_numpy(noise[0]).permute(2, 0, 1).float() / 255
    for size in (32, 16, 8):
        found = all_of(tmp_path, resolution=size).sample(0, None)["video"][0]
        assert torch.allclose(found, torch.nn.functional.avg_pool2d(exact, 64 // size), atol=0.5 / 255)


@pytest.mark.parametrize("kind", ["palette", "grey", "npy", "npz", "gif"])
def test_masks_in_every_form_give_the_same(tmp_path, kind):
    save_frames(tmp_path / "clip", numbered(3))
    ids, place = two_objects(3), tmp_path / "masks" / "clip"
    place.parent.mkdir()
    palette = np.random.default_rng(0).permutation(256 * 3).reshape(256, 3).astype(np.uint8)
    if kind == "palette":
        for t in range(3):
            video.write_palette_png(place / f"{t}.png", ids[t], palette)
    elif kind == "grey":
        for t in range(3):
            video.write_png(place / f"mask{t}.png", ids[t])
    elif kind == "npy":
        np.save(place.with_suffix(".npy"), ids)
    elif kind == "npz":
        np.savez_compressed(place.with_suffix(".npz"), other=np.zeros(3), masks=ids)
    else:
        ids[range(3), 0, range(3)] = 1  # alike frames would be merged; this corner is cut away
        planes = [Image.fromarray(plane) for plane in ids]
        for plane in planes:
            plane.putpalette([0, 0, 0, 250, 0, 0, 0, 250, 0])
        planes[0].save(place.with_suffix(".gif"), save_all=True, append_images=planes[1:])
    sample = all_of(tmp_path, resolution=24).sample(0, None)
    assert np.array_equal(sample["segmentations"][:3], ids[:, :, 4:28])
    assert sample["boxes"][0].sum(-1).bool().tolist() == [True, False, False, False, False]
    assert torch.allclose(sample["boxes"][1, 1], torch.tensor([12, 16, 24, 20]) / 24)


def test_boxes_reach_one_past_the_last_pixel():
    ids = torch.zeros(2, 4, 8, dtype=torch.int32)
    ids[0] = 1
    ids[1, 1, 2] = 3
    boxes = mask_boxes(ids, 3)
    assert boxes[0].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert boxes[1, 2].tolist() == [0.25, 0.25, 0.5, 0.375]


def test_a_black_and_white_mask_is_one_object_and_high_ids_are_renumbered(tmp_path):
    save_frames(tmp_path / "clip", numbered(2))
    ids = two_objects(2).astype(np.uint16)
    save_frames(tmp_path / "masks" / "clip", np.where(ids == 1, 255, 0).astype(np.uint8))
    assert all_of(tmp_path).sample(0, None)["segmentations"].unique().tolist() == [0, 1]
    for t, file in enumerate(sorted((tmp_path / "masks" / "clip").iterdir())):
        Image.fromarray(ids[t] == 1).save(file)
    assert all_of(tmp_path).sample(0, None)["segmentations"].unique().tolist() == [0, 1], "one bit a pixel"
    for file in (tmp_path / "masks" / "clip").iterdir():
        file.unlink()
    (tmp_path / "masks" / "clip").rmdir()
    np.save(tmp_path / "masks" / "clip.npy", ids * 900)
    sample = all_of(tmp_path, resolution=24).sample(0, None)
    assert np.array_equal(sample["segmentations"][:2], ids[:, :, 4:28])
    few = all_of(tmp_path, max_instances=1).sample(0, None)
    assert few["boxes"].shape[1] == 1 and few["segmentations"].unique().tolist() == [0, 1, 2]


def test_masks_beside_split_folders(tmp_path):
    for split in ("train", "validation"):
        save_frames(tmp_path / split / "clip", numbered(2))
    save_frames(tmp_path / "masks" / "train" / "clip", two_objects(2))
    save_frames(tmp_path / "validation" / "masks" / "clip", two_objects(2))
    for split in ("train", "validation"):
        clips = own_clips(tmp_path, split, CONFIG, train=False)
        assert [clips.name(i) for i in range(len(clips))] == [f"{split}/clip"]
        assert "segmentations" in clips.sample(0, None)


def test_one_clip_in_ten_is_for_validation(tmp_path):
    for i in range(30):
        video.write_png(tmp_path / f"{i}.png", numbered(1)[0])
    train, validation = split_clips(tmp_path, "train"), split_clips(tmp_path, "validation")
    assert (len(train), len(validation)) == (27, 3)
    assert set(train) | set(validation) == set(split_clips(tmp_path, "all")) and not set(train) & set(
        validation
    )
    assert validation == split_clips(tmp_path, "validation")


def test_random_crops_follow_the_seed(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
    save_frames(tmp_path / "noise", noise)
    save_frames(tmp_path / "masks" / "noise", np.ones((4, 48, 64), np.uint8))
    clips = own_clips(tmp_path, "train", replace(CONFIG, min_object_covered=0.3), train=True)
    first, second = (clips.sample(0, np.random.default_rng(seed)) for seed in (1, 2))
    assert not torch.equal(first["video"], second["video"])
    assert first["boxes"][:, 0].tolist() == [[0, 0, 1, 1]] * 4, (
        "an object that fills every crop fills its box"
    )


def test_batches_through_the_loader(tmp_path):
    save_frames(tmp_path / "long", numbered(9))
    save_frames(tmp_path / "short", numbered(2))
    clips = open_dataset("folder", tmp_path, "train", CONFIG, True)
    batch = next(train_batches(clips, batch_size=2, seed=0))
    assert batch["video"].shape == (2, 4, 3, 16, 16)
    both = own_clips(tmp_path, "all", CONFIG, train=False)
    assert [batch["name"] for batch in eval_batches(both, batch_size=1)] == [["long"], ["short"]]


@pytest.mark.parametrize("covered", [None, 0.3])
def test_prepared_clips_are_the_same(tmp_path, covered):
    config = replace(CONFIG, keys=("video", "segmentations", "boxes"), min_object_covered=covered)
    noise = np.random.default_rng(0).integers(0, 256, (9, 40, 50, 3), dtype=np.uint8)
    video.write_video(tmp_path / "in" / "clip.mp4", noise)
    np.save(tmp_path / "in" / "clip.npy", two_objects(9, 40, 50))
    (tmp_path / "in" / "masks").mkdir()
    (tmp_path / "in" / "clip.npy").rename(tmp_path / "in" / "masks" / "clip.npy")
    clips = own_clips(tmp_path / "in", "train", config, train=True)
    prepare(clips, tmp_path / "out")
    prepared = open_dataset("prepared", tmp_path / "out", "train", config, True)
    for seed in range(3):
        found, expected = (data.sample(0, np.random.default_rng(seed)) for data in (prepared, clips))
        assert set(found) == set(expected)
        assert all(torch.equal(found[key], expected[key]) for key in found if key != "name")


# Faults


def test_empty_missing_and_unknown(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is not a folder"):
        all_of(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is empty: no image, video or folder"):
        all_of(tmp_path)
    (tmp_path / "data.xyz").write_bytes(b"?")
    with pytest.raises(UserError, match=r"data.xyz is no image or video by name. Known: png"):
        all_of(tmp_path)


def test_a_split_that_is_not_there(tmp_path):
    save_frames(tmp_path / "train" / "clip", numbered(2))
    with pytest.raises(UserError, match=r"no split `validation`. It has: train"):
        own_clips(tmp_path, "validation", CONFIG, train=False)
    save_frames(tmp_path / "flat" / "clip", numbered(2))
    with pytest.raises(UserError, match=r"no split `test`. It has: train, validation"):
        own_clips(tmp_path / "flat", "test", CONFIG, train=False)


def test_masks_that_do_not_fit(tmp_path):
    save_frames(tmp_path / "clip", numbered(3))
    place = tmp_path / "masks" / "clip.npy"
    place.parent.mkdir()
    cases = [
        (two_objects(2), r"holds masks for 2 frames, its clip has 3"),
        (two_objects(3, 12, 16), r"clip.npy is 16x12 pixels, clip 32x24"),
        (two_objects(3).astype(np.float32), r"integer ids \[T, H, W\].* got float32"),
        (-two_objects(3).astype(np.int32), r"0 or more"),
        (np.zeros((3, 24, 32, 3), np.uint8), r"got uint8 \[3, 24, 32, 3\]"),
    ]
    for masks, message in cases:
        np.save(place, masks)
        with pytest.raises(UserError, match=message):
            all_of(tmp_path).sample(0, None)
    place.write_bytes(b"no array")
    with pytest.raises(UserError, match=r"clip.npy cannot be read as an array"):
        all_of(tmp_path).sample(0, None)
    np.save(place, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(UserError, match=r"clip.npy cannot be read as an array"):
        all_of(tmp_path).sample(0, None)


def test_coloured_and_uneven_mask_pictures(tmp_path):
    save_frames(tmp_path / "masks" / "clip", numbered(2))
    with pytest.raises(UserError, match=r"0.png is in colour \(RGB\)"):
        read_masks(tmp_path / "masks" / "clip", 2)
    video.write_png(tmp_path / "uneven" / "0.png", two_objects(1)[0])
    video.write_png(tmp_path / "uneven" / "1.png", two_objects(1, 12)[0])
    with pytest.raises(UserError, match="different sizes"):
        read_masks(tmp_path / "uneven", 2)


def test_one_clip_without_its_masks(tmp_path):
    for name in ("a", "b"):
        save_frames(tmp_path / name, numbered(2))
    save_frames(tmp_path / "masks" / "a", two_objects(2))
    with pytest.raises(UserError, match=r"/b and 0 other clips have no masks"):
        all_of(tmp_path)


def test_a_broken_clip_is_named_and_can_be_left_out(tmp_path):
    save_frames(tmp_path / "good", numbered(4))
    (tmp_path / "zero.mp4").write_bytes(b"")
    clips = all_of(tmp_path)
    with pytest.raises(CorruptRecord, match=r"zero.mp4 is empty \(0 bytes\).*--skip-corrupt") as caught:
        clips.sample(1, None)
    assert (caught.value.file.name, caught.value.record) == ("zero.mp4", 1)
    skipped = []
    batches = list(eval_batches(clips, batch_size=1, skip_corrupt=True, on_skip=skipped.append))
    assert [batch["name"] for batch in batches] == [["good"]] and len(skipped) == 1

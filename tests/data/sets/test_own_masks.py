"""Masks of your own files: void, pairs by name, and what is no label map."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.opened import own_clips
from torchslots.data.catalog import open_dataset
from torchslots.data.config import DataConfig
from torchslots.data.loader import eval_batches
from torchslots.data.prepare import prepare
from torchslots.data.sets.own_masks import check_label_map, read_mask_image, read_masks
from torchslots.io import video
from torchslots.io.draw import PALETTE
from torchslots.io.errors import UserError

CONFIG = DataConfig(
    dataset="folder",
    keys=("video", "segmentations", "boxes"),
    resolution=24,
    num_frames=2,
    max_instances=5,
)
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), np.uint8)


def ids_of(count: int = 3, size: int = 24) -> np.ndarray:
    ids = np.zeros((count, size, size), np.uint8)
    ids[:, 4:12, 4:12], ids[:, 14:22, 10:20] = 1, 2
    return ids


def save(folder: Path, planes: np.ndarray, names=None, palette: bool = True) -> Path:
    for t, plane in enumerate(planes):
        file = folder / f"{names[t] if names else t}.png"
        if palette and plane.ndim == 2:
            video.write_palette_png(file, plane, PALETTE)
        else:
            video.write_png(file, plane)
    return folder


@pytest.mark.parametrize("void_id, values", [(255, {0, 1, 2}), (None, {0, 1, 2, 3}), (2, {0, 1, 2})])
def test_void_is_no_object_and_ignored(tmp_path, void_id, values):
    ids = ids_of()
    ids[:, :3] = 255
    save(tmp_path / "clip", FRAMES)
    save(tmp_path / "masks" / "clip", ids)
    config = replace(CONFIG, void_id=void_id)
    sample = own_clips(tmp_path, "all", config, train=False).sample(0, None)
    assert set(sample["segmentations"].unique().tolist()) == values
    expected = torch.from_numpy(ids[:2] == (-1 if void_id is None else void_id))
    assert torch.equal(sample["ignore"], expected)
    assert not sample["segmentations"][sample["ignore"]].any()
    (batch,) = eval_batches(own_clips(tmp_path, "all", config, train=False), batch_size=1)
    assert torch.equal(batch["ignore"][0], expected)


def test_void_can_be_background(tmp_path):
    ids = ids_of()
    ids[:, :3] = 255
    save(tmp_path / "clip", FRAMES)
    save(tmp_path / "masks" / "clip", ids)
    sample = own_clips(tmp_path, "all", replace(CONFIG, void="uncovered"), train=False).sample(0, None)
    assert not sample.get("ignore", torch.zeros(1)).any()
    assert sample["segmentations"].unique().tolist() == [0, 1, 2]


def test_only_palettes_have_void(tmp_path):
    ids = np.where(ids_of() == 1, 255, 0).astype(np.uint8)
    found = read_masks(save(tmp_path / "grey", ids, palette=False), 3, void_id=255)
    assert found.ids.unique().tolist() == [0, 255] and not found.void.any()
    found = read_masks(save(tmp_path / "palette", ids), 3, void_id=255)
    assert found.ids.unique().tolist() == [0] and torch.equal(found.void, torch.from_numpy(ids == 255))


@pytest.mark.parametrize(
    "frames, masks",
    [
        ("abc", "cab"),
        (["f1", "f2", "f10"], ["mask_1", "mask_2", "mask_10"]),
        (["7", "8", "9"], ["009", "008", "007"]),
    ],
)
def test_masks_are_paired_with_frames_by_name(tmp_path, frames, masks):
    clip = save(tmp_path / "clip", FRAMES, list(frames))
    planes = np.stack([np.full((24, 24), 1 + t, np.uint8) for t in range(3)])
    place = save(tmp_path / "masks" / "clip", planes, list(masks))
    found = read_masks(place, 3, clip=clip).ids[:, 0, 0].tolist()
    if frames == "abc":
        assert found == [2, 3, 1]
    else:
        assert found == ([1, 2, 3] if frames[0] == "f1" else [3, 2, 1])


def test_frames_and_masks_without_a_partner_are_named(tmp_path):
    clip = save(tmp_path / "clip", FRAMES[[0, 1, 2, 0]], ["0", "1", "2", "3"])
    place = save(tmp_path / "masks" / "clip", ids_of(4), ["0", "1", "2", "4"])
    with pytest.raises(UserError, match=r"no mask for 3.png, and no frame for 4.png"):
        read_masks(place, 4, clip=clip)
    with pytest.raises(UserError, match=r"no mask for 3.png"):
        own_clips(tmp_path, "all", CONFIG, train=False).sample(0, None)
    (place / "4.png").unlink()
    with pytest.raises(UserError, match=r"no mask for 3.png\."):
        read_masks(place, 4, clip=clip)


def test_masks_of_a_film_have_no_gap(tmp_path):
    film = tmp_path / "a.mp4"
    video.write_video(film, FRAMES)
    place = save(tmp_path / "masks", ids_of(), ["0", "1", "3"])
    with pytest.raises(UserError, match="none with number 2"):
        read_masks(place, 3, clip=film)
    (place / "3.png").rename(place / "2.png")
    assert read_masks(place, 3, clip=film).ids.unique().tolist() == [0, 1, 2]


def lossy(folder: Path, ending: str) -> Path:
    """A mask of two objects, as other programs spoil it."""
    grey, file = Image.fromarray(100 * ids_of(1, 96)[0]), folder / f"0.{ending}"
    folder.mkdir(parents=True, exist_ok=True)
    if ending == "png":
        grey.resize((130, 130), Image.Resampling.BICUBIC).save(file)
    elif ending == "jpeg.png":
        grey.save(folder / "0.jpg", quality=80)
        Image.open(folder / "0.jpg").save(file)
        (folder / "0.jpg").unlink()
    else:
        grey.save(file)
    return file


@pytest.mark.parametrize("ending", ["jpg", "webp", "png", "jpeg.png"])
def test_masks_that_were_spoiled_are_refused(tmp_path, ending):
    if ending == "webp":
        with pytest.raises(UserError, match="with loss"):
            read_mask_image(lossy(tmp_path / "m", ending))
        return
    file = lossy(tmp_path / "m", ending)
    with pytest.raises(UserError, match=r"(with loss|smoothed).*palette or grey PNG.*--allow-odd-masks"):
        read_mask_image(file)
    with pytest.raises(UserError, match=r"(with loss|smoothed).*--allow-odd-masks"):
        read_masks(tmp_path / "m", 1)
    assert len(np.unique(read_mask_image(file, allow_odd=True))) > 3
    assert len(read_masks(tmp_path / "m", 1, allow_odd=True).ids.unique()) > 3


def test_hundreds_of_ids_are_refused_and_many_solid_or_few_tiny_objects_are_not():
    many = np.arange(256).reshape(16, 16).repeat(4, 0).repeat(4, 1)
    with pytest.raises(UserError, match="256 different values"):
        check_label_map(many, Path("m.png"))
    check_label_map(many % 150, Path("m.png"))
    tiny = ids_of()[0]
    tiny[0, 0], tiny[0, 2] = 3, 4
    check_label_map(tiny, Path("m.png"))


def test_a_crop_is_in_pixels_of_the_source_and_keeps_its_shape(tmp_path):
    frames = np.zeros((2, 200, 300, 3), np.uint8)
    frames[:, 40:104, 100:196] = 200
    save(tmp_path / "clip", frames)
    ids = np.zeros((2, 200, 300), np.uint8)
    ids[:, 40:72, 100:148] = 1
    save(tmp_path / "masks" / "clip", ids)
    config = replace(CONFIG, crop=(40, 100, 64, 96), resolution=16)
    sample = own_clips(tmp_path, "all", config, train=False).sample(0, None)
    assert sample["video"].shape == (2, 3, 16, 24)
    assert torch.allclose(sample["video"], torch.tensor(200 / 255))
    assert sample["segmentations"][0, :8, :12].eq(1).all() and sample["segmentations"][0].sum() == 96
    assert sample["boxes"][0, 0].tolist() == [0, 0, 0.5, 0.5]
    with pytest.raises(UserError, match=r"rows 150 to 250 .* frames are 200 x 300"):
        own_clips(tmp_path, "all", replace(config, crop=(150, 0, 100, 100)), train=False).sample(0, None)


def test_films_in_folders_are_clips(tmp_path, capsys):
    for name in ("a.mp4", "day/b.mp4", "day/more/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        video.write_video(tmp_path / name, FRAMES)
    save(tmp_path / "frames", FRAMES)
    for name in ("._a.mp4", "day/._b.mp4", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / "empty").mkdir()
    clips = own_clips(tmp_path, "all", replace(CONFIG, keys=("video",)), train=False)
    assert [clips.name(i) for i in range(len(clips))] == ["a.mp4", "day/b.mp4", "day/more/c.mp4", "frames"]
    assert "empty (no images or videos in it)" in capsys.readouterr().err


@pytest.mark.parametrize("covered", [None, 0.5])
def test_a_crop_and_void_survive_preparing(tmp_path, covered):
    frames = np.random.default_rng(0).integers(0, 256, (2, 200, 300, 3), np.uint8)
    ids = np.zeros((2, 200, 300), np.uint8)
    ids[:, 40:72, 100:148], ids[:, 90:95] = 1, 255
    save(tmp_path / "in" / "clip", frames)
    save(tmp_path / "in" / "masks" / "clip", ids)
    config = replace(CONFIG, crop=(40, 100, 64, 96), resolution=16, min_object_covered=covered)
    clips = own_clips(tmp_path / "in", "train", config, train=True)
    prepare(clips, tmp_path / "out")
    prepared = open_dataset("prepared", tmp_path / "out", "train", config, True)
    found, expected = (data.sample(0, np.random.default_rng(1)) for data in (prepared, clips))
    assert set(found) == set(expected) and expected["ignore"].any()
    assert all(torch.equal(found[key], expected[key]) for key in found if key != "name")
    with pytest.raises(UserError, match="was prepared with `crop`"):
        open_dataset("prepared", tmp_path / "out", "train", replace(config, crop=None), True)


def spoiled(kind: str) -> np.ndarray:
    """Masks of three frames: one is smoothed, the first shows no object, or a few objects are slivers in one frame."""
    ids = 100 * ids_of(3, 96)
    ids[:, 40:80, 30:90] = 200
    if kind == "slivers":
        ids[2] = 0
        ids[2, 0, :9], ids[2, 5, 5:7], ids[2, 9, 9:12] = 50, 100, 200
        ids[:2, 85:95, 0:20] = 50
        return ids
    soft = Image.fromarray(ids[1]).resize((48, 48), Image.Resampling.BICUBIC)
    ids[1 if kind == "first is empty" else 2] = np.asarray(soft.resize((96, 96), Image.Resampling.BICUBIC))
    if kind == "first is empty":
        ids[0] = 0
    return ids


@pytest.mark.parametrize("ending", ["folder", "npy", "npz"])
@pytest.mark.parametrize("kind", ["first is empty", "last is smooth", "slivers"])
def test_every_mask_of_a_clip_is_looked_at(tmp_path, kind, ending):
    ids = spoiled(kind)
    place = tmp_path / ("m" if ending == "folder" else f"m.{ending}")
    if ending == "folder":
        save(place, ids, palette=False)
    else:
        (np.save if ending == "npy" else np.savez)(place, ids)
    if kind == "slivers":
        assert read_masks(place, 3).ids.unique().tolist() == [0, 50, 100, 200]
        return
    with pytest.raises(UserError, match=r"smoothed, or compressed.*--allow-odd-masks"):
        read_masks(place, 3)
    assert len(read_masks(place, 3, allow_odd=True).ids.unique()) > 6


def test_one_lossy_mask_among_others_is_named(tmp_path):
    place = save(tmp_path / "m", ids_of(), palette=False)
    (place / "2.png").unlink()
    Image.fromarray(ids_of()[0]).save(place / "2.jpg")
    with pytest.raises(UserError, match=r"2\.jpg is stored with loss \(JPEG\)"):
        read_masks(place, 3)


@pytest.mark.parametrize("ending", ["jpg", "tif", "bmp", "PNG"])
def test_masks_of_images_are_found_whatever_their_ending(tmp_path, ending):
    (tmp_path / "masks").mkdir()
    for name in "ab":
        Image.fromarray(FRAMES[0]).save(tmp_path / f"{name}.jpg")
        Image.fromarray(ids_of()[0]).save(tmp_path / "masks" / f"{name}.{ending}")
    clips = own_clips(tmp_path, "all", CONFIG, train=False)
    if ending == "jpg":
        with pytest.raises(UserError, match=r"a\.jpg is stored with loss.*--data.allow-odd-masks"):
            clips.sample(0, None)
    else:
        assert clips.sample(0, None)["segmentations"].unique().tolist() == [0, 1, 2]


def test_two_frames_of_one_name_have_no_mask_of_their_own(tmp_path):
    clip = save(tmp_path / "clip", FRAMES, ["a", "b", "c"])
    (clip / "c.png").rename(clip / "a.bmp")
    place = save(tmp_path / "masks" / "clip", ids_of(2), ["a", "b"])
    with pytest.raises(UserError, match=r"holds a\.bmp, a\.png: which of them"):
        read_masks(place, 3, clip=clip)

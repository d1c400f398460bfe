import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.opened import prepared_clips
from recorded import GOLDEN
from torchslots.cli import main
from torchslots.data.catalog import DATASETS, open_dataset
from torchslots.data.clips import Clips
from torchslots.data.config import DataConfig
from torchslots.data.download.sets import download
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.inspect import data_inspect, inspect_dataset
from torchslots.data.loader import eval_batches
from torchslots.data.prepare import prepare
from torchslots.data.transforms import mask_boxes, number_by_rank
from torchslots.io.errors import UserError

RECORDINGS = GOLDEN / "data_movi_solid"
CONFIG = DataConfig(
    dataset="movi_solid", keys=("video", "segmentations", "boxes"), resolution=64, num_frames=3
)


@pytest.fixture
def solid(tmp_path: Path) -> Path:
    """The recorded folder as its archive extracts."""
    with tarfile.open(RECORDINGS / "MOVi-Solid.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def _write_solid(
    root: Path, masks: list[list[np.ndarray]], split: str = "train", video: str = "00000000"
) -> None:
    """A video of MOVi-Solid: a list of masks for each frame."""
    folder = root / "MOVi-Solid" / split / video
    folder.mkdir(parents=True)
    for t, planes in enumerate(masks):
        picture = np.full((*planes[0].shape, 3), 10 * t, np.uint8)
        Image.fromarray(picture).save(folder / f"{t:08d}_image.png")
        for k, plane in enumerate(planes):
            Image.fromarray(plane).save(folder / f"{t:08d}_mask_{k:02d}.png")


def _write_converted(root: Path, ids: np.ndarray, title: str = "MOVi-E", split: str = "test") -> None:
    folder = root / title / split / "00000000"
    folder.mkdir(parents=True)
    for t, plane in enumerate(ids):
        Image.fromarray(np.full((*plane.shape, 3), 10 * t, np.uint8)).save(folder / f"{t:06d}.jpg")
        Image.fromarray(plane).save(folder / f"{t:06d}_mask.png")


def _clips(root: Path, split: str = "test", train: bool = False, **changes) -> Clips:
    config = replace(CONFIG, **changes)
    return open_dataset(config.dataset, root, split, config, train)


# Against the recorded reader


@pytest.mark.parametrize("renumber", [False, True])
def test_every_frame_and_mask_is_what_slotdiffusion_reads(solid: Path, renumber: bool):
    recorded = np.load(RECORDINGS / "expected_slotdiffusion_test_0.npz")
    stored = _clips(solid).stored(0)
    assert np.array_equal(stored["video"].permute(0, 2, 3, 1).numpy(), recorded["video"])
    assert np.array_equal(stored["segmentations"].numpy(), recorded["raw_ids"])
    sample = _clips(solid, renumber=renumber, num_frames=24).sample(0, None)
    assert np.array_equal(sample["segmentations"].numpy(), recorded["masks" if renumber else "raw_ids"])
    assert torch.equal(
        sample["video"], torch.from_numpy(recorded["video"]).permute(0, 3, 1, 2).float() * (1 / 255)
    )
    assert torch.equal(sample["boxes"], mask_boxes(sample["segmentations"], CONFIG.max_instances))


@pytest.mark.parametrize("place", ["", "MOVi-Solid"])
def test_one_clip_of_each_video_is_judged(solid: Path, place: str):
    clips = _clips(solid / place)
    (batch,) = eval_batches(clips, batch_size=4)
    assert batch["video"].shape == (1, 3, 3, 64, 64) and batch["name"] == ["test/00000000"]
    assert torch.equal(batch["video"][0], _clips(solid, num_frames=24).sample(0, None)["video"][:3])
    padded = _clips(solid, "train", num_frames=8).sample(0, None)["padding_mask"]
    assert padded[:6].all() and not padded[6:].any()


def test_a_split_without_masks_gives_frames_alone(solid: Path):
    with pytest.raises(UserError, match=r"val has no masks .*--evaluation\.split test.*--data\.keys video"):
        _clips(solid, "validation")
    sample = _clips(solid, "validation", keys=("video",)).sample(0, None)
    assert sample.keys() == {"video", "padding_mask", "name"} and sample["video"].shape == (3, 3, 64, 64)


# Masks


def test_the_brightest_mask_wins_of_equal_ones_the_first_and_one_is_as_dark_as_background(tmp_path: Path):
    planes = [np.array([row], np.uint8) for row in ([0, 1, 255, 3, 2, 0], [0, 1, 255, 7, 0, 255])]
    _write_solid(tmp_path, [planes])
    ids = _clips(tmp_path, "train").stored(0)["segmentations"]
    assert ids[0, 0].tolist() == [0, 0, 1, 2, 1, 2]


def test_converted_folders_are_read_as_they_are(tmp_path: Path):
    ids = np.random.default_rng(0).integers(0, 9, (4, 8, 8)).astype(np.uint8)
    for name, title in (("movi_d_frames", "MOVi-D"), ("movi_e_frames", "MOVi-E")):
        _write_converted(tmp_path / "data" / "MOVi", ids, title)
        sample = _clips(tmp_path / "data", dataset=name, num_frames=4, resolution=8).sample(0, None)
        assert np.array_equal(sample["segmentations"].numpy(), ids)
        assert (sample["video"][:, 0, 0, 0] * 255).round().tolist() == [0, 10, 20, 30]


def test_numbering_by_rank_over_the_clip_moves_the_rows_of_boxes():
    boxes = torch.arange(2 * 5 * 4).reshape(2, 5, 4).float() + 1
    ids = torch.tensor([[[0, 2]], [[5, 2]]], dtype=torch.int32)
    found = number_by_rank({"segmentations": ids, "boxes": boxes})
    assert (
        found["segmentations"].tolist() == [[[0, 1]], [[2, 1]]]
        and found["segmentations"].dtype == torch.int32
    )
    assert torch.equal(found["boxes"][:, :2], boxes[:, [1, 4]]) and not found["boxes"][:, 2:].any()
    hidden = number_by_rank({"segmentations": ids.clamp(min=2), "boxes": boxes})
    assert hidden["segmentations"].tolist() == [[[0, 0]], [[1, 0]]]
    assert torch.equal(hidden["boxes"][:, 0], boxes[:, 4]) and not hidden["boxes"][:, 1:].any()


# Clips, caches


def test_training_clips_begin_anywhere_or_end_to_end(solid: Path):
    whole = _clips(solid, "train", num_frames=6).sample(0, None)["video"]
    for windows, expected in (("anywhere", {0, 1, 2, 3}), ("end_to_end", {0, 3})):
        clips = _clips(solid, "train", train=True, windows=windows, keys=("video",))
        drawn = [clips.sample(0, np.random.default_rng(seed))["video"] for seed in range(24)]
        starts = {s for clip in drawn for s in range(4) if torch.equal(clip, whole[s : s + 3])}
        assert starts == expected


@pytest.mark.parametrize("changes", [{}, {"renumber": True, "windows": "anywhere", "resolution": 32}])
def test_prepared_samples_equal_direct_ones(solid: Path, changes: dict):
    direct = _clips(solid, "train", train=True, **changes)
    done = prepare(direct, solid / "cache")
    assert done.num_videos == 1
    cached = prepared_clips(solid / "cache", "train", direct.config, True)
    for seed in (None, *range(6)):
        rngs = [None if seed is None else np.random.default_rng(seed) for _ in range(2)]
        one, other = direct.sample(0, rngs[0]), cached.sample(0, rngs[1])
        assert one["name"] == other["name"]
        for key in ("video", "segmentations", "boxes", "padding_mask"):
            assert torch.equal(one[key], other[key]), key


def test_videos_and_frames_are_in_the_order_of_their_numbers(tmp_path: Path):
    plane = np.zeros((4, 4), np.uint8)
    for number in (10, 9, 100):
        _write_solid(tmp_path, [[plane]] * 11, video=str(number))
    folder = tmp_path / "MOVi-Solid" / "train"
    for number, file in enumerate(sorted((folder / "9").glob("*_image.png"))):
        file.rename(file.with_name(f"{number}_image.png"))
    for number, file in enumerate(sorted((folder / "9").glob("*_mask_00.png"))):
        file.rename(file.with_name(f"{number}_mask_00.png"))
    clips = _clips(tmp_path, "train", resolution=4, num_frames=11)
    assert [clips.name(i) for i in range(3)] == ["train/9", "train/10", "train/100"]
    assert (clips.sample(0, None)["video"][:, 0, 0, 0] * 25.5).round().tolist() == list(range(11))
    assert len(_clips(tmp_path, "train", num_records=2)) == 2


# What can be wrong


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("00000002_image.png", "cut", r"00000002_image.png: record 0 cannot be read"),
        ("00000002_image.png", "empty", r"00000002_image.png: record 0 cannot be read"),
        ("00000002_image.png", "gone", r"00000000: record 0 has no frame 2"),
        ("00000003_mask_04.png", "gone", r"00000003_mask_04.png: record 0 cannot be read"),
        ("00000003_mask_04.png", "cut", r"00000003_mask_04.png: record 0 cannot be read"),
        ("00000003_mask_04.png", "small", r"00000003_mask_04.png: record 0 is \(2, 2\)"),
        ("00000003_mask_04.png", "colour", r"00000003_mask_04.png: record 0 is an image of mode RGB, not L"),
        ("00000004_image.png", "small", r"00000004_image.png: record 0 or its mask is \(2, 2\)"),
    ],
)
def test_a_broken_file_is_named(solid: Path, file: str, change: str, message: str):
    path = solid / "MOVi-Solid" / "test" / "00000000" / file
    small = np.zeros((2, 2, 3) if "image" in file else (2, 2), np.uint8)
    {
        "cut": lambda: path.write_bytes(path.read_bytes()[:-40]),
        "empty": lambda: path.write_bytes(b""),
        "gone": path.unlink,
        "small": lambda: Image.fromarray(small).save(path),
        "colour": lambda: Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path),
    }[change]()
    clips = _clips(solid, num_frames=24)
    with pytest.raises(CorruptRecord, match=message):
        clips.sample(0, None)
    with pytest.raises(CorruptRecord, match=message):
        clips.stored(0)


@pytest.mark.parametrize("by_name", [True, False])
def test_the_set_is_described_counted_and_drawn(solid: Path, capsys, by_name: bool):
    source, root = ("movi_solid", solid) if by_name else (str(solid / "MOVi-Solid"), solid)
    data_inspect(source, root=root, out=solid / "sheet.png", check=True)
    shown = " ".join(capsys.readouterr().out.split())
    assert "(movi_solid)" in shown and "folders of frames" in shown
    assert "without masks, 1 example" in shown and "with masks, 1 example" in shown
    with Image.open(solid / "sheet.png") as image:
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 10


def test_the_lines_of_the_guide_take_the_name_as_it_stands(solid: Path, capsys):
    words = ["data", "inspect", "movi_solid", "--root", str(solid), "--out", str(solid / "sheet.png")]
    assert main(words) == 0 and "folders of frames" in capsys.readouterr().out
    assert main(["data", "download", "movi_tex", "--root", str(solid)]) == 2
    assert "gdown" in capsys.readouterr().err


def test_inspection_finds_what_is_broken(solid: Path):
    file = solid / "MOVi-Solid" / "train" / "00000000" / "00000005_mask_01.png"
    file.write_bytes(file.read_bytes()[:30])
    with pytest.raises(UserError, match="1 of 3 examples"):
        data_inspect("movi_solid", root=solid, out=solid / "sheet.png", check=True)


def test_your_own_numbered_pictures_are_not_taken_for_a_published_set(tmp_path: Path):
    folder = tmp_path / "train" / "street"
    folder.mkdir(parents=True)
    for t in range(3):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f"{t:06d}.jpg")
    assert inspect_dataset(str(tmp_path)).dataset == "folder"


def test_what_is_asked_of_it_in_vain(solid: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"no split `all`. It has: train, validation, test"):
        _clips(solid, "all")
    with pytest.raises(UserError, match="asks for `flow`, which MOVi-Solid lacks"):
        _clips(solid, keys=("video", "flow"))
    with pytest.raises(UserError, match="does not store the number of objects"):
        _clips(solid, max_objects=3)
    with pytest.raises(UserError, match=r"holds no MOVi-Tex \(expected MOVi-Tex/train"):
        open_dataset("movi_tex", RECORDINGS, "test", replace(CONFIG, dataset="movi_tex"), False)
    with pytest.raises(UserError, match=r"drive\.google\.com.*gdown"):
        download("movi_solid", tmp_path)
    assert "gdown" in DATASETS["movi_tex"].get and "JPEG" in DATASETS["movi_e_frames"].size

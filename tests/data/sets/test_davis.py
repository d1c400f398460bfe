import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.published import extract_published, normalized
from recorded import GOLDEN
from torchslots import open_dataset as open_public
from torchslots.data.catalog import open_dataset
from torchslots.data.clips import Clips
from torchslots.data.config import DataConfig
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.inspect import inspect_dataset
from torchslots.io.errors import UserError

RECORDED = np.load(GOLDEN / "data_davis" / "expected_trainval.npz")
NAMES = ("bear", "dogs-jump", "kite-surf")
PLACES = {"bear": ("train", 0), "dogs-jump": ("validation", 0), "kite-surf": ("validation", 1)}
CONFIG = DataConfig(
    dataset="davis_2017",
    keys=("video", "segmentations"),
    resolution=int(RECORDED["input_size"]),
    interpolation="bicubic",
    eval_crop="square",
    num_frames=6,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return extract_published("davis", tmp_path / "below")


def _clips(root: Path, split: str = "validation", train: bool = False, **changes) -> Clips:
    return open_dataset("davis_2017", root, split, replace(CONFIG, **changes), train)


@pytest.mark.parametrize("name", NAMES)
def test_stored_arrays_are_those_of_the_original_converter(root: Path, name: str):
    split, index = PLACES[name]
    clips, ids = _clips(root, split), RECORDED[f"segmentations_{name}"][..., 0]
    stored = clips.stored(index)
    assert clips.name(index) == name and str(RECORDED[f"split_{name}"]) == {"validation": "val"}.get(
        split, split
    )
    assert np.array_equal(stored["video"].permute(0, 2, 3, 1), RECORDED[f"video_{name}"])
    assert np.array_equal(stored["segmentations"], np.where(ids == 255, 0, ids))
    assert np.array_equal(stored["ignore"], ids == 255)


@pytest.mark.parametrize("name", NAMES[:2])
def test_whole_videos_as_they_are_evaluated(root: Path, name: str):
    split, index = PLACES[name]
    sample, expected = _clips(root, split).sample(index, None), RECORDED[f"vs_segmentations_{name}"]
    length = len(expected)
    torch.testing.assert_close(
        normalized(sample["video"][:length]),
        torch.from_numpy(RECORDED[f"vs_video_{name}"]),
        atol=2e-6,
        rtol=0,
    )
    for number in range(expected.shape[1]):
        assert np.array_equal(sample["segmentations"][:length] == number + 1, expected[:, number])
    assert len(sample["video"]) == 6 and not sample["padding_mask"][length:].any()


def test_void_is_ignored_or_background(root: Path):
    ignored, uncovered = (_clips(root, void=void).stored(1) for void in ("ignore", "uncovered"))
    assert ignored["ignore"].any() and not uncovered["ignore"].any()
    assert torch.equal(ignored["segmentations"], uncovered["segmentations"])


def test_the_other_track_has_its_own_splits(root: Path):
    clips, other = _clips(root), _clips(root, "validation_semi_supervised")
    for index, name in enumerate(NAMES[1:]):
        for frame, ids in enumerate(other.stored(index)["segmentations"]):
            file = root / "DAVIS" / "Annotations" / "480p" / name / f"{frame:05d}.png"
            assert np.array_equal(
                ids, np.where(np.asarray(Image.open(file)) == 255, 0, np.asarray(Image.open(file)))
            )
    assert not torch.equal(other.stored(1)["segmentations"], clips.stored(1)["segmentations"])
    assert other.source.files == "folders of JPEG frames with Annotations"


def test_objects_are_counted_over_all_frames(root: Path):
    ids = RECORDED["segmentations_bear"]
    assert _clips(root, "train").source.num_objects(0) == len(np.unique(ids[(ids > 0) & (ids < 255)])) == 2


def test_the_public_door_and_inspection(root: Path):
    item = open_public("davis_2017", root, split="train", frames=3, resolution=18)[0]
    assert item["video"].shape == (3, 3, 18, 32) and item["segmentations"].max() == 2
    survey = inspect_dataset(str(root.parent), out=root / "sheet.png", check=True)
    assert survey.dataset == "davis_2017" and not survey.corrupt and survey.num_checked == 6
    assert survey.splits["validation"] == "folders of JPEG frames with Annotations_unsupervised, 2 examples"


# Faults


def test_half_a_download(root: Path):
    frames = root / "DAVIS" / "JPEGImages" / "480p" / "kite-surf"
    frames.rename(root / "elsewhere")
    with pytest.raises(
        UserError, match=r"480p lacks 1 of 2 videos that val.txt lists, such as kite-surf. Extract"
    ):
        _clips(root)
    frames.mkdir()
    with pytest.raises(CorruptRecord, match=r"kite-surf: record 1 holds no frames"):
        _clips(root).sample(1, None)


def test_masks_of_the_other_track_alone(root: Path):
    (root / "DAVIS" / "Annotations_unsupervised").rename(root / "elsewhere")
    with pytest.raises(
        UserError, match=r"Annotations_unsupervised/480p lacks 2 of 2 .*validation_semi_supervised"
    ):
        _clips(root)
    assert len(_clips(root, keys=("video",))) == len(_clips(root, "validation_semi_supervised")) == 2


def test_a_frame_without_its_mask(root: Path):
    (root / "DAVIS" / "Annotations_unsupervised" / "480p" / "dogs-jump" / "00002.png").unlink()
    with pytest.raises(CorruptRecord, match=r"dogs-jump/00002.png: record 0 cannot be read.*No such file"):
        _clips(root).sample(0, None)


def test_a_mask_in_colour_or_of_another_size(root: Path):
    file = root / "DAVIS" / "Annotations_unsupervised" / "480p" / "dogs-jump" / "00002.png"
    indices = Image.open(file)
    indices.resize((20, 30)).save(file)
    with pytest.raises(CorruptRecord, match=r"00002.png: record 0 is 30 x 20, its image 36 x 64"):
        _clips(root).sample(0, None)
    indices.convert("RGB").save(file)
    with pytest.raises(CorruptRecord, match=r"00002.png: record 0 holds colours"):
        _clips(root).sample(0, None)


def test_frames_of_two_sizes(root: Path):
    Image.new("RGB", (20, 30)).save(root / "DAVIS" / "JPEGImages" / "480p" / "dogs-jump" / "00002.jpg")
    with pytest.raises(CorruptRecord, match=r"00002.jpg: record 0 is 30 x 20, 00000.jpg \(36, 64\)"):
        _clips(root).sample(0, None)


def test_a_list_that_is_not_there(root: Path):
    (root / "DAVIS" / "ImageSets" / "2017" / "val.txt").unlink()
    with pytest.raises(UserError, match=r"val.txt cannot be opened: No such file.*Extract the archive again"):
        _clips(root)


def test_a_mask_without_its_frame(root: Path):
    masks = root / "DAVIS" / "Annotations_unsupervised" / "480p" / "dogs-jump"
    shutil.copy(masks / "00000.png", masks / "00077.png")
    with pytest.raises(
        CorruptRecord, match=r"00077.png: record 0 is a mask of frame 00077.jpg, which is not"
    ):
        _clips(root).sample(0, None)
    assert len(_clips(root, keys=("video",)).sample(0, None)["video"])


@pytest.mark.parametrize("mode", ["1", "LA", "I;16"])
def test_a_mask_of_another_mode(root: Path, mode: str):
    Image.new(mode, (64, 36)).save(
        root / "DAVIS" / "Annotations_unsupervised" / "480p" / "dogs-jump" / "00002.png"
    )
    with pytest.raises(CorruptRecord, match=rf"00002.png: record 0 is an image of mode {mode}, not P or L"):
        _clips(root).sample(0, None)


def test_a_list_that_is_no_text(root: Path):
    (root / "DAVIS" / "ImageSets" / "2017" / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"val.txt is no list of names.*Extract the archive again"):
        _clips(root)


def test_a_list_with_a_byte_order_mark_and_one_of_endless_names(root: Path):
    file = root / "DAVIS" / "ImageSets" / "2017" / "val.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(_clips(root)) == 2
    file.write_text("x" * 5000)
    with pytest.raises(
        UserError, match=r"480p lacks 1 of 1 videos that val.txt lists, such as x{60}\. Extract"
    ):
        _clips(root)

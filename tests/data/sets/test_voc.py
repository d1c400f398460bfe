from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.published import extract_published
from recorded import GOLDEN
from torchslots import open_dataset as open_public
from torchslots.data.catalog import open_dataset
from torchslots.data.clips import Clips
from torchslots.data.config import DataConfig
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.inspect import inspect_dataset
from torchslots.data.transforms import mask_boxes
from torchslots.io.errors import UserError

RECORDED = np.load(GOLDEN / "data_voc" / "expected_trainval.npz")
NAMES = RECORDED["names"].tolist()
CONFIG = DataConfig(
    dataset="voc",
    keys=("video", "segmentations", "classes"),
    resolution=24,
    interpolation="bicubic",
    eval_crop="center",
    label_size=int(RECORDED["mask_size"]),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return extract_published("voc", tmp_path / "below")


def _clips(root: Path, split: str = "trainval", train: bool = False, **changes) -> Clips:
    return open_dataset("voc", root, split, replace(CONFIG, **changes), train)


def _ids(instances: np.ndarray) -> np.ndarray:
    return np.where((instances > 0).any(0), (instances > 0).argmax(0) + 1, 0)


@pytest.mark.parametrize("index", range(3))
def test_stored_arrays_are_those_of_the_original_converter(root: Path, index: int):
    clips, name = _clips(root), NAMES[index]
    stored, ignore = clips.stored(index), RECORDED[f"ignore_{name}"]
    assert clips.name(index) == name and ignore.any()
    assert np.array_equal(stored["video"][0].permute(1, 2, 0), RECORDED[f"image_{name}"])
    assert np.array_equal(stored["segmentations"][0], np.where(ignore, 0, RECORDED[f"object_ids_{name}"]))
    assert np.array_equal(stored["segmentations"][0], _ids(RECORDED[f"instances_{name}"]))
    assert np.array_equal(stored["classes"][0], RECORDED[f"semantic_{name}"].max(0))
    assert np.array_equal(stored["ignore"][0], ignore)
    for number, category in enumerate(RECORDED[f"categories_{name}"].tolist(), 1):
        assert (stored["classes"][stored["segmentations"] == number] == category).all()


@pytest.mark.parametrize("index", range(3))
def test_labels_as_they_are_evaluated(root: Path, index: int):
    sample, name = _clips(root).sample(index, None), NAMES[index]
    assert sample["video"].shape == (1, 3, 24, 24)
    assert np.array_equal(sample["segmentations"][0], _ids(RECORDED[f"instances_crop_{name}"]))
    assert np.array_equal(sample["classes"][0], RECORDED[f"semantic_crop_{name}"].max(0))
    assert np.array_equal(sample["ignore"][0], RECORDED[f"ignore_crop_{name}"][0] > 0)


def test_void_may_count_as_background(root: Path):
    sample, ignored = (_clips(root, void=void).sample(0, None) for void in ("uncovered", "ignore"))
    assert not sample["ignore"].any() and torch.equal(sample["segmentations"], ignored["segmentations"])


def test_splits_are_the_published_lists(root: Path):
    lists = {split: _clips(root, split) for split in ("train", "validation", "trainval")}
    assert {split: [clips.name(i) for i in range(len(clips))] for split, clips in lists.items()} == {
        "train": NAMES[:1],
        "validation": NAMES[1:],
        "trainval": NAMES,
    }
    more = _clips(root, "trainaug", True, keys=("video",), train_crop="random", flip=0.5)
    assert [more.name(i) for i in range(len(more))] == [NAMES[0], "2008_000001"]
    assert more.sample(1, np.random.default_rng(0))["video"].shape == (1, 3, 24, 24)


def test_the_public_door(root: Path):
    item = open_public("voc", root, split="validation", resolution=20)[1]
    assert item["video"].shape == (1, 3, 20, 20) and item["ignore"].dtype == torch.bool
    assert torch.equal(item["segmentations"].unique(), torch.tensor([0, 1, 2, 3, 4], dtype=torch.int32))
    stored = open_public("voc", root, split="validation").clips.stored(1)
    assert torch.equal(stored["boxes"], mask_boxes(stored["segmentations"], 23))


def test_only_images_of_few_objects(root: Path):
    assert len(_clips(root, max_objects=2)) == 2


def test_inspection_finds_it_from_a_parent(root: Path):
    survey = inspect_dataset(str(root.parent), out=root / "sheet.png", check=True)
    assert survey.dataset == "voc" and not survey.corrupt and survey.num_checked == 8
    assert (
        survey.splits["trainaug"] == "trainaug.txt of VOC2012, 2 examples" and (root / "sheet.png").exists()
    )


# Faults


def _base(root: Path) -> Path:
    return root / "VOCdevkit" / "VOC2012"


def test_masks_of_images_that_have_none(root: Path):
    with pytest.raises(
        UserError, match=r"SegmentationObject lacks 1 of 2 files that trainaug.txt lists, such as 2"
    ):
        _clips(root, "trainaug")
    with pytest.raises(UserError, match=r"ask for `video` alone with `--data.keys video`"):
        _clips(root, "trainaug", keys=("video", "boxes"))


def test_a_list_that_is_not_there(root: Path):
    (_base(root) / "ImageSets" / "Segmentation" / "trainaug.txt").unlink()
    with pytest.raises(UserError, match=r"trainaug.txt is missing. Put the list of 10,582 names there"):
        _clips(root, "trainaug")
    (_base(root) / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(UserError, match=r"val.txt is missing. Extract VOCtrainval"):
        _clips(root, "validation")
    with pytest.raises(UserError, match=r"no split `test`. It has: train, validation, trainval, trainaug"):
        _clips(root, "test")


def test_half_a_download(root: Path):
    (_base(root) / "JPEGImages" / f"{NAMES[1]}.jpg").unlink()
    with pytest.raises(UserError, match=rf"JPEGImages lacks 1 of 3 files that trainval.txt .*{NAMES[1]}.jpg"):
        _clips(root)
    assert len(_clips(root, "train")) == 1


def test_a_mask_that_was_saved_in_colour(root: Path):
    file = _base(root) / "SegmentationObject" / f"{NAMES[0]}.png"
    Image.open(file).convert("RGB").save(file)
    with pytest.raises(
        CorruptRecord, match=r"holds colours: the ids were the indices of its palette and are lost"
    ):
        _clips(root).sample(0, None)


def test_a_mask_of_another_size(root: Path):
    file = _base(root) / "SegmentationClass" / f"{NAMES[0]}.png"
    Image.open(file).resize((20, 30)).save(file)
    with pytest.raises(CorruptRecord, match=r"2007_834558.png: record 0 is 30 x 20, its image 40 x 53"):
        _clips(root).sample(0, None)


def test_a_broken_mask(root: Path):
    file = _base(root) / "SegmentationObject" / f"{NAMES[0]}.png"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(CorruptRecord, match=r"2007_834558.png: record 0 cannot be read"):
        _clips(root).sample(0, None)


def test_a_mask_that_was_saved_anew_in_grey(root: Path):
    file = _base(root) / "SegmentationClass" / f"{NAMES[1]}.png"
    Image.fromarray(np.full((50, 37), 38, np.uint8)).save(file)
    with pytest.raises(
        CorruptRecord, match=r"SegmentationClass.*has class 38, VOC has 20: .*saved anew in grey"
    ):
        _clips(root).sample(1, None)


@pytest.mark.parametrize("line", ["/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png", "a b"])
def test_a_list_of_more_than_names(root: Path, line: str):
    (_base(root) / "ImageSets" / "Segmentation" / "val.txt").write_text(line)
    with pytest.raises(UserError, match=r"val.txt has the line '.*Each line should be the name of one image"):
        _clips(root, "validation")


def test_a_list_with_a_byte_order_mark(root: Path):
    file = _base(root) / "ImageSets" / "Segmentation" / "val.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(_clips(root, "validation")) == len(NAMES[1:])


@pytest.mark.parametrize(
    ("split", "remedy"), [("trainval", "Extract VOCtrainval"), ("trainaug", "data.keys video")]
)
def test_a_folder_of_masks_that_is_gone(root: Path, split: str, remedy: str):
    (_base(root) / "SegmentationClass").rename(root / "elsewhere")
    with pytest.raises(UserError, match=rf"Segmentation\w+ lacks .*{remedy}"):
        _clips(root, split)

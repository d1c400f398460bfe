from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.published import COCO_FILE, change_json, extract_published, normalized
from recorded import GOLDEN
from torchslots import open_dataset as open_public
from torchslots.data.catalog import open_dataset
from torchslots.data.clips import Clips
from torchslots.data.config import DataConfig
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.inspect import inspect_dataset
from torchslots.data.loader import eval_batches
from torchslots.io.errors import UserError

RECORDED = np.load(GOLDEN / "data_coco" / "expected_val2017.npz")
NUMBERS = RECORDED["image_ids_in_file_order"].tolist()
SIZE, LABEL_SIZE = int(RECORDED["input_size"]), int(RECORDED["oclf_mask_size"])
CONFIG = DataConfig(
    dataset="coco", keys=("video", "segmentations", "classes"), resolution=SIZE, interpolation="bicubic"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return extract_published("coco", tmp_path / "below")


def _clips(root: Path, split: str = "validation", train: bool = False, **changes) -> Clips:
    return open_dataset("coco", root, split, replace(CONFIG, **changes), train)


def _covering(instances: np.ndarray) -> np.ndarray:
    return (instances > 0).sum(0)


def _ids(instances: np.ndarray) -> np.ndarray:
    """Ids where exactly one channel is set."""
    return np.where(_covering(instances) == 1, (instances > 0).argmax(0) + 1, 0)


@pytest.mark.parametrize("index, number", list(enumerate(NUMBERS)))
def test_stored_arrays_are_those_of_the_original_converter(root: Path, index: int, number: int):
    clips = _clips(root)
    assert len(clips) == 4 and clips.name(index) == f"val2017/{number:012d}.jpg"
    stored, instances = clips.stored(index), RECORDED[f"instances_{number}"]
    covering = _covering(instances)
    crowd = RECORDED[f"crowd_{number}"] & (covering == 0)
    assert np.array_equal(stored["video"][0].permute(1, 2, 0), RECORDED[f"image_{number}"])
    assert np.array_equal(stored["segmentations"][0], _ids(instances))
    assert np.array_equal(stored["classes"][0], instances.max(0))
    assert np.array_equal(stored["ignore"][0], (covering > 1) | crowd)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_instance_alone_is_the_recorded_one(root: Path, number: int):
    """Also where they overlap, and the one that covers no pixel."""
    source = _clips(root).source
    annotations = source.labels.objects(source.annotations.get(number, []))
    assert [found.number for found in annotations] == RECORDED[f"ann_ids_{number}"].tolist()
    assert [found.category for found in annotations] == RECORDED[f"categories_{number}"].tolist()
    instances = RECORDED[f"instances_{number}"]
    masks = source.labels._masks(annotations, 0, instances.shape[1:], 0)
    assert np.array_equal(masks, instances[: len(masks)] > 0) and instances[len(masks) :].max(initial=0) == 0


@pytest.mark.parametrize("index, number", list(enumerate(NUMBERS)))
def test_the_middle_square_of_the_stored_image(root: Path, index: int, number: int):
    sample = _clips(root, eval_crop="square", crowds="uncovered").sample(index, None)
    expected = RECORDED[f"vs_segmentations_{number}"]
    torch.testing.assert_close(
        normalized(sample["video"][0]), torch.from_numpy(RECORDED[f"vs_image_{number}"]), atol=2e-6, rtol=0
    )
    assert np.array_equal(sample["segmentations"][0], _ids(expected))
    assert np.array_equal(sample["ignore"][0], _covering(expected) > 1)


@pytest.mark.parametrize("index, number", list(enumerate(NUMBERS)))
def test_the_middle_of_the_resized_image_with_labels_of_their_own_size(root: Path, index: int, number: int):
    sample = _clips(root, eval_crop="center", label_size=LABEL_SIZE, crowds="uncovered").sample(index, None)
    instances = RECORDED[f"oclf_instance_crop_{number}"]
    torch.testing.assert_close(
        normalized(sample["video"][0]), torch.from_numpy(RECORDED[f"oclf_image_{number}"]), atol=2e-6, rtol=0
    )
    assert sample["video"].shape == (1, 3, SIZE, SIZE) and sample["padding_mask"].shape == (1, SIZE, SIZE)
    assert np.array_equal(sample["segmentations"][0], _ids(instances))
    assert np.array_equal(sample["ignore"][0], _covering(instances) > 1)
    assert np.array_equal(sample["classes"][0], RECORDED[f"oclf_semantic_crop_{number}"].max(0))


def test_crowds_are_ignored_background_or_objects_by_name(root: Path):
    number, crowd = NUMBERS[2], RECORDED[f"crowd_{NUMBERS[2]}"]
    assert crowd.any() and not _covering(RECORDED[f"instances_{number}"]).any()
    ignored, uncovered, objects = (
        _clips(root, crowds=crowds).stored(2) for crowds in ("ignore", "uncovered", "objects")
    )
    assert np.array_equal(ignored["ignore"][0], crowd) and not ignored["segmentations"].any()
    assert not uncovered["ignore"].any() and not uncovered["segmentations"].any()
    assert np.array_equal(objects["segmentations"][0], crowd) and not objects["ignore"].any()
    assert (
        _clips(root, crowds="objects").source.num_objects(2) == 1 and _clips(root).source.num_objects(2) == 0
    )


def test_overlaps_are_ignored_but_keep_their_class_or_are_an_error(root: Path):
    stored, covering = _clips(root).stored(0), _covering(RECORDED[f"instances_{NUMBERS[0]}"])
    overlap = torch.from_numpy(covering > 1)
    assert overlap.sum() == 148
    assert stored["ignore"][0][overlap].all() and (stored["classes"][0][overlap] > 0).all()
    assert not stored["classes"][0][stored["ignore"][0] & ~overlap].any()
    clips = _clips(root, overlaps="error")
    with pytest.raises(
        CorruptRecord, match=r"000000040468.jpg: annotations 131 and 149 overlap.*overlaps ignore"
    ):
        clips.sample(0, None)
    assert "overlaps" not in clips.sample(3, None)


def test_errors_arrive_whole_from_loading_processes(root: Path):
    clips = _clips(root, overlaps="error", eval_crop="center")
    with pytest.raises(CorruptRecord, match="annotations 131 and 149 overlap in frame 0"):
        list(eval_batches(clips, batch_size=2, num_workers=1))
    batches = eval_batches(clips, batch_size=2, num_workers=1, skip_corrupt=True, on_skip=lambda _: None)
    assert sum(len(batch["video"]) for batch in batches) == 3


def test_boxes_are_those_of_whole_masks(root: Path):
    sample, instances = _clips(root, keys=("boxes",)).sample(0, None), RECORDED[f"instances_{NUMBERS[0]}"]
    for box, mask in zip(sample["boxes"][0], instances):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        edges = [rows[0] / 40, columns[0] / 53, (rows[-1] + 1) / 40, (columns[-1] + 1) / 53]
        assert np.allclose(box, edges)
    assert not sample["boxes"][0, 4:].any() and "segmentations" not in sample and "ignore" not in sample


def test_ids_beyond_the_rows_of_boxes_stay(root: Path):
    few = _clips(root, max_instances=2, keys=("segmentations", "boxes")).sample(0, None)
    many = _clips(root, keys=("segmentations",)).sample(0, None)
    assert few["boxes"].shape == (1, 2, 4) and many["segmentations"].max() == 4
    assert torch.equal(few["segmentations"], many["segmentations"])


def test_training_takes_random_squares_and_mirrors_some(root: Path):
    clips = _clips(root, "train", True, train_crop="random", flip=0.5, keys=("video",))
    samples = [clips.sample(0, np.random.default_rng(seed))["video"] for seed in range(12)]
    assert {tuple(sample.shape) for sample in samples} == {(1, 3, SIZE, SIZE)}
    assert len({sample.numpy().tobytes() for sample in samples}) > 6
    again = clips.sample(0, np.random.default_rng(3))["video"]
    assert torch.equal(again, samples[3])
    assert "annotations" not in vars(clips.source)


def test_the_public_door_and_batches(root: Path):
    dataset = open_public("coco", root, split="validation", resolution=16, eval_crop="center")
    item = dataset[0]
    assert {key: (tuple(value.shape), value.dtype) for key, value in item.items() if key != "name"} == {
        "video": ((1, 3, 16, 16), torch.float32),
        "segmentations": ((1, 16, 16), torch.int32),
        "ignore": ((1, 16, 16), torch.bool),
        "boxes": ((1, 23, 4), torch.float32),
        "padding_mask": ((1, 16, 16), torch.bool),
    }
    (batch,) = eval_batches(dataset.clips, batch_size=4)
    assert batch["ignore"].shape == (4, 1, 16, 16) and batch["ignore"].dtype == torch.bool
    assert torch.equal(batch["segmentations"][0], item["segmentations"])


def test_inspection_finds_it_from_a_parent(root: Path):
    survey = inspect_dataset(str(root.parent), out=root / "sheet.png", check=True)
    assert survey.dataset == "coco" and not survey.corrupt and survey.num_checked == 6
    assert survey.splits["train"] == "train2017/*.jpg with instances_train2017.json, 2 examples"
    assert survey.objects == {0: 2, 1: 2, 3: 1, 4: 1} and (root / "sheet.png").exists()


def test_several_sets_in_one_folder_are_told_apart_by_name(root: Path):
    extract_published("davis", root.parent / "other")
    with pytest.raises(
        UserError, match=r"holds several data sets: coco, davis_2017. Give one of these names"
    ):
        inspect_dataset(str(root.parent))
    assert inspect_dataset("davis_2017", root=root.parent).splits["train"].endswith("1 example")


def test_the_first_images_alone(root: Path):
    (root / "val2017" / f"{NUMBERS[3]:012d}.jpg").unlink()
    assert len(_clips(root, num_records=3)) == 3


# Faults


def _fault(root: Path, **changes) -> str:
    with pytest.raises(UserError) as caught:
        _clips(root, **changes).sample(3, None)
    return str(caught.value)


def test_a_folder_without_it(tmp_path: Path):
    message = _fault(tmp_path)
    assert "holds no val2017/ beside annotations/instances_val2017.json" in message
    assert "torchslots data download coco" in message


@pytest.mark.parametrize(
    "segmentation, reason",
    [
        ({"size": [41, 64], "counts": "Z76Q14M2N2N"}, "run lengths of"),
        ({"size": [41, 64], "counts": "Z76Q14M2N2No"}, "cut off"),
        ({"size": [41, 64], "counts": "\u00e4\u00f6"}, "where it cannot stand"),
        ({"size": [41, 64], "counts": ""}, "run lengths of 0 pixels, but its image has 2624"),
        ({"size": [41, 64], "counts": [3, 5]}, "run lengths of 8 pixels"),
        ({"size": [41, 64], "counts": [2630, -6]}, "neither whole numbers nor text"),
        ({"size": [64, 41], "counts": [2624]}, r"a mask of size \[64, 41\], but its image is \[41, 64\]"),
        ({"counts": [2624]}, "a mask of size None"),
        ([], "without polygons"),
        ([[1, 2, 3]], "not pairs x, y of three points"),
        ([[1, 2, 3, 4, 5, "6"]], "not within an image of 41 x 64"),
        ([[1, 2, 3, 4, 5, float("nan")]], "not within an image"),
        ([[1, 2, 3, 4, 1e12, 6]], "not within an image"),
        ([[1, 2, 3, 4, 10**400, 6]], "not within an image"),
    ],
)
def test_a_broken_mask_names_its_annotation(root: Path, segmentation, reason: str):
    change_json(root / COCO_FILE, lambda tables: tables["annotations"][2].update(segmentation=segmentation))
    with pytest.raises(
        CorruptRecord, match=rf"val2017.json: record 3 has, in annotation 319, frame 0, .*{reason}"
    ):
        _clips(root).sample(3, None)
    assert _clips(root).sample(0, None)["segmentations"].any()
    (batch,) = eval_batches(
        _clips(root, eval_crop="center"), batch_size=4, skip_corrupt=True, on_skip=lambda _: None
    )
    assert len(batch["video"]) == 3


def test_half_a_download(root: Path):
    (root / "val2017" / f"{NUMBERS[3]:012d}.jpg").unlink()
    message = _fault(root)
    assert "lacks 1 of 4 images that instances_val2017.json lists, such as 000000094437.jpg" in message
    assert "Extract val2017.zip again" in message


def test_an_image_that_is_not_in_the_annotations(root: Path):
    Image.new("RGB", (8, 8)).save(root / "val2017" / "000000000001.jpg")
    message = _fault(root)
    assert (
        "holds 1 image that instances_val2017.json does not list, such as 000000000001.jpg. Remove" in message
    )


def test_an_annotation_of_an_image_that_is_not_there(root: Path):
    change_json(root / COCO_FILE, lambda tables: tables["annotations"][0].update(image_id=7))
    assert "has annotation 243 of image 7, which `images` lacks. Extract annotations_trainval" in _fault(root)


@pytest.mark.parametrize(
    "table, change, reason",
    [
        ("annotations", {"iscrowd": "no"}, "has 'no' as `iscrowd` of annotation 243, neither 0 nor 1"),
        ("annotations", {"iscrowd": 2}, "has '2' as `iscrowd` of annotation 243, neither 0 nor 1"),
        ("annotations", {"id": 319}, "has id 319 twice in `annotations`"),
        ("annotations", {"category_id": "3"}, "has '3' as `category_id` of id 243 in `annotations`"),
        ("images", {"id": NUMBERS[1]}, f"has id {NUMBERS[1]} twice in `images`"),
        ("images", {"id": 10**30}, f"has '{10**30}' as `id` of id {10**30} in `images`"),
        ("images", {"id": True}, "has 'True' as `id` of id True in `images`"),
        ("images", {"height": 0}, f"has '0' as `height` of id {NUMBERS[0]} in `images`"),
        (
            "images",
            {"height": 10**5, "width": 10**5},
            f"has '100000' as `height` of id {NUMBERS[0]} in `images`",
        ),
        ("categories", {"id": 0}, "has category 0, but categories are numbered from 1"),
        ("categories", {"id": 1 << 40}, f"has category {1 << 40}, but categories are numbered from 1"),
    ],
)
def test_rows_that_would_be_read_as_something_else(root: Path, table: str, change, reason: str):
    change_json(root / COCO_FILE, lambda tables: tables[table][0].update(change))
    assert f"instances_val2017.json {reason}. Extract annotations_trainval2017.zip again" in _fault(root)


def test_categories_that_are_missing(root: Path):
    change_json(root / COCO_FILE, lambda tables: tables["annotations"][0].pop("category_id"))
    assert "lacks `category_id` of id 243 in `annotations`" in _fault(root)
    change_json(root / COCO_FILE, lambda tables: tables["annotations"][0].update(category_id=99))
    assert "has annotation 243 of category 99, which `categories` lacks" in _fault(root)
    change_json(root / COCO_FILE, lambda tables: tables.pop("categories"))
    assert "has no list `categories`" in _fault(root)


@pytest.mark.parametrize(
    "text, reason",
    [
        (None, "is not JSON"),
        ("[" * 100_000 + "]" * 100_000, "is not JSON .nested more than 100"),
        ("[1]", "should hold a JSON object, got list"),
        ('{"images": {}}', "has no list `images`"),
        ('{"images": [3]}', "holds a int as entry 0 of `images`"),
        ('{"images": [{"id": "x", "file_name": "a.jpg"}]}', "has 'x' as `id` of id x in `images`"),
    ],
)
def test_an_annotation_file_that_is_none(root: Path, text: str | None, reason: str):
    file = root / COCO_FILE
    file.write_text(file.read_text()[:-500] if text is None else text)
    with pytest.raises(
        UserError, match=rf"val2017.json ({reason}).*Extract annotations_trainval2017.zip again"
    ):
        _clips(root)


def test_a_size_that_the_annotations_do_not_tell(root: Path):
    Image.new("RGB", (30, 20)).save(root / "val2017" / f"{NUMBERS[3]:012d}.jpg")
    assert "000000094437.jpg: record 3 is 20 x 30, but instances_val2017.json says 41 x 64" in _fault(root)


def test_a_broken_image(root: Path):
    file = root / "val2017" / f"{NUMBERS[3]:012d}.jpg"
    file.write_bytes(file.read_bytes()[:300])
    assert "000000094437.jpg: record 3 cannot be read" in _fault(root)


def test_a_huge_image_is_not_opened(root: Path):
    """The header states 65,000 x 65,000 pixels."""
    file = root / "val2017" / f"{NUMBERS[3]:012d}.jpg"
    data = bytearray(file.read_bytes())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = (65000).to_bytes(2, "big") * 2
    file.write_bytes(data)
    assert "record 3 cannot be read: Image size (4225000000 pixels) exceeds" in _fault(root)


def test_choices_that_are_none():
    with pytest.raises(UserError, match=r"`crowds` should be one of ignore, uncovered, objects, got 'drop'"):
        replace(CONFIG, crowds="drop")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"`flip` should be a number of at least 0 and at most 1, got 2"):
        replace(CONFIG, flip=2)
    with pytest.raises(UserError, match=r"`label_size` should be a whole number of at least 1, got 0"):
        replace(CONFIG, label_size=0)

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.movi_files import copy_movi
from recorded import GOLDEN
from torchslots.data.catalog import open_dataset
from torchslots.data.formats.example import encode_example
from torchslots.data.formats.png import encode_png
from torchslots.data.formats.tfrecord import CorruptRecord, write_records
from torchslots.data.prepare import prepare
from torchslots.data.sets.multishapenet import MultiShapeNetImages
from torchslots.io.errors import UserError
from torchslots.recipes import catalog

CONFIG = catalog.recipe("isa_multishapenet_easy_transl_scale").data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "data_msn_easy", tmp_path / "data"))


def _write(folder: Path, cameras: dict[str, dict[str, bytes]], split: str = "train") -> Path:
    """One frame as a data set of its own, without dataset_info.json."""
    features = {
        f"cameras/{camera}/{name}": data for camera, parts in cameras.items() for name, data in parts.items()
    }
    file = folder / "msn_easy_frames" / "1.0.0" / f"msn_easy_frames-{split}.tfrecord-00000-of-00001"
    write_records(file, [encode_example({"scene_name": b"scene_0", **features})])
    return file


def _noise(camera: int) -> dict[str, bytes]:
    image = np.random.default_rng(camera).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return {
        "color_image": encode_png(image),
        "instance_image": encode_png(np.full((12, 16), camera + 1, np.uint8)),
    }


@pytest.mark.parametrize(("split", "count"), [("train", 4), ("val", 2), ("validation", 2)])
def test_every_camera_is_what_tfds_reads(root: Path, split: str, count: int):
    expected = np.load(root / "expected_tfds.npz")
    images = MultiShapeNetImages(root, split)
    assert len(images) == count
    names = set()
    for index in range(count):
        record, camera = divmod(index, 2)
        for name, array in images.example(index).items():
            recorded = expected[f"{'train' if split == 'train' else 'val'}/{record}/camera_{camera}/{name}"]
            assert array.dtype == recorded.dtype
            np.testing.assert_array_equal(array, recorded)
        names.add(images.name(index))
    assert len(names) == count and all("msn_easy_frames" in name for name in names)


def test_a_picture_as_the_published_pipeline_prepares_it(tmp_path: Path):
    recorded = np.load(GOLDEN / "preprocess" / "preprocess_isa_multishapenet_easy.npz")
    parts = {
        "color_image": encode_png(recorded["image_0"]),
        "instance_image": encode_png(recorded["segmentations_in_0"]),
    }
    _write(tmp_path, {"default": parts})
    sample = open_dataset("multishapenet_easy", tmp_path, "train", CONFIG, True).sample(0, None)
    assert torch.equal(sample["segmentations"], torch.from_numpy(recorded["segmentations_0"]))
    rows = sample["video"].permute(0, 2, 3, 1)[:, ::8].numpy()
    np.testing.assert_allclose(rows, recorded["video_0_every_8th_row"], rtol=0, atol=1e-6)
    assert sample["padding_mask"].all() and sample.keys() == {
        "video",
        "segmentations",
        "padding_mask",
        "name",
    }


def test_depth_and_boxes_belong_to_the_same_picture(root: Path):
    config = replace(CONFIG, keys=("video", "segmentations", "boxes", "depth"), crop=None, resolution=240)
    sample = open_dataset("multishapenet_easy", root, "train", config, False).sample(1, None)
    expected = np.load(root / "expected_tfds.npz")
    depth = np.log1p(expected["train/0/camera_1/depth_image"][..., 0])
    np.testing.assert_allclose(sample["depth"][0, 0].numpy(), depth, rtol=1e-6)
    ids = expected["train/0/camera_1/instance_image"][..., 0].astype(np.int32) - 1
    np.testing.assert_array_equal(sample["segmentations"][0].numpy(), ids)
    for number in range(1, ids.max() + 1):
        rows, columns = np.nonzero(ids == number)
        box = [rows.min() / 240, columns.min() / 320, (rows.max() + 1) / 240, (columns.max() + 1) / 320]
        np.testing.assert_allclose(sample["boxes"][0, number - 1].numpy(), box, rtol=1e-6)


def test_ids_that_are_not_stored_from_one_stay_background(tmp_path: Path):
    parts = {"color_image": encode_png(np.zeros((4, 4, 3), np.uint8))}
    parts["instance_image"] = encode_png(np.array([[0, 1, 2, 3]] * 4, np.uint8))
    _write(tmp_path, {"default": parts})
    ids = MultiShapeNetImages(tmp_path, "train").open(0, ("segmentations",)).read(0, 1)["segmentations"][0]
    assert ids[0].tolist() == [0, 0, 1, 2]


def test_cameras_are_counted_not_spelt(tmp_path: Path):
    _write(tmp_path, {f"camera_{number}": _noise(number) for number in range(12)})
    images = MultiShapeNetImages(tmp_path, "train")
    assert len(images) == 12 and images.cameras[9:] == ("camera_9", "camera_10", "camera_11")
    found = [images.example(index, ("instance_image",))["instance_image"].max() for index in range(12)]
    assert found == list(range(1, 13))


def test_only_pictures_of_few_objects(root: Path):
    counts = [MultiShapeNetImages(root, "train").num_objects(index) for index in range(4)]
    fewest = min(counts)
    chosen = open_dataset("multishapenet_easy", root, "train", replace(CONFIG, max_objects=fewest), True)
    assert len(chosen) == sum(count <= fewest for count in counts)
    with pytest.raises(UserError, match=f"No example of MultiShapeNet-Easy has at most {fewest - 1} objects"):
        open_dataset("multishapenet_easy", root, "train", replace(CONFIG, max_objects=fewest - 1), True)
    assert len(open_dataset("multishapenet_easy", root, "train", replace(CONFIG, num_records=3), True)) == 3


@pytest.mark.parametrize("at", [200, -40])
def test_a_damaged_record_is_named(root: Path, at: int):
    file = next(root.rglob("*-train.tfrecord*"))
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(
        CorruptRecord, match=r"msn_easy_frames-train.*record [01] does not match its checksum"
    ):
        clips = open_dataset("multishapenet_easy", root, "train", CONFIG, True)
        for index in range(len(clips)):
            clips.sample(index, None)


def test_a_file_that_was_cut_off(root: Path):
    file = next(root.rglob("*-train.tfrecord*"))
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CorruptRecord, match="record 1 is cut off"):
        open_dataset("multishapenet_easy", root, "train", CONFIG, True).sample(2, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instance_image": None}, "has no `cameras/default/instance_image`"),
        ({"color_image": b"no picture"}, "no PNG"),
        ({"depth_image": encode_png(np.zeros((12, 16), np.uint8))}, "depth image of 1 channels"),
        ({"color_image": encode_png(np.zeros((12, 16), np.uint8))}, r"color_image` is uint8 \[12, 16, 1\]"),
    ],
)
def test_records_that_lack_something(tmp_path: Path, change: dict, message: str):
    parts = {name: data for name, data in {**_noise(0), **change}.items() if data is not None}
    _write(tmp_path, {"default": parts})
    config = replace(
        CONFIG, crop=None, keys=("video", "segmentations", *(["depth"] if "depth_image" in change else []))
    )
    with pytest.raises(CorruptRecord, match=message):
        open_dataset("multishapenet_easy", tmp_path, "train", config, True).sample(0, None)


def test_other_folders_are_refused(tmp_path: Path, root: Path):
    with pytest.raises(UserError, match="no `cameras/<name>/color_image`"):
        MultiShapeNetImages(copy_movi("a", tmp_path), "train")
    with pytest.raises(UserError, match=r"no split `test`. It has: train, val"):
        open_dataset("multishapenet_easy", root, "test", CONFIG, False)
    with pytest.raises(UserError, match=r"msn_easy_frames below the data folder"):
        open_dataset("multishapenet_easy", tmp_path / "nowhere", "train", CONFIG, True)
    with pytest.raises(UserError, match="asks for `flow`, which MultiShapeNet-Easy lacks"):
        open_dataset("multishapenet_easy", root, "train", replace(CONFIG, keys=("video", "flow")), True)


def test_prepared_depth_of_random_crops_equals_the_original(root: Path, tmp_path: Path):
    config = replace(
        CONFIG, dataset="multishapenet_easy", crop=None, keys=("video", "depth"), min_object_covered=0.4
    )
    direct = open_dataset("multishapenet_easy", root, "train", config, True)
    prepare(direct, tmp_path / "out")
    cached = open_dataset("prepared", tmp_path / "out", "train", direct.config, True)
    for seed in range(3):
        one, other = (clips.sample(1, np.random.default_rng(seed)) for clips in (direct, cached))
        assert torch.equal(one["depth"], other["depth"]) and torch.equal(one["video"], other["video"])

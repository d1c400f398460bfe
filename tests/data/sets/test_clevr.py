import hashlib
import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.opened import prepared_clips
from recorded import GOLDEN
from torchslots.data.catalog import open_dataset
from torchslots.data.clips import Clips
from torchslots.data.config import DataConfig
from torchslots.data.formats.example import decode_bytes, encode_example, scan_example
from torchslots.data.formats.png import encode_png
from torchslots.data.formats.tfrecord import CorruptRecord, RecordFile, write_records
from torchslots.data.loader import eval_batches, train_batches
from torchslots.data.objects import LABELS, decode_object
from torchslots.data.prepare import prepare
from torchslots.data.sets.clevr import REFERENCE_CROP, SAME_REGION_CROP, ClevrImages
from torchslots.io.errors import UserError
from torchslots.recipes.catalog import recipe
from torchslots.recipes.slot_attention import SetPredictionConfig, SlotAttentionConfig, build

CONFIG = DataConfig(
    dataset="clevr",
    keys=("video", "properties"),
    resolution=32,
    num_frames=1,
    max_instances=10,
    square=True,
)
TRAIN = "clevr-train.tfrecord-00000-of-00001"
IMAGES = {"train": "train", "validation": "val", "test": "test"}


@pytest.fixture(scope="module")
def tfds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "tfds"
    shutil.copytree(GOLDEN / "data_clevr" / "tfds", folder)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory, tfds) -> Path:
    """The folder that the ZIP file gives: TFDS keeps its PNG files byte by byte."""
    folder = tmp_path_factory.mktemp("recorded") / "CLEVR_v1.0"
    shutil.copytree(GOLDEN / "data_clevr" / "scenes", folder / "scenes")
    for split, name in IMAGES.items():
        (folder / "images" / name).mkdir(parents=True)
        file = RecordFile(tfds / f"clevr/3.1.0/clevr-{split}.tfrecord-00000-of-00001")
        for i in range(len(file)):
            raw = scan_example(file.read(i))
            path = folder / "images" / name / decode_bytes(raw["file_name"])[0].decode()
            path.write_bytes(decode_bytes(raw["image"])[0])
    return folder


def images(root: Path, split: str, config: DataConfig, train: bool = True) -> Clips:
    return Clips(ClevrImages(root, split), split, config, train)


def encode_scene(image: np.ndarray, positions: np.ndarray, labels: dict[str, np.ndarray]) -> bytes:
    """One record of TFDS."""
    return encode_example(
        {
            "image": encode_png(image),
            "objects/3d_coords": positions.astype(np.float32),
            **{f"objects/{name}": values for name, values in labels.items()},
        }
    )


def random_scene(objects: int, seed: int, size: tuple[int, int] = (8, 12)) -> bytes:
    rng = np.random.default_rng(seed)
    labels = {name: rng.integers(0, len(words), objects) for name, words in LABELS.items()}
    return encode_scene(
        rng.integers(0, 256, (*size, 3), dtype=np.uint8), rng.uniform(-3, 3, (objects, 3)), labels
    )


# As recorded


@pytest.mark.parametrize("form", ["tfds", "original"])
@pytest.mark.parametrize(
    ("split", "name", "count"),
    [("train_full", "train", 4), ("validation", "validation", 2), ("test", "test", 1)],
)
def test_every_picture_and_object_equals_tfds(request, form, split, name, count):
    found = images(request.getfixturevalue(form), split, CONFIG, False)
    assert len(found) == count
    with np.load(GOLDEN / "data_clevr" / "expected_tfds.npz") as recorded:
        for i in range(count):
            image, objects = found.source.example(i)
            if f"{name}/{i}/image" in recorded:
                assert np.array_equal(image, recorded[f"{name}/{i}/image"])
            else:
                digest = hashlib.sha256(image.tobytes()).hexdigest()[:24]
                assert digest == recorded[f"{name}/{i}/image_sha256_24"]
            assert np.array_equal(objects.positions, recorded[f"{name}/{i}/objects.3d_coords"])
            for label, values in objects.labels.items():
                assert np.array_equal(values, recorded[f"{name}/{i}/objects.{label}"]), label


@pytest.mark.parametrize("form", ["tfds", "original"])
def test_properties_equal_the_references_targets(request, form):
    found = images(request.getfixturevalue(form), "train_full", CONFIG, False)
    with np.load(GOLDEN / "data_clevr" / "expected_set_targets_train.npz") as recorded:
        batch = next(eval_batches(found, batch_size=4))
        assert torch.equal(batch["properties"][:, 0], torch.from_numpy(recorded["target"]))
    words = decode_object(batch["properties"][0, 0, 0].numpy()).words()
    assert words == "small red rubber cube" and batch["video"].shape == (4, 1, 3, 32, 32)


def test_preprocessing_equals_slot_attentions(tmp_path):
    with np.load(GOLDEN / "preprocess" / "preprocess_slot_attention_clevr.npz") as recorded:
        labels = {name: recorded[f"obj_{name}_1"] for name in LABELS}
        write_records(
            tmp_path / TRAIN, [encode_scene(recorded["image_1"], recorded["obj_3d_coords_1"], labels)]
        )
        settings = {
            "object_discovery": DataConfig(
                keys=("video",), resolution=128, crop=REFERENCE_CROP, max_objects=6
            ),
            "set_image": recipe("slot_attention_set_prediction").data,
        }
        for name, config in settings.items():
            sample = images(tmp_path, "train_full", config, False).sample(0, None)
            expected = torch.from_numpy(recorded[f"{name}_every_fourth_row_1"]).permute(2, 0, 1)
            found = sample["video"][0, :, ::4] * 2 - 1
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
        assert torch.equal(sample["properties"][0], torch.from_numpy(recorded["set_target_1"]))


def test_the_crop_that_was_meant_is_in_the_middle():
    top, left, height, width = SAME_REGION_CROP
    assert left + width / 2 == 480 / 2
    assert abs(top / 320 - REFERENCE_CROP[0] / 240) < 1 / 320 and height / 320 == REFERENCE_CROP[2] / 240


# Forms, splits, counts


def test_both_forms_in_one_folder_and_neither(tfds, original, tmp_path):
    both = tmp_path / "both"
    both.mkdir()
    (both / "CLEVR_v1.0").symlink_to(original)
    assert images(both, "train", CONFIG).name(0) == "CLEVR_train_000000.png"
    (both / "tfds").symlink_to(tfds)
    assert images(both, "train", CONFIG).name(0) == f"{TRAIN}__0"
    with pytest.raises(UserError, match=r"holds no CLEVR, neither TFDS' files.*data download clevr"):
        images(_empty(tmp_path), "train", CONFIG)
    with pytest.raises(UserError, match=r"clevr has no split `val`. It has: train, train_eval"):
        images(tfds, "val", CONFIG)


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def test_the_first_512_pictures_are_held_out(tmp_path, caplog):
    write_records(tmp_path / TRAIN, [random_scene(3, seed) for seed in range(520)])
    names = {split: images(tmp_path, split, CONFIG) for split in ("train", "train_eval", "train_full")}
    assert [len(found) for found in names.values()] == [8, 512, 520] and not caplog.text
    assert names["train"].name(0) == f"{TRAIN}__512"
    assert names["train_eval"].name(511) == f"{TRAIN}__511"
    few = images(tmp_path, "train", replace(CONFIG, num_records=3))
    assert len(few) == 3 and few.name(0) == f"{TRAIN}__512"


def test_of_few_pictures_none_is_held_out_and_a_warning_says_so(tfds, caplog):
    with caplog.at_level(logging.WARNING, "torchslots.data"):
        assert len(images(tfds, "train", CONFIG)) == 4
    assert "only 4 images" in caplog.text


@pytest.mark.parametrize("form", ["tfds", "original"])
def test_pictures_of_many_objects_are_left_out_by_counts_that_are_kept(request, form, monkeypatch):
    root, config = request.getfixturevalue(form), replace(CONFIG, max_objects=4)
    found = images(root, "train", config)
    assert [found.source.num_objects(i) for i in range(4)] == [3, 5, 10, 4]
    assert found.name(1).endswith(("__3", "000003.png"))
    monkeypatch.setattr(RecordFile, "read", None)
    monkeypatch.setattr("torchslots.data.sets.clevr._scene_table", None)
    assert len(images(root, "train", replace(CONFIG, max_objects=3))) == 1


def test_counts_are_made_anew_when_the_file_changes(tmp_path):
    config = replace(CONFIG, max_objects=4)
    write_records(tmp_path / TRAIN, [random_scene(3, 0), random_scene(5, 1)])
    assert len(images(tmp_path, "train", config)) == 1
    write_records(tmp_path / TRAIN, [random_scene(3, 0), random_scene(5, 1), random_scene(2, 2)])
    assert len(images(tmp_path, "train", config)) == 2


def test_counts_are_kept_in_the_cache_where_the_data_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    write_records(folder / TRAIN, [random_scene(3, 0), random_scene(5, 1)])
    (folder / ".torchslots").write_text("in the way")
    assert len(images(folder, "train", replace(CONFIG, max_objects=4))) == 1
    assert list((tmp_path / "cache").rglob("*.objects.npz"))


def test_prepared_pictures_equal_the_originals(tfds, tmp_path):
    found = images(tfds, "train", CONFIG, True)
    prepare(found, tmp_path)
    again = prepared_clips(tmp_path, "train", CONFIG, True)
    for i in range(len(found)):
        sample, copy = found.sample(i, None), again.sample(i, None)
        assert all(torch.equal(sample[key], copy[key]) for key in ("video", "properties", "padding_mask"))


def test_a_batch_of_each_recipe_s_kind_trains(tfds):
    config = recipe("slot_attention_set_prediction").data
    found = open_dataset("clevr", tfds, "train", replace(config, resolution=32), True)
    batch = next(train_batches(found, batch_size=2, seed=0))
    model = build(
        SlotAttentionConfig(
            resolution=(32, 32),
            channels=(8, 8),
            strides=(2, 2),
            token_hidden=8,
            token_size=8,
            slot_size=8,
            num_slots=10,
            mlp_size=8,
            decoder=SetPredictionConfig(hidden=8),
        )
    )
    loss = model.loss(batch)["properties"]
    loss.backward()
    assert torch.isfinite(loss) and loss > 0


# Faults


def test_keys_that_clevr_lacks(tfds):
    with pytest.raises(
        UserError, match=r"asks for `segmentations`, which CLEVR lacks. It has: video, properties"
    ):
        images(tfds, "train", replace(CONFIG, keys=("video", "segmentations")))


def test_a_crop_beyond_the_picture(tfds):
    with pytest.raises(UserError, match=r"frames are 320 x 480"):
        images(tfds, "train", replace(CONFIG, crop=(200, 0, 192, 192))).sample(0, None)


def test_faults_in_records(tmp_path):
    rng = np.random.default_rng(0)
    image, places = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8), np.zeros((2, 3))
    right = {name: np.zeros(2, np.int64) for name in LABELS}
    records = [
        encode_scene(image, places, right),
        encode_scene(image, places, {**right, "color": np.array([0, 8])}),
        encode_scene(image, places, {**right, "size": np.zeros(1, np.int64)}),
        encode_scene(image[..., 0], places, right),
        b"no example",
    ]
    write_records(tmp_path / TRAIN, records)
    found = images(tmp_path, "train", CONFIG, False)
    reasons = [
        "cannot be decoded: a color of number 8, of 8",
        "cannot be decoded: 2 positions, but 1 of `size`",
        "cannot be decoded: an image of 1 channels",
        "is no tf.train.Example: wire type",
    ]
    for i, reason in enumerate(reasons, 1):
        with pytest.raises(CorruptRecord, match=rf"{TRAIN}: record {i} {reason}"):
            found.sample(i, None)
    batches = list(eval_batches(found, batch_size=5, skip_corrupt=True, on_skip=lambda error: None))
    assert len(batches[0]["video"]) == 1
    write_records(tmp_path / TRAIN, [encode_example({"image": encode_png(image), "label": np.array([1])})])
    with pytest.raises(UserError, match=r"record 0 has no feature `objects/3d_coords`, only: image, label"):
        images(tmp_path, "train", CONFIG).sample(0, None)


def test_faults_in_the_original_folder(original, tmp_path):
    folder = tmp_path / "CLEVR_v1.0"
    shutil.copytree(original, folder)
    file = folder / "images" / "train" / "CLEVR_train_000001.png"
    file.write_bytes(file.read_bytes()[:2000])
    found = images(folder, "train", CONFIG)
    with pytest.raises(CorruptRecord, match=r"CLEVR_train_000001.png: record 1 cannot be read: a PNG image"):
        found.sample(1, None)
    file.unlink()
    with pytest.raises(
        CorruptRecord, match=r"CLEVR_train_000001.png: record 1 cannot be read: .*No such file"
    ):
        found.sample(1, None)
    shutil.rmtree(folder / "images" / "val")
    with pytest.raises(UserError, match=r"no images of `validation`: .*images/val is missing"):
        images(folder, "validation", CONFIG)


@pytest.mark.parametrize("change", ["cut", "color", "missing"])
def test_a_broken_list_of_scenes(original, tmp_path, change):
    folder = tmp_path / "CLEVR_v1.0"
    shutil.copytree(original, folder)
    file = folder / "scenes" / "CLEVR_train_scenes.json"
    if change == "missing":
        file.unlink()
        with pytest.raises(UserError, match=r"CLEVR_train_scenes.json cannot be opened: No such file"):
            images(folder, "train", CONFIG)
        return
    text = file.read_text()
    if change == "cut":
        file.write_text(text[:500])
    else:
        scenes = json.loads(text)
        scenes["scenes"][0]["objects"][0]["color"] = "pink"
        file.write_text(json.dumps(scenes))
    os.utime(file, (1, 1))
    with pytest.raises(UserError, match=r"CLEVR_train_scenes.json is no list of CLEVR's scenes"):
        images(folder, "train", CONFIG)

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recorded import GOLDEN
from torchslots.data.catalog import DATASETS, open_dataset
from torchslots.data.formats.compressed import CutOff, PackedRecords
from torchslots.data.formats.example import encode_example, encode_one_byte_strings
from torchslots.data.formats.tfrecord import Compression, CorruptRecord, write_records
from torchslots.data.sets.clevrtex import (
    SPLITS,
    ClevrTexFolder,
    ClevrTexRecords,
    decode_record,
    find_clevrtex,
)
from torchslots.io.draw import PALETTE
from torchslots.io.errors import UserError
from torchslots.io.video import write_palette_png
from torchslots.recipes import catalog

CONFIG = catalog.recipe("isa_clevrtex_resnet_transl").data
PARTS = {"train": "train", "validation": "val", "test": "test"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The recorded images, and names of six more so that there are ten."""
    root = Path(
        shutil.copytree(GOLDEN / "data_clevrtex" / "clevrtex_full", tmp_path / "data" / "clevrtex_full")
    )
    for number in range(4, 10):
        (root / "0" / f"CLEVRTEX_full_{number:06d}.png").touch()
    return root.parent


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "data_clevrtex" / "tfrecords", tmp_path / "data" / "tfrecords"))


def _write_image(root: Path, variant: str, number: int, image: np.ndarray, ids: np.ndarray) -> Path:
    place = root / f"clevrtex_{variant}" / str(number // 1000)
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"CLEVRTEX_{variant}_{number:06d}.png"
    Image.fromarray(np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])).save(file)
    write_palette_png(file.with_name(file.stem + "_flat.png"), ids, PALETTE)
    objects = [{"index": int(k)} for k in np.unique(ids) if k]
    file.with_suffix(".json").write_text(json.dumps({"objects": objects}))
    return file


def _record(number: int, ids: np.ndarray, **change: np.ndarray | None) -> bytes:
    features = {
        "image": np.full((*ids.shape, 3), number % 256, np.uint8),
        "segmentations": ids,
        "num_objects": np.array([len(np.unique(ids)) - 1]),
        "image_index": np.array([number]),
        **change,
    }
    present = {name: value for name, value in features.items() if value is not None}
    return encode_example(
        {name: encode_one_byte_strings(v) if v.dtype == np.uint8 else v for name, v in present.items()}
    )


def _write_shards(root: Path, count: int, shards: int, variant: str = "full") -> Path:
    """Images dealt out to shards in turn; each is of one colour, its number."""
    ids = np.tile(np.arange(4, dtype=np.uint8), (3, 1))
    for shard in range(shards):
        name = f"clevrtex_{variant}_3x4.tfrecords-zlib-{shard:05d}-of-{shards:05d}"
        mine = [_record(number, ids) for number in range(shard, count, shards)]
        write_records(root / f"clevrtex_{variant}" / name, mine, Compression.ZLIB)
    return root


def _first_value(images: ClevrTexFolder | ClevrTexRecords, index: int) -> int:
    return int(images.open(index, ("video",)).read(0, 1)["video"].flat[0])


@pytest.mark.parametrize("split", list(PARTS))
def test_folders_are_what_the_reference_reads(folder: Path, split: str):
    expected = np.load(GOLDEN / "data_clevrtex" / "expected_clevrtex_eval.npz")
    images = find_clevrtex(folder, split)
    part = PARTS[split]
    assert isinstance(images, ClevrTexFolder) and len(images) == expected[f"{part}/len"]
    for index, number in enumerate(expected[f"{part}/index"]):
        assert images.name(index) == f"CLEVRTEX_full_{number:06d}.png"
        stored = images.open(index, ("video", "segmentations")).read(0, 1)
        pixels, found = stored["video"][0], stored["segmentations"][0]
        area, size = (64, 24, 256, 216), (128, 128)
        image = Image.fromarray(pixels).crop(area).resize(size, Image.Resampling.BILINEAR)
        ids = Image.fromarray(found).crop(area).resize(size, Image.Resampling.NEAREST)
        np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1), expected[f"{part}/image"][index])
        np.testing.assert_array_equal(np.asarray(ids), expected[f"{part}/mask"][index, 0])
        assert images.num_objects(index) >= len(np.unique(found)) - 1


def test_records_are_what_the_reference_reads(records: Path):
    expected = np.load(GOLDEN / "data_clevrtex" / "expected_isa_tfrecord.npz")
    for index, payload in enumerate(PackedRecords(next(records.rglob("*zlib*")))):
        assert isinstance(payload, bytes)
        found = decode_record(payload)
        assert set(found) == set(expected.files)
        for name, array in found.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name][index])


def test_folders_and_records_hold_the_same_pictures(folder: Path, records: Path):
    from_files, from_records = (
        ClevrTexFolder(folder / "clevrtex_full", "full"),
        find_clevrtex(records, "full"),
    )
    assert isinstance(from_records, ClevrTexRecords) and len(from_records) == 2
    for index in range(2):
        one, other = (images.open(index, None).read(0, 1) for images in (from_files, from_records))
        np.testing.assert_array_equal(one["video"], other["video"])
        np.testing.assert_array_equal(one["segmentations"], other["segmentations"])
        assert from_files.num_objects(index) == from_records.num_objects(index)


@pytest.mark.parametrize("stored", ["folder", "records"])
def test_a_picture_as_the_published_pipeline_prepares_it(tmp_path: Path, stored: str):
    recorded = np.load(GOLDEN / "preprocess" / "preprocess_isa_clevrtex.npz")
    image, ids = recorded["image_0"], recorded["segmentations_in_0"][..., 0]
    if stored == "folder":
        _write_image(tmp_path, "full", 0, image, ids)
    else:
        file = tmp_path / "clevrtex_full_240x320.tfrecords-zlib-00000-of-00001"
        write_records(file, [_record(0, ids, image=image)], Compression.ZLIB)
    sample = open_dataset("clevrtex", tmp_path, "full", CONFIG, True).sample(0, None)
    assert torch.equal(sample["segmentations"], torch.from_numpy(recorded["segmentations_0"]))
    rows = sample["video"].permute(0, 2, 3, 1)[:, ::8].numpy()
    np.testing.assert_allclose(rows, recorded["video_0_every_8th_row"], rtol=0, atol=1e-6)


def test_splits_are_tenths_by_number_whichever_shard_an_image_lies_in(tmp_path: Path):
    root = _write_shards(tmp_path, 43, 4)
    numbers = {}
    for split in ("test", "validation", "train", "full"):
        images = find_clevrtex(root, split)
        numbers[split] = [_first_value(images, i) for i in range(len(images))]
    assert numbers["test"] == list(range(4)) and numbers["validation"] == list(range(4, 8))
    assert numbers["train"] == list(range(8, 43)) and numbers["full"] == list(range(43))


def test_only_the_first_records_are_unpacked_when_so_asked(tmp_path: Path):
    root = _write_shards(tmp_path, 40, 4)
    images = find_clevrtex(root, "full", 10)
    assert [_first_value(images, i) for i in range(len(images))] == list(range(10))
    assert sum(file.stat().st_size for file in root.rglob("segmentations.bin")) == 10 * 12
    assert len(find_clevrtex(root, "full")) == 40


def test_variants_are_splits_of_their_own(tmp_path: Path):
    ids = np.zeros((6, 8), np.uint8)
    for variant, count in (("full", 1), ("camo", 10)):
        for number in range(count):
            _write_image(tmp_path, variant, number, np.full((6, 8, 3), number, np.uint8), ids)
    assert set(DATASETS["clevrtex"].splits) <= set(SPLITS)
    assert [len(find_clevrtex(tmp_path, split)) for split in ("camo", "camo_train", "camo_test")] == [
        10,
        8,
        1,
    ]
    assert find_clevrtex(tmp_path / "clevrtex_camo", "camo_validation").name(0) == "CLEVRTEX_camo_000001.png"
    with pytest.raises(UserError, match=r"no images CLEVRTEX_pbg_000000\.png"):
        find_clevrtex(tmp_path, "pbg")
    with pytest.raises(UserError, match=r"no split `testing`. It has: train, validation, test, full"):
        find_clevrtex(tmp_path, "testing")


def test_only_pictures_of_few_objects(folder: Path, records: Path):
    config = replace(CONFIG, max_objects=3)
    assert len(open_dataset("clevrtex", records, "full", config, True)) == 1
    for file in (folder / "clevrtex_full" / "0").glob("*_00000[4-9].png"):
        file.unlink()
    assert len(open_dataset("clevrtex", folder, "full", config, True)) == 1


# Faults


def test_a_picture_without_its_ids_is_named(folder: Path):
    (folder / "clevrtex_full" / "0" / "CLEVRTEX_full_000001_flat.png").unlink()
    with pytest.raises(CorruptRecord, match=r"CLEVRTEX_full_000001_flat.png: record 0 cannot be read"):
        open_dataset("clevrtex", folder, "validation", CONFIG, False).sample(0, None)


def test_broken_and_wrong_pictures(folder: Path):
    clips = open_dataset("clevrtex", folder, "full", CONFIG, False)
    place = folder / "clevrtex_full" / "0"
    with pytest.raises(CorruptRecord, match=r"000004_flat\.png"):
        clips.sample(4, None)
    image = place / "CLEVRTEX_full_000002.png"
    image.write_bytes(image.read_bytes()[:5000])
    with pytest.raises(CorruptRecord, match=r"000002.png: record 2 cannot be read"):
        clips.sample(2, None)
    Image.new("RGB", (320, 240)).save(place / "CLEVRTEX_full_000003_flat.png")
    with pytest.raises(CorruptRecord, match="mode RGB, not P or L"):
        clips.sample(3, None)
    write_palette_png(place / "CLEVRTEX_full_000003_flat.png", np.zeros((24, 32), np.uint8), PALETTE)
    with pytest.raises(CorruptRecord, match=r"\(240, 320\) pixels, its _flat.png \(24, 32\)"):
        clips.sample(3, None)
    (place / "CLEVRTEX_full_000000.json").write_text("{")
    with pytest.raises(CorruptRecord, match=r"000000.json: record 0"):
        find_clevrtex(folder, "full").num_objects(0)


def test_archives_that_were_not_all_extracted(folder: Path):
    (folder / "clevrtex_full" / "0" / "CLEVRTEX_full_000003.png").unlink()
    with pytest.raises(UserError, match="holds image 9 of CLEVRTex full but not image 3"):
        find_clevrtex(folder, "train")


def test_a_shard_that_is_missing(tmp_path: Path):
    root = _write_shards(tmp_path, 8, 4)
    next(root.rglob("*-00002-of-00004")).unlink()
    with pytest.raises(
        UserError, match=r"1 of 4 shards are missing: clevrtex_full_3x4\.tfrecords-zlib-00002-of-00004"
    ):
        find_clevrtex(root, "full")


def test_a_shard_that_was_cut_off(records: Path):
    file = next(records.rglob("*zlib*"))
    file.write_bytes(file.read_bytes()[:60_000])
    with pytest.raises(CutOff, match=r"zlib-00000-of-00001: record [01]"):
        find_clevrtex(records, "full")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "has no `image`, so it is no record of CLEVRTex"),
        ({"image_index": None}, "has no `image_index`"),
        (
            {"image": np.zeros((7, 1, 3), np.uint8)},
            "21 bytes as `image`, no picture of the aspect 240 to 320",
        ),
        ({"image": np.zeros((6, 8, 3), np.uint8)}, "ids of another size"),
        ({"num_objects": np.zeros(0, np.int64)}, "an empty `num_objects`"),
    ],
)
def test_records_of_something_else(tmp_path: Path, change: dict, message: str):
    file = tmp_path / "clevrtex_full_240x320.tfrecords-zlib-00000-of-00001"
    write_records(file, [_record(0, np.zeros((3, 4), np.uint8), **change)], Compression.ZLIB)
    with pytest.raises(UserError, match=message):
        find_clevrtex(tmp_path, "full")


def test_one_broken_record_among_others_is_met_when_it_is_read(tmp_path: Path):
    ids = np.zeros((3, 4), np.uint8)
    file = tmp_path / "clevrtex_full_240x320.tfrecords-zlib-00000-of-00001"
    broken = _record(1, ids, image=None)
    write_records(file, [_record(0, ids), broken, _record(2, ids)], Compression.ZLIB)
    clips = open_dataset("clevrtex", tmp_path, "full", replace(CONFIG, crop=None), True)
    states = []
    for index in range(len(clips)):
        try:
            states.append(clips.sample(index, None)["name"])
        except CorruptRecord as error:
            assert error.record == 1 and "has no `image`" in str(error)
    assert len(clips) == 3 and len(states) == 2

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.movi_files import copy_movi, cut_frames, flip_byte, rewrite, shard
from data.opened import movi_clips, prepared_clips
from data.published import extract_published
from torchslots.data import prepare as module
from torchslots.data.catalog import open_dataset
from torchslots.data.clips import Clips
from torchslots.data.config import DataConfig
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.prepare import data_prepare, prepare
from torchslots.data.transforms import Sample
from torchslots.io.errors import UserError

ALL = ("video", "segmentations", "boxes", "flow", "depth")
CONFIG = DataConfig(dataset="movi_a", keys=ALL, resolution=16, max_instances=10, num_frames=7)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(module, "_VIDEOS_PER_SHARD", 3)


def _equal(one: Sample, other: Sample) -> bool:
    tensors = (torch.equal(one[key], other[key]) for key in one if key != "name")
    kinds = (one[key].dtype == other[key].dtype for key in one if key != "name")
    return one.keys() == other.keys() and one["name"] == other["name"] and all(tensors) and all(kinds)


def _assert_alike(clips: Clips, prepared: Clips) -> None:
    assert len(prepared) == len(clips)
    for index in range(len(clips)):
        assert prepared.name(index) == clips.name(index)
        for seed in (None, 0, 1, 2, 3):
            samples = [
                data.sample(index, None if seed is None else np.random.default_rng(seed))
                for data in (clips, prepared)
            ]
            assert _equal(*samples), f"example {index}, seed {seed}"


@pytest.mark.parametrize(
    "changes",
    [
        {"resolution": 32},
        {"resolution": 16},
        {"resolution": 20, "depth_transform": "invert_plus"},
        {"resolution": 24, "min_object_covered": 0.75},
        {"resolution": 16, "crop": (2, 4, 24, 20), "square": True},
        {"resolution": 16, "crop": (2, 4, 24, 20), "min_object_covered": 0.75},
        {"resolution": 16, "max_objects": 5},
    ],
)
def test_prepared_samples_equal_direct_ones(tmp_path: Path, changes: dict):
    copy_movi("a", tmp_path / "data")
    config = replace(CONFIG, **changes)
    clips = movi_clips(tmp_path / "data", "train", config)
    assert prepare(clips, tmp_path / "out").num_videos == len(clips) > 0
    _assert_alike(clips, prepared_clips(tmp_path / "out", "train", config, True))
    longer = replace(config, num_frames=30)
    whole = movi_clips(tmp_path / "data", "train", longer, False)
    _assert_alike(whole, prepared_clips(tmp_path / "out", "train", longer, False))


def test_types_are_as_narrow_as_exactness_allows(tmp_path: Path):
    copy_movi("a", tmp_path / "data")
    for resolution, kind in ((32, np.uint8), (16, np.uint16), (20, np.float32)):
        clips = movi_clips(tmp_path / "data", "train", replace(CONFIG, resolution=resolution))
        folder = prepare(clips, tmp_path / str(resolution)).folder / "00000"
        kinds = {file.stem: np.load(file).dtype for file in folder.glob("*.npy")}
        assert kinds["video"] == kind and kinds["flow"] == kinds["segmentations"] == np.uint8


def test_videos_of_different_lengths(tmp_path: Path):
    rewrite(shard(copy_movi("a", tmp_path / "data")), lambda example: cut_frames(example, 9))
    clips = movi_clips(tmp_path / "data", "train", CONFIG)
    prepare(clips, tmp_path / "out")
    _assert_alike(clips, prepared_clips(tmp_path / "out", "train", CONFIG, True))


def test_fewer_keys_and_other_clip_lengths_need_no_new_preparation(tmp_path: Path):
    copy_movi("a", tmp_path / "data")
    prepare(movi_clips(tmp_path / "data", "train", CONFIG), tmp_path / "out")
    config = replace(CONFIG, keys=("video", "boxes"), num_frames=3)
    _assert_alike(
        movi_clips(tmp_path / "data", "train", config),
        prepared_clips(tmp_path / "out", "train", config, True),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 32}, "`resolution` = 16, the recipe has 32"),
        ({"square": True}, "`square` = False, the recipe has True"),
        ({"max_instances": 4}, "`max_instances` = 10, the recipe has 4"),
        ({"min_object_covered": 0.5}, "`random_crop` = False, the recipe has True"),
        ({"depth_transform": "log"}, "`depth_transform` = 'log_plus', the recipe has 'log'"),
        ({"keys": ("video", "depth")}, "was prepared without `depth`"),
    ],
)
def test_the_field_that_differs_is_named(tmp_path: Path, changes: dict, message: str):
    copy_movi("a", tmp_path / "data")
    config = replace(CONFIG, keys=("video", "segmentations"))
    prepare(movi_clips(tmp_path / "data", "train", config), tmp_path / "out")
    with pytest.raises(UserError, match=message):
        prepared_clips(tmp_path / "out", "train", replace(config, **changes), True)


def test_a_folder_is_not_mixed(tmp_path: Path):
    copy_movi("a", tmp_path / "data")
    prepare(movi_clips(tmp_path / "data", "train", CONFIG), tmp_path / "out")
    other = movi_clips(tmp_path / "data", "train", replace(CONFIG, resolution=8))
    with pytest.raises(UserError, match="was prepared with `resolution` = 16, now it is 8"):
        prepare(other, tmp_path / "out")


def test_interrupted_work_goes_on(tmp_path: Path, monkeypatch):
    copy_movi("a", tmp_path / "data")
    clips = movi_clips(tmp_path / "data", "train", CONFIG)
    whole = clips.stored

    def until_the_last(index: int) -> Sample:
        if index == 3:
            raise KeyboardInterrupt
        return whole(index)

    monkeypatch.setattr(clips, "stored", until_the_last)
    with pytest.raises(KeyboardInterrupt):
        prepare(clips, tmp_path / "out")
    with pytest.raises(UserError, match="is not finished"):
        prepared_clips(tmp_path / "out", "train", CONFIG, True)
    done = (tmp_path / "out" / "train" / "00000" / "video.npy").stat().st_mtime_ns
    monkeypatch.undo()
    monkeypatch.setattr(module, "_VIDEOS_PER_SHARD", 3)
    prepare(clips, tmp_path / "out")
    assert (tmp_path / "out" / "train" / "00000" / "video.npy").stat().st_mtime_ns == done
    _assert_alike(clips, prepared_clips(tmp_path / "out", "train", CONFIG, True))


@pytest.mark.slow
def test_worker_processes_write_the_same(tmp_path: Path):
    copy_movi("a", tmp_path / "data")
    clips = movi_clips(tmp_path / "data", "train", CONFIG)
    assert prepare(clips, tmp_path / "out", num_workers=2).num_videos == 4
    assert (tmp_path / "out" / "train" / "00001" / "video.npy").exists()
    _assert_alike(clips, prepared_clips(tmp_path / "out", "train", CONFIG, True))


def test_corrupt_records_end_the_work_or_are_left_out(tmp_path: Path):
    flip_byte(shard(copy_movi("a", tmp_path / "data")), 5000)
    clips = movi_clips(tmp_path / "data", "train", CONFIG)
    with pytest.raises(CorruptRecord, match="record 0"):
        prepare(clips, tmp_path / "out")
    done = prepare(clips, tmp_path / "out", skip_corrupt=True)
    assert done.num_videos == 3 and len(done.left_out) == 1 and "record 0" in done.left_out[0]
    prepared = prepared_clips(tmp_path / "out", "train", CONFIG, True)
    assert [prepared.name(i) for i in range(3)] == [clips.name(i) for i in range(1, 4)]


def test_command_prepares_each_split(tmp_path: Path, capsys: pytest.CaptureFixture):
    copy_movi("a", tmp_path / "data")
    data_prepare(tmp_path / "data", tmp_path / "out", splits=("train",), config=CONFIG)
    assert "out/train: 4 videos" in capsys.readouterr().out
    assert len(prepared_clips(tmp_path / "out", "train", replace(CONFIG, dataset="prepared"), True)) == 4


def test_nothing_prepared_broken_files_and_unsuitable_data(tmp_path: Path):
    with pytest.raises(UserError, match="holds nothing prepared"):
        prepared_clips(tmp_path, "train", CONFIG, True)
    copy_movi("a", tmp_path / "data")
    clips = movi_clips(tmp_path / "data", "train", CONFIG)
    prepare(clips, tmp_path / "out")
    array = tmp_path / "out" / "train" / "00001" / "video.npy"
    array.write_bytes(array.read_bytes()[:100])
    prepared = prepared_clips(tmp_path / "out", "train", CONFIG, True)
    with pytest.raises(UserError, match=r"video\.npy cannot be read"):
        prepared.sample(3, None)
    with pytest.raises(UserError, match="This data set cannot be prepared"):
        prepare(prepared, tmp_path / "twice")
    meta = tmp_path / "out" / "train" / "meta.json"
    meta.write_text(json.dumps({"made_for": {}})[:-2])
    with pytest.raises(UserError, match=r"meta\.json is not JSON.*data prepare` again"):
        prepared_clips(tmp_path / "out", "train", CONFIG, True)


# Photographs: labels, crops and chunks


@pytest.mark.parametrize(
    "changes",
    [
        {"eval_crop": "center", "train_crop": "center", "interpolation": "bicubic"},
        {
            "eval_crop": "square",
            "train_crop": "square",
            "keys": ("video", "segmentations", "classes", "boxes"),
        },
        {"square": True, "crowds": "uncovered", "interpolation": "bicubic_antialias"},
        {"pre_resize": 20, "square": True, "crowds": "objects"},
    ],
)
def test_prepared_photographs_equal_direct_ones(tmp_path: Path, changes: dict):
    root = extract_published("coco", tmp_path / "data")
    config = replace(CONFIG, dataset="coco", keys=("video", "segmentations"), num_frames=1, max_instances=2)
    config = replace(config, **changes)
    clips = open_dataset("coco", root, "validation", config, True)
    prepare(clips, tmp_path / "ready")
    _assert_alike(clips, prepared_clips(tmp_path / "ready", "validation", config))
    assert (tmp_path / "ready" / "validation" / "00000" / "ignore.npy").exists()


def test_whole_frames_are_kept_where_training_cuts_and_mirrors(tmp_path: Path):
    root = extract_published("davis", tmp_path / "data")
    config = replace(
        CONFIG, dataset="davis_2017", keys=("video", "segmentations"), resolution=16, num_frames=2
    )
    config = replace(
        config, train_crop="random", eval_crop="square", flip=0.5, windows="chunks", label_size=24
    )
    data_prepare(root, tmp_path / "ready", splits=("train",), config=config)
    for train in (True, False):
        clips = open_dataset("davis_2017", root, "train", config, train)
        _assert_alike(clips, prepared_clips(tmp_path / "ready", "train", config, train))


def test_short_videos_are_prepared_too(tmp_path: Path):
    root = extract_published("davis", tmp_path / "data")
    config = replace(
        CONFIG, dataset="davis_2017", keys=("video",), square=True, num_frames=3, windows="chunks"
    )
    data_prepare(root, tmp_path / "ready", splits=("validation",), config=config)
    assert [
        len(prepared_clips(tmp_path / "ready", "validation", config, train)) for train in (True, False)
    ] == [1, 2]


def test_labels_of_other_rules_are_refused_and_old_arrays_are_not(tmp_path: Path):
    root = extract_published("coco", tmp_path / "data")
    config = replace(CONFIG, dataset="coco", keys=("video", "segmentations"), square=True, num_frames=1)
    prepare(open_dataset("coco", root, "validation", config, True), tmp_path / "ready")
    with pytest.raises(UserError, match="prepared with `crowds` = 'ignore', the recipe has 'uncovered'"):
        prepared_clips(tmp_path / "ready", "validation", replace(config, crowds="uncovered"))
    meta = tmp_path / "ready" / "validation" / "meta.json"
    made = json.loads(meta.read_text())
    for field in ("overlaps", "crowds", "void", "pre_resize", "interpolation", "eval_crop"):
        del made["made_for"][field]
    del made["crc32c"]
    meta.write_text(json.dumps(made))
    assert len(prepared_clips(tmp_path / "ready", "validation", config)) == 4
    with pytest.raises(
        UserError, match="prepared with `interpolation` = 'bilinear', the recipe has 'bicubic'"
    ):
        prepared_clips(tmp_path / "ready", "validation", replace(config, interpolation="bicubic"))


def test_overlaps_that_are_an_error_are_not_prepared(tmp_path: Path):
    root = extract_published("coco", tmp_path / "data")
    config = replace(CONFIG, dataset="coco", keys=("video", "segmentations"), num_frames=1, overlaps="error")
    for changes in ({"square": True}, {"flip": 0.5}):
        clips = open_dataset("coco", root, "validation", replace(config, **changes), True)
        with pytest.raises(CorruptRecord, match="annotations 131 and 149 overlap"):
            prepare(clips, tmp_path / str(changes))

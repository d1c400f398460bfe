"""Whole data sets: the same bytes however they are made, resumed, and described for TFDS."""

import json
import multiprocessing
import signal
import time
from typing import Any

import pytest

from torchslots.data.sets.movi import MoviReader
from torchslots.io.errors import UserError
from torchslots.sim import generate_videos as write
from torchslots.sim import tfds_info
from torchslots.sim.generate_videos import generate

TINY: dict[str, Any] = {
    "train": 5,
    "validation": 2,
    "resolution": 16,
    "num_frames": 3,
    "samples": 1,
    "max_objects": 4,
}


@pytest.fixture(autouse=True)
def two_videos_in_a_shard(monkeypatch):
    monkeypatch.setattr(write, "_SHARD_LENGTH", 2)
    monkeypatch.setattr(write, "_FEWEST_SHARDS", 1)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "_SHARD_LENGTH", 2)
        patch.setattr(write, "_FEWEST_SHARDS", 1)
        return contents(generate(tmp_path_factory.mktemp("reference"), workers=1, **TINY))


def test_files(reference):
    shards = [name for name in reference if "tfrecord" in name]
    assert shards == [f"sim_a-train.tfrecord-0000{i}-of-00003" for i in range(3)] + [
        "sim_a-validation.tfrecord-00000-of-00001"
    ]
    info = json.loads(reference["dataset_info.json"])
    assert [split["shardLengths"] for split in info["splits"]] == [["1", "2", "2"], ["2"]]
    payload = sum(len(reference[name]) for name in shards[:3]) - 16 * 5
    assert info["splits"][0]["numBytes"] == str(payload)


def test_more_workers_write_the_same_bytes(reference, tmp_path):
    assert contents(generate(tmp_path, workers=2, **TINY)) == reference


def test_parts_make_the_whole(reference, tmp_path, capsys):
    folder = generate(tmp_path, workers=1, shard="1/2", **TINY)
    assert "2 of 4 shards are left" in capsys.readouterr().out
    assert not (folder / "dataset_info.json").exists()
    assert len([name for name in contents(folder) if "tfrecord" in name]) == 2
    assert contents(generate(tmp_path, workers=1, shard="0/2", **TINY)) == reference


def test_another_run_makes_only_what_is_missing(reference, tmp_path, monkeypatch):
    folder = generate(tmp_path, workers=1, **TINY)
    (folder / "sim_a-train.tfrecord-00001-of-00003").unlink()
    (folder / "dataset_info.json").unlink()
    made, make = [], write.video_record

    def counting(settings, split, index):
        made.append((split, index))
        return make(settings, split, index)

    monkeypatch.setattr(write, "video_record", counting)
    assert contents(generate(tmp_path, workers=1, **TINY)) == reference
    assert made == [("train", 1), ("train", 2)]


def test_a_killed_run_leaves_only_whole_shards(reference, tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_slow_run, args=(tmp_path,))
    process.start()
    folder = tmp_path / "sim_a" / "16x16" / "1.0.0"
    first = folder / "sim_a-train.tfrecord-00000-of-00003"
    deadline = time.monotonic() + 60
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.pid is not None
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = {name: data for name, data in contents(folder).items() if "tfrecord" in name and name[0] != "."}
    assert 1 <= len(done) < 4
    assert all(reference[name] == data for name, data in done.items())
    assert contents(generate(tmp_path, workers=1, **TINY)) == reference


def _slow_run(root):
    write._SHARD_LENGTH, write._FEWEST_SHARDS = 2, 1
    make = write.video_record

    def slow(settings, split, index):
        time.sleep(0.4)
        return make(settings, split, index)

    write.video_record = slow
    generate(root, workers=1, **TINY)


def test_video_depends_on_split_index_and_seed(tmp_path):
    settings = write.Settings("a", {"train": 3}, 16, 2, 0, 1, (3, 3))
    records = [
        write.video_record(settings, *which) for which in (("train", 0), ("train", 1), ("validation", 0))
    ]
    assert len(set(records)) == 3
    assert write.video_record(settings, "train", 1) == records[1]


def test_every_split_is_readable(tmp_path):
    generate(tmp_path, workers=1, test=1, **TINY)
    for split, count in (("train", 5), ("validation", 2), ("test", 1)):
        reader = MoviReader(tmp_path, "sim_a", split)
        assert len(reader) == count
        names = [reader.example(i, ["metadata/video_name"])["metadata/video_name"] for i in range(count)]
        assert [name.decode() for name in names] == [f"{split}_{i}" for i in range(count)]


@pytest.mark.parametrize("variant", ["a", "c", "e"])
def test_features_are_those_of_the_published_sets(golden, variant):
    folder = golden / f"data_movi_{variant}" / f"movi_{variant}" / "32x32" / "1.0.0"
    assert tfds_info.features(variant, 32, 24) == json.loads((folder / "features.json").read_text())
    for name, text in tfds_info.label_files(variant).items():
        assert text == (folder / name).read_text()


def test_other_settings_do_not_mix(tmp_path):
    generate(tmp_path, workers=1, **TINY)
    with pytest.raises(UserError, match="seed"):
        generate(tmp_path, workers=1, seed=1, **TINY)


def test_damaged_settings_are_named(tmp_path):
    folder = generate(tmp_path, workers=1, **TINY)
    (folder / "generated.json").write_text("{")
    with pytest.raises(UserError, match=r"generated\.json .*Delete .* and generate again"):
        generate(tmp_path, workers=1, **TINY)


@pytest.mark.parametrize("shard", ["2/2", "x", "1/0", "-1/3", "1"])
def test_impossible_part(tmp_path, shard):
    with pytest.raises(UserError, match="i/n"):
        generate(tmp_path, workers=1, shard=shard, **TINY)


@pytest.mark.parametrize(
    "change",
    [{"max_objects": 0}, {"min_objects": 9}, {"resolution": 4}, {"train": 0, "validation": 0}, {"seed": -1}],
)
def test_impossible_settings(tmp_path, change):
    with pytest.raises(UserError):
        generate(tmp_path, workers=1, **(TINY | change))
    assert not list(tmp_path.iterdir())


def test_unknown_variant():
    with pytest.raises(UserError, match="choose one of a, c, e"):
        write.object_counts("f", None, None)


def test_object_counts_follow_what_is_asked():
    assert write.object_counts("a", None, None) == (3, 10)
    assert write.object_counts("e", None, None) == (11, 23)
    assert write.object_counts("e", None, 4) == (4, 4)
    assert write.object_counts("a", 12, None) == (12, 12)
    assert write.object_counts("a", 2, 5) == (2, 5)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "sim_a").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        generate(tmp_path, workers=1, **TINY)


def test_full_disk(tmp_path, monkeypatch):
    def full(path, records):
        raise UserError(f"{path} cannot be written: No space left on device.")

    monkeypatch.setattr(write, "write_records", full)
    with pytest.raises(UserError, match="No space left"):
        generate(tmp_path, workers=1, **TINY)


def test_a_dying_worker_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "video_record", _die)
    with pytest.raises(UserError, match="worker process died"):
        generate(tmp_path, workers=2, **TINY)


def _die(settings, split, index):
    signal.raise_signal(signal.SIGKILL)

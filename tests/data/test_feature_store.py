"""The store of features, with an encoder of a few sums."""

import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data.movi_files import copy_movi, cut_frames, flip_byte, rewrite, shard
from data.opened import movi_clips
from torchslots.data import feature_store as module
from torchslots.data.catalog import open_dataset
from torchslots.data.clips import Clips
from torchslots.data.config import DataConfig
from torchslots.data.feature_store import Layout, Plan, Stored, plan, store
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.inspect import data_inspect
from torchslots.data.sets.prepared_features import FeatureArrays, preprocessing
from torchslots.io import files
from torchslots.io.errors import UserError

CONFIG = DataConfig(dataset="movi_a", keys=("video",), resolution=16, num_frames=5, square=True)
LAYOUT = Layout((2, 2), 3, True)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    """Two videos of 24 frames in each."""
    monkeypatch.setattr(module, "_SHARD_BYTES", 2 * 24 * LAYOUT.frame_bytes)


def encode(frames: Tensor) -> Mapping[str, np.ndarray]:
    """Mean colours of quarters, and the same negated."""
    means = torch.nn.functional.adaptive_avg_pool2d(frames, 2).flatten(2).transpose(1, 2)
    return {"features": means.half().numpy(), "feature_keys": -means.half().numpy()}


def _clips(root: Path) -> Clips:
    return movi_clips(root, "train", CONFIG)


def _store(clips: Clips, out: Path, layout: Layout = LAYOUT, encode=encode, **options) -> Stored:
    planned = plan(clips, out / "train_features", layout)
    made = preprocessing(CONFIG) | {"backbone": "abc"}
    return store(clips, planned, made, encode, black=torch.zeros(1, 3, 16, 16), frames_at_once=7, **options)


def _read(out: Path, **changes) -> Clips:
    config = replace(CONFIG, keys=("features", "feature_keys"), **changes)
    return open_dataset("prepared", out, "train_features", config, True)


def _assert_stored(clips: Clips, stored: Clips) -> None:
    assert [stored.name(i) for i in range(len(stored))] == [clips.name(i) for i in range(len(clips))]
    for index in range(len(clips)):
        for seed in (None, 0, 1):
            one, other = (
                data.sample(index, None if seed is None else np.random.default_rng(seed))
                for data in (clips, stored)
            )
            expected = encode(one["video"])
            for key, values in expected.items():
                assert other[key].dtype == torch.float16 and np.array_equal(other[key].numpy(), values), (
                    index,
                    seed,
                )


@pytest.mark.parametrize("workers", [0, 1])
def test_every_frame_is_stored_once(tmp_path: Path, workers: int):
    clips = _clips(copy_movi("a", tmp_path / "data"))
    planned = plan(clips, tmp_path / "out" / "train_features", LAYOUT)
    assert planned.num_frames == [24] * 4 and planned.shards == [range(2), range(2, 4)]
    assert planned.num_bytes == 96 * 2 * 2 * 2 * 3 * 2
    done = _store(clips, tmp_path / "out", num_workers=workers)
    array = np.load(done.folder / "00001" / "feature_keys.npy", mmap_mode="r")
    assert done.num_videos == 4 and array.shape == (48, 4, 3) and array.dtype == np.float16
    assert done.num_bytes == planned.num_bytes + 4 * 128  # headers
    _assert_stored(clips, _read(tmp_path / "out"))


def test_videos_of_different_lengths(tmp_path: Path):
    rewrite(shard(folder := copy_movi("a", tmp_path / "data")), lambda example: cut_frames(example, 9))
    clips = _clips(folder)
    _store(clips, tmp_path / "out")
    _assert_stored(clips, _read(tmp_path / "out"))


def test_a_killed_store_goes_on(tmp_path: Path):
    """The process is killed in the second shard; the first is not computed again."""
    copy_movi("a", tmp_path / "data")
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from data import test_feature_store as tests
frames = 0
def encode(values):
    global frames
    frames += len(values)
    if frames > 60:
        os.kill(os.getpid(), signal.SIGKILL)
    return tests.encode(values)
tests.module._SHARD_BYTES = 2 * 24 * tests.LAYOUT.frame_bytes
tests._store(tests._clips(Path({str(tmp_path / "data")!r})), Path({str(tmp_path / "out")!r}), encode=encode)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    folder = tmp_path / "out" / "train_features"
    assert (folder / "00000" / "index.json").exists() and not (folder / "00001").exists()
    assert list(folder.glob(".00001.*.part"))
    with pytest.raises(UserError, match=r"is not finished. Run the same `torchslots data prepare` again"):
        _read(tmp_path / "out")
    seen: list[int] = []

    def counting(frames: Tensor) -> Mapping[str, np.ndarray]:
        seen.append(len(frames))
        return encode(frames)

    clips = _clips(tmp_path / "data")
    _store(clips, tmp_path / "out", encode=counting)
    assert sum(seen) == 1 + 48 and not list(folder.glob(".*.part"))
    _assert_stored(clips, _read(tmp_path / "out"))
    seen.clear()
    _store(clips, tmp_path / "out", encode=counting)
    assert seen == [1]


def test_corrupt_records_end_the_work_or_are_left_out(tmp_path: Path):
    flip_byte(shard(folder := copy_movi("a", tmp_path / "data")), 5000)
    clips = _clips(folder)
    with pytest.raises(CorruptRecord, match="record 0"):
        _store(clips, tmp_path / "out")
    done = _store(clips, tmp_path / "out", skip_corrupt=True)
    assert done.num_videos == 3 and len(done.left_out) == 1 and "record 0" in done.left_out[0]
    stored = _read(tmp_path / "out")
    assert [stored.name(i) for i in range(3)] == [clips.name(i) for i in range(1, 4)]
    assert np.array_equal(
        stored.sample(0, None)["features"].numpy(), encode(clips.sample(1, None)["video"])["features"]
    )


def test_a_folder_is_not_mixed(tmp_path: Path):
    clips = _clips(copy_movi("a", tmp_path / "data"))
    _store(clips, tmp_path / "out")
    with pytest.raises(UserError, match=r"features with `size` = 3, now it is 5. Choose another folder"):
        _store(clips, tmp_path / "out", Layout((2, 2), 5, True))
    planned = plan(clips, tmp_path / "out" / "train_features", LAYOUT)
    for made, message in (
        (preprocessing(CONFIG) | {"backbone": "abd"}, "`backbone` = 'abc', now it is 'abd'"),
        (
            preprocessing(replace(CONFIG, interpolation="bicubic")),
            "`interpolation` = 'bilinear', now it is 'bicubic'",
        ),
    ):
        with pytest.raises(UserError, match=message):
            module.begin(planned, made)


def test_too_little_space_is_said_before_anything_is_computed(tmp_path: Path, monkeypatch):
    clips = _clips(copy_movi("a", tmp_path / "data"))
    monkeypatch.setattr(
        files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": files.SPARE + 4607})()
    )

    def never(frames: Tensor) -> Mapping[str, np.ndarray]:
        raise AssertionError(len(frames))

    with pytest.raises(UserError, match=r"needs 4,608 bytes more, but only .* are free. Free some space"):
        _store(clips, tmp_path / "out", encode=never)


def test_a_disk_that_fills_up_is_one_message_and_the_rest_goes_on(tmp_path: Path):
    clips = _clips(copy_movi("a", tmp_path / "data"))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    calls: list[int] = []

    def filling(frames: Tensor) -> Mapping[str, np.ndarray]:
        calls.append(len(frames))
        if len(calls) == 11:
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
        return encode(frames)

    try:
        with pytest.raises(
            UserError, match=r"00001 cannot be written: No space left on device.*Finished shards stay"
        ):
            _store(clips, tmp_path / "out", encode=filling)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    folder = tmp_path / "out" / "train_features"
    assert (
        (folder / "00000").exists() and not (folder / "00001").exists() and not list(folder.glob(".*.part"))
    )
    _store(clips, tmp_path / "out")
    _assert_stored(clips, _read(tmp_path / "out"))


def test_a_shard_that_is_cut_off_or_gone(tmp_path: Path):
    clips = _clips(copy_movi("a", tmp_path / "data"))
    done = _store(clips, tmp_path / "out")
    array = done.folder / "00001" / "features.npy"
    array.write_bytes(array.read_bytes()[:-10])
    stored = _read(tmp_path / "out")
    assert stored.sample(0, None)["features"].shape == (24, 4, 3)
    with pytest.raises(UserError, match=r"00001/features\.npy cannot be read.*Remove its folder and run"):
        stored.sample(3, None)
    (done.folder / "00000" / "index.json").unlink()
    with pytest.raises(
        UserError, match=r"00000/index\.json cannot be read.*Remove its folder and prepare again"
    ):
        len(_read(tmp_path / "out"))


def test_frames_of_another_size_and_values_beyond_float16(tmp_path: Path):
    clips = _clips(copy_movi("a", tmp_path / "data"))
    with pytest.raises(UserError, match="give 4 patches, the recipe's 6: they are not 2 x 3"):
        _store(clips, tmp_path / "out", Layout((2, 3), 3, True))

    def huge(frames: Tensor) -> Mapping[str, np.ndarray]:
        with np.errstate(over="ignore"):
            return {
                key: (values.astype(np.float32) * 1e6).astype(np.float16)
                for key, values in encode(frames).items()
            }

    with pytest.raises(UserError, match=r"not finite in float16. Store them with --feature-type float32"):
        _store(clips, tmp_path / "other", encode=huge)


def test_two_processes_do_not_write_one_folder(tmp_path: Path):
    clips = _clips(copy_movi("a", tmp_path / "data"))
    lock = tmp_path / "out" / "train_features" / ".lock"
    program = (
        "import sys, time; from pathlib import Path; from torchslots.io.files import locked\n"
        f"with locked(Path({str(lock)!r})):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="Another process is storing features in"):
            _store(clips, tmp_path / "out")
        other.kill()


def test_features_are_no_frames(tmp_path: Path, capsys):
    clips = _clips(copy_movi("a", tmp_path / "data"))
    _store(clips, tmp_path / "out")
    with pytest.raises(UserError, match=r"asks for `video`, which stored features lacks. It has: features, "):
        open_dataset("prepared", tmp_path / "out", "train_features", CONFIG, True)
    source = FeatureArrays(tmp_path / "out", "train_features", replace(CONFIG, keys=()))
    assert (source.grid, source.size, source.backbone) == ((2, 2), 3, "abc") and len(source) == 4
    data_inspect(str(tmp_path / "out"), out=tmp_path / "sheet.png")
    said = capsys.readouterr().out
    assert "train_features" in said and "float16 [24, 4, 3]" in said and not (tmp_path / "sheet.png").exists()


def test_plan_of_a_video_that_cannot_be_counted(tmp_path: Path):
    class Broken:
        def __len__(self) -> int:
            return 2

        def num_frames(self, index: int) -> int:
            if index:
                raise CorruptRecord(Path("file"), index, "is broken")
            return 10

    found: Plan = plan(Broken(), tmp_path, LAYOUT)  # type: ignore[arg-type]
    assert found.num_frames == [10, 0] and found.shards == [range(2)] and found.frames([0]) == 10


def test_features_are_not_copied_before_they_are_put_into_a_batch(tmp_path: Path):
    """Nor does a change of what was read change the files."""
    copy_movi("a", tmp_path)
    _store(_clips(tmp_path), tmp_path / "out")
    config = replace(CONFIG, dataset="prepared", keys=("features", "feature_keys"))
    source = FeatureArrays(tmp_path / "out", "train_features", config)
    read = source.open(1, config.keys).read(2, 7)
    whole = np.load(tmp_path / "out" / "train_features" / "00000" / "features.npy")
    np.testing.assert_array_equal(read["features"], whole[26:31])
    assert not read["features"].flags.owndata and read["features"].flags.writeable
    read["features"][:] = 5
    again = np.load(tmp_path / "out" / "train_features" / "00000" / "features.npy")
    np.testing.assert_array_equal(again, whole)

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.movi_files import GOLDEN, VERSION, copy_movi, cut_frames, edit_info, forget_info, rewrite, shard
from data.opened import movi_clips
from torchslots.data.config import DataConfig
from torchslots.data.formats.png import decode_png, encode_png
from torchslots.data.formats.tfds import find_folder
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.sets.movi import MoviReader, Ragged
from torchslots.io.errors import UserError

ALL = ("video", "segmentations", "boxes", "flow", "depth")
CONFIG = DataConfig(dataset="movi_a", keys=ALL, resolution=24, max_instances=10)


def _arrays(example: dict[str, Any]) -> dict[str, np.ndarray]:
    arrays = {}
    for name, value in example.items():
        if isinstance(value, Ragged):
            arrays[f"{name}#flat"], arrays[f"{name}#row_lengths"] = value
        else:
            arrays[name] = value
    return arrays


def _described(array: np.ndarray) -> dict[str, Any]:
    data = b"\0".join(array.tolist()) if array.dtype == object else array.tobytes()
    kind = array.dtype.str if array.dtype.kind == "S" else array.dtype.name
    return {"dtype": kind, "shape": list(array.shape), "sha256_24": hashlib.sha256(data).hexdigest()[:24]}


@pytest.mark.parametrize(
    ("letter", "split", "count"), [("a", "train", 4), ("c", "validation", 1), ("e", "train", 1)]
)
def test_every_array_of_every_example_is_what_tfds_reads(tmp_path: Path, letter: str, split: str, count: int):
    copy_movi(letter, tmp_path)
    index = json.loads((GOLDEN / f"data_movi_{letter}" / "expected_index.json").read_text())
    reader = MoviReader(tmp_path, f"movi_{letter}", split)
    assert len(reader) == count
    for i in range(count):
        expected = index[f"{split}/{i}"]
        assert reader.name(i) == expected["tfds_id"]
        found = {name: _described(array) for name, array in _arrays(reader.example(i)).items()}
        assert found == expected["arrays"]


def test_one_example_against_its_recorded_arrays(tmp_path: Path):
    copy_movi("a", tmp_path)
    expected = np.load(GOLDEN / "data_movi_a" / "expected_tfds_train_0.npz")
    found = {
        name.replace("/", "."): array for name, array in _arrays(MoviReader(tmp_path).example(0)).items()
    }
    for name in set(expected.files) - {"metadata.video_name"}:
        np.testing.assert_array_equal(found[name], expected[name])
    assert found["metadata.video_name"] == b"64"


@pytest.mark.parametrize("letter", ["a", "e"])
def test_whole_video_as_savis_pipeline_prepares_it(tmp_path: Path, letter: str):
    copy_movi(letter, tmp_path)
    expected = np.load(GOLDEN / f"data_movi_{letter}" / "expected_savi_eval24_down_train_0.npz")
    clips = movi_clips(
        tmp_path, "train", replace(CONFIG, dataset=f"movi_{letter}", num_frames=24), train=False
    )
    sample = clips.sample(0, None)
    for key, tolerance in (("video", 1e-6), ("depth", 1e-6), ("segmentations", 0), ("boxes", 0)):
        found = sample[key].numpy()
        found = np.moveaxis(found, 1, -1) if key in ("video", "depth") else found
        recorded = np.log1p(expected[key]) if key == "depth" else expected[key]
        np.testing.assert_allclose(found, recorded, rtol=0, atol=tolerance)
    steps = np.abs(np.moveaxis(sample["flow"].numpy(), 1, -1) - expected["flow"]) * 255
    assert steps.max() <= 1.01 and (steps > 0.5).mean() < 1e-4, (
        "flow is cut to 255 levels: rounding may move one"
    )
    assert sample["padding_mask"].all() and (expected["padding_mask"] == 1).all()


def test_a_clip_is_a_window_of_the_whole_video(tmp_path: Path):
    copy_movi("a", tmp_path)
    clips = movi_clips(tmp_path, "train", CONFIG)
    whole = clips.sample(2, None)
    starts = set()
    for seed in range(12):
        clip = clips.sample(2, np.random.default_rng(seed))
        start = next(s for s in (0, 6, 12, 18) if torch.equal(clip["video"], whole["video"][s : s + 6]))
        starts.add(start)
        for key in (*ALL, "padding_mask"):
            torch.testing.assert_close(clip[key], whole[key][start : start + 6], rtol=0, atol=0)
    assert starts == {0, 6, 12, 18}


def test_short_videos_are_padded(tmp_path: Path):
    rewrite(shard(copy_movi("a", tmp_path)), lambda example: cut_frames(example, 8))
    clips = movi_clips(tmp_path, "train", CONFIG)
    tails = [clips.sample(0, np.random.default_rng(seed)) for seed in range(8)]
    tail = next(clip for clip in tails if not clip["padding_mask"].all())
    assert tail["padding_mask"][:2].all() and not tail["padding_mask"][2:].any()
    assert (tail["video"][2:] == 0).all() and (tail["boxes"][2:] == 0).all() and (tail["boxes"][0] != 0).any()
    assert len(clips.sample(0, None)["video"]) == 8
    assert len(movi_clips(tmp_path, "train", CONFIG, train=False).sample(0, None)["video"]) == 6


def test_only_the_frames_and_features_of_the_clip_are_decoded(tmp_path: Path, monkeypatch):
    folder = copy_movi("a", tmp_path)
    decoded = []
    monkeypatch.setattr(
        "torchslots.data.formats.png.decode_png", lambda data: decoded.append(data) or decode_png(data)
    )
    clips = movi_clips(folder, "train", replace(CONFIG, keys=("video", "segmentations")))
    sample = clips.sample(0, np.random.default_rng(0))
    assert len(decoded) == 12 and sample.keys() == {"video", "segmentations", "padding_mask", "name"}


def test_objects_beyond_max_instances_have_no_boxes_but_masks(tmp_path: Path):
    copy_movi("a", tmp_path)
    all_ids = movi_clips(tmp_path, "train", CONFIG).sample(0, None)["segmentations"]
    sample = movi_clips(tmp_path, "train", replace(CONFIG, max_instances=2)).sample(0, None)
    assert all_ids.max() > 2 and sample["boxes"].shape[1] == 2
    assert torch.equal(sample["segmentations"], all_ids)


def test_videos_of_at_most_so_many_objects(tmp_path: Path):
    copy_movi("a", tmp_path)
    reader = MoviReader(tmp_path)
    counts = [int(reader.example(i, ["metadata/num_instances"])["metadata/num_instances"]) for i in range(4)]
    most = sorted(counts)[1]
    clips = movi_clips(tmp_path, "train", replace(CONFIG, max_objects=most))
    kept = [i for i in range(4) if counts[i] <= most]
    assert 0 < len(kept) < 4 and [clips.name(i) for i in range(len(clips))] == [reader.name(i) for i in kept]
    assert clips.sample(len(kept) - 1, None)["name"] == reader.name(kept[-1])


def test_a_part_of_the_frame_made_square(tmp_path: Path):
    copy_movi("a", tmp_path)
    native = movi_clips(tmp_path, "train", replace(CONFIG, resolution=32)).sample(0, None)
    part = movi_clips(
        tmp_path, "train", replace(CONFIG, resolution=16, crop=(0, 8, 32, 16), square=True)
    ).sample(0, None)
    assert torch.equal(part["segmentations"], native["segmentations"][:, 1::2, 8:24])
    assert part["video"].shape == (24, 3, 16, 16)
    with pytest.raises(UserError, match=r"rows 0 to 40 .* but the frames are 32 x 32"):
        movi_clips(tmp_path, "train", replace(CONFIG, crop=(0, 0, 40, 40))).sample(0, None)


@pytest.mark.parametrize("below", ["", "movi_a", f"movi_a/{VERSION}"])
def test_any_parent_folder_will_do(tmp_path: Path, below: str):
    copy_movi("a", tmp_path)
    assert len(MoviReader(tmp_path / below)) == 4


def test_the_folders_own_data_set_is_taken_under_any_name(tmp_path: Path):
    assert len(MoviReader(copy_movi("e", tmp_path), "movi_a")) == 1


def test_resolution_and_version_are_chosen_by_what_is_there(tmp_path: Path):
    for place in ("64x64/1.0.0", "128x128/1.0.0", "128x128/1.2.0", "256x256/1.0.0"):
        (tmp_path / "movi_a" / place).mkdir(parents=True)
        (tmp_path / "movi_a" / place / "movi_a-train.tfrecord-00000-of-00001").touch()
    for wanted, found in (
        (0, "64x64/1.0.0"),
        (100, "128x128/1.2.0"),
        (128, "128x128/1.2.0"),
        (512, "256x256/1.0.0"),
    ):
        assert find_folder(tmp_path, "movi_a", wanted).path == tmp_path / "movi_a" / found


def test_without_dataset_info_files_are_found_by_name(tmp_path: Path):
    folder = copy_movi("a", tmp_path)
    names = [MoviReader(tmp_path).name(i) for i in range(4)]
    forget_info(folder)
    reader = MoviReader(tmp_path)
    assert [reader.name(i) for i in range(4)] == names


def test_part_of_the_shards_listed_with_the_names_of_all(tmp_path: Path):
    folder = copy_movi("a", tmp_path)
    for file in sorted(folder.glob("*-train*")):
        file.rename(file.with_name(file.name.replace("-of-00002", "-of-00512")))
    file = folder / "dataset_info.json"
    info = json.loads(file.read_text())
    for entry in info["splits"]:
        entry["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}-of-00512"
    file.write_text(json.dumps(info))
    reader = MoviReader(tmp_path)
    assert reader.name(3) == "movi_a-train.tfrecord-00001-of-00512__1" and "video" in reader.example(3)


def _remove_first_shard(folder: Path) -> None:
    shard(folder).unlink()


def _remove_first_shard_and_info(folder: Path) -> None:
    _remove_first_shard(folder)
    forget_info(folder)


def _break_info(folder: Path) -> None:
    (folder / "dataset_info.json").write_text("{")


def _foreign_info(folder: Path) -> None:
    (folder / "dataset_info.json").write_text('{"splits": {"train": 4}}')


@pytest.mark.parametrize(
    ("damage", "split", "message"),
    [
        (
            _remove_first_shard,
            "train",
            r"1 of 2 shards of `train` are missing: movi_a-train\.tfrecord-00000-of-00002",
        ),
        (_remove_first_shard_and_info, "train", r"missing: movi_a-train\.tfrecord-00000-of-00002"),
        (_break_info, "train", r"dataset_info\.json is not JSON"),
        (_foreign_info, "train", r"dataset_info\.json does not list splits as TFDS writes them"),
        (lambda folder: None, "test", "no split `test`. It has: train, validation"),
        (lambda folder: None, "validation", "1 of 1 shards of `validation` are missing"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, damage: Callable[[Path], None], split: str, message: str):
    damage(copy_movi("a", tmp_path))
    with pytest.raises(UserError, match=message):
        MoviReader(tmp_path, "movi_a", split)


def test_other_data_in_the_folder_are_named(tmp_path: Path):
    copy_movi("e", tmp_path)
    with pytest.raises(
        UserError, match=r"no files of movi_a .*It holds movi_e/.*torchslots data download movi_a"
    ):
        MoviReader(tmp_path, "movi_a")
    with pytest.raises(UserError, match="is no folder"):
        MoviReader(tmp_path / "nowhere", "movi_a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="It holds nothing"):
        MoviReader(tmp_path / "empty", "movi_a")


def test_record_counts_must_agree_with_dataset_info(tmp_path: Path):
    folder = copy_movi("a", tmp_path)
    edit_info(folder, "train", [3, 2])
    with pytest.raises(
        CorruptRecord, match=r"record 2 is missing: dataset_info.json lists 3 records, the file has 2"
    ):
        MoviReader(tmp_path).example(2)
    edit_info(folder, "train", [1, 2])
    with pytest.raises(UserError, match=r"holds 2 records, but dataset_info.json beside it lists 1"):
        MoviReader(tmp_path).example(0)


def test_missing_feature_is_named(tmp_path: Path):
    rewrite(
        shard(copy_movi("a", tmp_path)),
        lambda example: [example.pop(k) for k in list(example) if "flow" in k],
    )
    with pytest.raises(UserError, match="record 0 has no feature `forward_flow`"):
        movi_clips(tmp_path, "train", CONFIG).sample(0, None)
    assert "video" in movi_clips(tmp_path, "train", replace(CONFIG, keys=("video",))).sample(0, None)
    with pytest.raises(UserError, match="asks for `sound`, which MOVi lacks"):
        movi_clips(tmp_path, "train", replace(CONFIG, keys=("video", "sound")))


def test_forward_flow_stands_in_for_backward_flow(tmp_path: Path):
    folder = copy_movi("a", tmp_path)
    forward = MoviReader(folder).example(0, ["forward_flow"])["forward_flow"]
    rewrite(shard(folder), lambda example: [example.pop(k) for k in list(example) if "backward_flow" in k])
    stored = movi_clips(tmp_path, "train", CONFIG).stored(0)
    np.testing.assert_array_equal(np.moveaxis(stored["flow"].numpy(), 1, -1), forward)


def _cut_image(example: dict[str, Any]) -> None:
    example["video"][3] = example["video"][3][:60]


def _no_image(example: dict[str, Any]) -> None:
    example["video"][3] = b"GIF89a" + bytes(60)


def _other_size(example: dict[str, Any]) -> None:
    example["video"][3] = encode_png(np.zeros((8, 8, 3), np.uint8))


def _few_flows(example: dict[str, Any]) -> None:
    example["backward_flow"] = example["backward_flow"][:-1]


def _boxes_of_no_frame(example: dict[str, Any]) -> None:
    example["instances/bboxes/ragged_row_lengths_0"] = np.array([1])


def _no_frames(example: dict[str, Any]) -> None:
    example["metadata/num_frames"] = np.array([0])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_image, "broken feature `video`"),
        (_no_image, "an image that is no PNG"),
        (_other_size, "frame 3 is uint8"),
        (_few_flows, "broken feature `backward_flow`"),
        (_boxes_of_no_frame, "rows do not make"),
        (_no_frames, "has no frames"),
    ],
)
def test_broken_contents_are_a_corrupt_record(tmp_path: Path, damage: Callable[[Any], None], message: str):
    file = shard(copy_movi("a", tmp_path))
    rewrite(file, damage)
    with pytest.raises(CorruptRecord, match=message) as caught:
        movi_clips(tmp_path, "train", CONFIG).sample(1, None)
    assert (caught.value.file, caught.value.record) == (file, 1)


def test_png_of_16_bits_and_broken_ones():
    grey = np.arange(48, dtype=np.uint16).reshape(6, 8, 1) * 1300
    np.testing.assert_array_equal(decode_png(encode_png(grey)), grey)
    assert decode_png(encode_png(grey)).dtype == np.uint16


def test_only_the_first_records(tmp_path: Path):
    copy_movi("a", tmp_path)
    assert len(movi_clips(tmp_path, "train", replace(CONFIG, num_records=3))) == 3

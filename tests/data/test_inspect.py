import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import opened
from data.movi_files import copy_movi
from recorded import GOLDEN
from torchslots.data.config import DataConfig
from torchslots.data.formats.tfrecord import RecordFile, write_records
from torchslots.data.inspect import data_inspect, inspect_dataset
from torchslots.data.prepare import prepare
from torchslots.io import video
from torchslots.io.errors import UserError


@pytest.fixture
def movi(tmp_path) -> Path:
    """A copy, since some tests damage it; its last training example is also the validation split."""
    copy_movi("a", tmp_path)
    last = RecordFile(shard(tmp_path, 1)).read(1)
    write_records(shard(tmp_path).with_name("movi_a-validation.tfrecord-00000-of-00001"), [last])
    return tmp_path


def shard(root: Path, number: int = 0) -> Path:
    return root / "movi_a" / "32x32" / "1.0.0" / f"movi_a-train.tfrecord-{number:05d}-of-00002"


def damage(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.parametrize("by_name", [True, False])
def test_movi_is_described_counted_and_drawn(movi, by_name):
    sheet = movi / "sheet.png"
    if by_name:
        survey = inspect_dataset("movi_a", root=movi, out=sheet, check=True)
    else:
        survey = inspect_dataset(str(movi), out=sheet, check=True)
    assert survey.splits == {
        "train": "2 files of 1.8 MB, 4 examples",
        "validation": "1 file of 0.5 MB, 1 example",
    }
    assert survey.features["video"] == "uint8 [24, 32, 32, 3]"
    assert survey.features["backward_flow"] == "uint16 [24, 32, 32, 2]"
    assert survey.metadata["metadata/num_frames"] == "24"
    assert survey.objects == {3: 1, 4: 1, 6: 3}
    assert (survey.num_checked, survey.corrupt) == (5, [])
    with Image.open(sheet) as image:
        picture = np.asarray(image)
    assert picture.shape[1] > 6 * 128 and picture.shape[0] > 10 * 128, (
        "five videos, frames and masks, six columns"
    )
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1000


def test_one_split(movi):
    assert list(inspect_dataset("movi_a", root=movi, split="validation").splits) == ["validation"]
    with pytest.raises(UserError, match=r"no split `test`. It has: train, validation"):
        inspect_dataset("movi_a", root=movi, split="test")


def test_a_flipped_bit_is_found_by_file_and_record(movi):
    damage(shard(movi, 1), 100_000)
    survey = inspect_dataset("movi_a", root=movi, check=True)
    assert [(error.file, error.record) for error in survey.corrupt] == [(shard(movi, 1), 0)]
    assert "checksum" in survey.corrupt[0].reason
    assert survey.objects.total() == 4, "what can be read is still described"


def test_a_cut_shard_loses_only_what_is_gone(movi):
    content = shard(movi).read_bytes()
    shard(movi).write_bytes(content[: len(content) - 1000])
    survey = inspect_dataset("movi_a", root=movi, check=True)
    assert [(error.file, error.record) for error in survey.corrupt] == [(shard(movi), 1)]
    assert survey.num_checked == 5


def test_a_missing_shard_is_told_and_the_rest_is_shown(movi):
    shard(movi).unlink()
    survey = inspect_dataset("movi_a", root=movi)
    assert "1 of 2 shards of `train` are missing" in survey.splits["train"]
    assert survey.splits["validation"].endswith("1 example")


def test_the_command_prints_all_and_ends_with_an_error_on_corrupt_records(movi, capsys):
    damage(shard(movi, 1), 100_000)
    with pytest.raises(UserError, match=r"1 of 5 examples of .* are corrupt; they are listed above"):
        data_inspect("movi_a", root=movi, out=movi / "sheet.png", check=True)
    shown = capsys.readouterr().out
    assert "Objects in a video: 3 to 6" in shown and "Checked 5 examples: 1 corrupt" in shown
    assert f"{shard(movi, 1)}  record 0: " in shown
    assert (movi / "sheet.png").exists()


def test_nothing_readable_at_all(movi):
    for file in (movi / "movi_a" / "32x32" / "1.0.0").glob("*.tfrecord*"):
        damage(file, 50)
        damage(file, file.stat().st_size // 2 + 50_000)
        damage(file, file.stat().st_size - 10)
    with pytest.raises(UserError, match=r"record \d does not match its checksum|record \d .*"):
        inspect_dataset("movi_a", root=movi)


def own_clips(root: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), dtype=np.uint8)
    video.write_video(root / "clip.mp4", frames)
    video.write_png(root / "still.png", frames[0])
    ids = np.zeros((5, 24, 32), np.uint8)
    ids[:, 4:9, 4:9], ids[:, 12:20, 12:20] = 1, 2
    (root / "masks").mkdir()
    np.save(root / "masks" / "clip.npy", ids)
    np.save(root / "masks" / "still.npy", ids[:1])
    return root


def test_a_folder_of_ones_own(tmp_path):
    root = own_clips(tmp_path / "mine")
    survey = inspect_dataset(str(root), out=tmp_path / "sheet.png", check=True)
    assert survey.splits == {"all": "2 clips, 2 with masks, 2 examples"}
    assert survey.features == {"video": "uint8 [5, 24, 32, 3]", "segmentations": "int32 [5, 24, 32]"}
    assert survey.metadata == {"name": "clip.mp4", "num_frames": "5"}
    assert survey.objects == {2: 2} and not survey.corrupt
    assert (tmp_path / "sheet.png").exists()
    assert inspect_dataset("folder", root=root).splits == survey.splits


def test_corrupt_clips_of_a_folder_are_listed(tmp_path):
    root = own_clips(tmp_path / "mine")
    film = root / "clip.mp4"
    film.write_bytes(film.read_bytes()[:-200])
    np.save(root / "masks" / "still.npy", np.zeros((2, 24, 32), np.uint8))
    np.save(root / "masks" / "other.npy", np.zeros((1, 24, 32), np.uint8))
    video.write_png(root / "other.png", np.zeros((24, 32, 3), np.uint8))
    survey = inspect_dataset(str(root), check=True)
    assert [error.file.name for error in survey.corrupt] == ["clip.mp4", "still.png"]
    assert "is truncated" in survey.corrupt[0].reason and "masks for 2 frames" in survey.corrupt[1].reason


def test_prepared_arrays(tmp_path):
    config = DataConfig(dataset="folder", resolution=16, keys=("video", "segmentations", "boxes"))
    prepare(opened.own_clips(own_clips(tmp_path / "mine"), "train", config, True), tmp_path / "out")
    survey = inspect_dataset(str(tmp_path / "out"), out=tmp_path / "sheet.png", check=True)
    assert survey.splits["train"].endswith("1 example")
    assert survey.features["video"] in ("float32 [5, 16, 16, 3]", "float32 [1, 16, 16, 3]")
    assert survey.features["boxes"].endswith("23, 4]") and (tmp_path / "sheet.png").exists()


def test_neither_a_name_nor_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"movie_a is no folder.*no data set `movie_a`. Did you mean movi_a"):
        inspect_dataset("movie_a")
    with pytest.raises(UserError, match="is empty"):
        (tmp_path / "empty").mkdir()
        inspect_dataset(str(tmp_path / "empty"))


RECORDED = GOLDEN


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize(
    ("name", "folder", "splits", "objects", "feature"),
    [
        ("tetrominoes", "", {"train": 12, "validation": 12}, {3: 24}, "segmentations"),
        (
            "clevr",
            "tfds/clevr/3.1.0",
            {"train": 4, "train_eval": 4, "validation": 2, "test": 1},
            None,
            "properties",
        ),
    ],
)
def test_sets_of_single_pictures_are_described_counted_and_drawn(
    tmp_path, name, folder, splits, objects, feature, by_name
):
    place = tmp_path / name
    shutil.copytree(RECORDED / f"data_{name}", place, ignore=shutil.ignore_patterns(".torchslots"))
    source, root = (name, tmp_path) if by_name else (str(place / folder), None)
    survey = inspect_dataset(source, root=root, out=tmp_path / "sheet.png", check=True)
    counted = {split: f"{count} example{'s' * (count > 1)}" for split, count in splits.items()}
    assert survey.splits == {split: f"single images, {text}" for split, text in counted.items()}
    assert survey.dataset == name and feature in survey.features
    assert objects is None or survey.objects == objects
    assert (survey.num_checked, survey.corrupt) == (sum(splits.values()), [])
    with Image.open(tmp_path / "sheet.png") as image:
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 10


def test_a_split_whose_file_is_missing_is_told_beside_the_others(tmp_path):
    place = tmp_path / "objects_room"
    shutil.copytree(RECORDED / "data_objects_room", place, ignore=shutil.ignore_patterns(".torchslots"))
    survey = inspect_dataset("objects_room", root=tmp_path)
    assert survey.splits["six_objects"] == "single images, 4 examples"
    assert "holds no objects_room_test_empty_room.tfrecords" in survey.splits["empty_room"]

"""Slots of a data set in files: complete, joined by name, and the same after an interruption."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import torchslots
from data.movi_files import copy_movi
from recipes.test_isa import TINY as ISA
from tiny_models import TINY
from torchslots.cli import main
from torchslots.evaluation.videos import whole_videos
from torchslots.inference import slot_files
from torchslots.inference.slot_files import SlotFileOptions, write_slots
from torchslots.inference.videos import KEYS, VideosOptions, settings_of
from torchslots.io.errors import UserError
from torchslots.recipes import isa, savi

WHERE = "--data movi_a --split train --num-frames 5 --slice-size 2 --batch-size 1 --num-workers 0".split()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    copy_movi("a", tmp_path / "data")
    torch.manual_seed(0)
    decoder = replace(TINY.decoder, grid=(4, 4))
    config = replace(TINY, resolution=(16, 16), decoder=decoder, conditioning="gaussian")
    savi.build(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def arrays(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.glob("*.npz"))
    each = [dict(np.load(file)) for file in files]
    return {key: np.concatenate([part[key] for part in each]) for key in each[0]}


def test_all_videos_are_there_by_name_and_resuming_gives_the_same(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    root, out, other = tmp_path / "data", tmp_path / "whole", tmp_path / "cut"
    words = ["slots", str(model), "--root", str(root), *WHERE, "--shard-size", "3"]
    assert main([*words, "--out", str(out)]) == 0
    assert "2 files" in capsys.readouterr().out
    found = arrays(out)
    dataset = torchslots.open_dataset("movi_a", root, frames=5, resolution=16)
    names = [dataset[i]["name"] for i in range(len(dataset))]
    assert found["slots"].shape == (20, 5, 12) and found["id"].tolist() == [
        n for n in names for _ in range(5)
    ]
    assert found["video"].tolist() == [i for i in range(4) for _ in range(5)]
    assert found["frame"].tolist() == list(range(5)) * 4

    def stop(file: Path, videos: list) -> None:
        if videos[0].number:
            raise KeyboardInterrupt
        write(file, videos)

    write = slot_files._WRITERS["npz"]  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setitem(slot_files._WRITERS, "npz", stop)  # pyright: ignore[reportPrivateUsage]
    assert main([*words, "--out", str(other)]) == 130
    assert [file.name for file in sorted(other.glob("slots_*"))] == ["slots_00000.npz"]
    monkeypatch.setitem(slot_files._WRITERS, "npz", write)  # pyright: ignore[reportPrivateUsage]
    read: list[int] = []
    take = slot_files._From.sample  # pyright: ignore[reportPrivateUsage]

    def counted(own, index, rng):
        read.append(own.first + index)
        return take(own, index, rng)

    monkeypatch.setattr(slot_files._From, "sample", counted)  # pyright: ignore[reportPrivateUsage]
    assert main([*words, "--out", str(other)]) == 0
    assert read == [3]
    again = arrays(other)
    assert all(np.array_equal(again[key], found[key]) for key in found)
    assert main([*words, "--out", str(other)]) == 0 and read == [3]


def test_slots_are_those_of_the_model(model: Path, tmp_path: Path) -> None:
    ready = torchslots.load_model(model)
    options = VideosOptions(data="movi_a", split="train", num_frames=5, slice_size=2, batch_size=4)
    data, settings = settings_of(model, ready, options, KEYS)
    dataset = whole_videos(data, settings, tmp_path / "data")
    (file,) = write_slots(ready, dataset, tmp_path / "out", data=data, settings=settings)
    video = dataset.sample(2, None)["video"][None]
    from torchslots.models.slots.seeding import seeded

    batch = seeded({"video": video, "name": [dataset.name(2)]}, settings.seed)
    if "name" in dataset.sample(2, None):
        batch = seeded({"video": video, "name": [dataset.sample(2, None)["name"]]}, settings.seed)
    wanted = ready.predict(batch).slots[0].numpy()
    found = np.load(file)
    np.testing.assert_allclose(found["slots"][found["video"] == 2], wanted, atol=1e-5)


def test_another_model_or_other_data_are_refused_and_so_are_wrong_options(
    model: Path, tmp_path: Path, capsys
) -> None:
    words = ["slots", str(model), "--root", str(tmp_path / "data"), "--out", str(tmp_path / "out"), *WHERE]
    assert main(words) == 0
    assert main([*words, "--num-frames", "4"]) == 2
    assert "holds slots of something else" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([*words, "--out", str(tmp_path / "file" / "below")]) == 2
    said = capsys.readouterr().err.replace("Running on cpu.\n", "")
    assert said.count("\n") == 1 and "cannot be written" in said
    assert main([*words, "--shard-size", "0"]) == 2
    assert "shard_size should be at least 1" in capsys.readouterr().err
    with pytest.raises(UserError, match="no format `csv`"):
        SlotFileOptions(format="csv")  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_parquet_holds_the_same_slots_and_poses_and_resumes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    small = isa.CnnDecoderConfig(grid=(4, 4), channels=(8, 8), strides=(2, 2))
    config = replace(ISA, resolution=(16, 16), decoder=small, invariance="rotation")
    isa.build(config).save_pretrained(tmp_path / "posed")
    words = ["slots", str(tmp_path / "posed"), "--root", str(tmp_path / "data"), *WHERE, "--shard-size", "3"]
    assert main([*words, "--out", str(tmp_path / "npz")]) == 0
    words = [*words, "--format", "parquet", "--out", str(tmp_path / "parquet")]

    def stop(file: Path, videos: list) -> None:
        write(file, videos)
        if videos[0].number:
            raise KeyboardInterrupt

    write = slot_files._WRITERS["parquet"]  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setitem(slot_files._WRITERS, "parquet", stop)  # pyright: ignore[reportPrivateUsage]
    assert main(words) == 130
    assert [file.name for file in sorted((tmp_path / "parquet").glob("slots_*"))] == ["slots_00000.parquet"]
    monkeypatch.setitem(slot_files._WRITERS, "parquet", write)  # pyright: ignore[reportPrivateUsage]
    assert main(words) == 0
    files = sorted((tmp_path / "parquet").glob("*.parquet"))
    wanted, table = arrays(tmp_path / "npz"), parquet.read_table(files)
    size = wanted["slots"].shape[:2]
    for name, key in (
        ("values", "slots"),
        ("position", "position"),
        ("scale", "scale"),
        ("rotation", "rotation"),
    ):
        found = np.stack(table[name].to_numpy())
        assert found.dtype == np.float32 and np.array_equal(found.reshape(wanted[key].shape), wanted[key])
    for name in ("id", "video", "frame"):
        assert table[name].to_pylist() == np.repeat(wanted[name], size[1]).tolist()
    assert table["slot"].to_pylist() == list(range(size[1])) * size[0]

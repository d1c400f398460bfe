"""Files that a file manager leaves are no data, wherever they lie."""

from pathlib import Path

import numpy as np

from torchslots.data.find import folders, names
from torchslots.data.sets import frame_folders
from torchslots.data.sets.recognise import recognise
from torchslots.io import video


def litter(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".DS_Store").write_bytes(b"?")
    (folder / ".Trashes").mkdir(exist_ok=True)
    for file in [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]:
        (folder / f"._{file.name}").write_bytes(b"?")


def test_records_are_recognised_beside_resource_forks(tmp_path):
    (tmp_path / "movi_a-train.tfrecord-00000-of-00001").write_bytes(b"?")
    litter(tmp_path)
    assert recognise(tmp_path) == "movi_a"
    assert names(tmp_path) == ["movi_a-train.tfrecord-00000-of-00001"]
    assert [folder.name for folder in folders(tmp_path, "data")] == [tmp_path.name]


def test_folders_of_frames_are_recognised_beside_them(tmp_path):
    base = tmp_path / "MOVi-D"
    for split in ("train", "validation"):
        place = base / split / "00000000"
        for t in range(2):
            video.write_png(place / f"{t:06d}.png", np.zeros((8, 8, 3), np.uint8))
            (place / f"{t:06d}.png").rename(place / f"{t:06d}.jpg")
            video.write_png(place / f"{t:06d}_mask.png", np.zeros((8, 8), np.uint8))
        litter(place)
        litter(base / split)
    litter(base)
    assert frame_folders.recognise(base) == "movi_d_frames"

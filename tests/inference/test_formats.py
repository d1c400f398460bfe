"""Tracks and slots in the formats of other programs, read back and compared with tracks.json and slots.npz."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from tiny_models import tiny
from torchslots.inference.outputs import decode_mask
from torchslots.inference.predict import PredictOptions, predict, predict_frames
from torchslots.io.errors import UserError
from torchslots.io.video import write_video


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), np.uint8)
    write_video(folder / "film.mp4", frames, 10)
    save = ("tracks", "slots")
    (done,) = predict(
        tiny("learned"),
        folder / "film.mp4",
        folder / "out",
        save=save,
        format=("csv", "coco", "mot"),
        rollout=1,
    )
    return done


@pytest.fixture(scope="module")
def tracks(result: Path) -> dict:
    return json.loads((result / "tracks.json").read_text())


def test_tables_have_a_line_for_each_slot_of_each_frame(result: Path, tracks: dict) -> None:
    with (result / "tracks.csv").open() as file:
        rows = list(csv.DictReader(file))
    wanted = [
        [frame["frame"], each["slot"], *each["box"], each["area"], frame.get("predicted", False)]
        for frame in tracks["frames"]
        for each in frame["objects"]
    ]
    assert list(rows[0]) == ["frame", "slot", "ymin", "xmin", "ymax", "xmax", "area", "predicted"]
    found = [[float(v) for v in list(row.values())[:-1]] + [row["predicted"] == "True"] for row in rows]
    assert found == wanted and rows[-1]["predicted"] == "True"
    with (result / "slots.csv").open() as file:
        rows = list(csv.DictReader(file))
    slots = np.load(result / "slots.npz")["slots"]
    values = np.array([[float(row[f"d{i}"]) for i in range(slots.shape[2])] for row in rows], np.float32)
    assert np.array_equal(values.reshape(slots.shape), slots)
    assert [(int(row["frame"]), int(row["slot"])) for row in rows] == list(np.ndindex(*slots.shape[:2]))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, decoding
def test_coco_masks_are_those_of_the_tracks(result: Path, tracks: dict) -> None:
    found = json.loads((result / "coco_video.json").read_text())
    (video,) = found["videos"]
    assert (video["length"], video["height"], video["width"]) == (5, *tracks["size"])
    wanted = {
        (each["slot"], frame["frame"]): each
        for frame in tracks["frames"]
        for each in frame["objects"]
        if each["slot"]
    }
    seen = 0
    for each in found["annotations"]:
        assert len(each["segmentations"]) == len(each["bboxes"]) == len(each["areas"]) == 5
        for frame, (mask, box, area) in enumerate(zip(each["segmentations"], each["bboxes"], each["areas"])):
            own = wanted.get((each["slot"], frame))
            assert (mask is None) == (own is None)
            if own is not None:
                pixels = coco.decode(mask).astype(bool)
                assert (
                    np.array_equal(pixels, decode_mask(own["mask"])) and area == own["area"] == pixels.sum()
                )
                assert list(coco.toBbox(mask)) == box
                seen += 1
    assert seen == len(wanted) > 0


def test_mot_lines_are_boxes_of_objects(result: Path, tracks: dict) -> None:
    found = [
        [int(part) for part in line.split(",")] for line in (result / "mot.txt").read_text().splitlines()
    ]
    height, width = tracks["size"]
    wanted = []
    for frame in tracks["frames"]:
        for each in frame["objects"]:
            top, left, bottom, right = (
                round(side * (height, width)[i % 2]) for i, side in enumerate(each["box"])
            )
            if each["slot"]:
                wanted.append(
                    [frame["frame"] + 1, each["slot"], left, top, right - left, bottom - top, 1, -1, -1, -1]
                )
    assert found == wanted


def test_what_is_done_is_not_done_again_and_another_format_is(result: Path, capsys) -> None:
    source, out = result.parents[1] / "film.mp4", result.parent
    before = (result / "mot.txt").stat().st_mtime_ns
    how = {"save": ("tracks", "slots"), "rollout": 1}
    predict(tiny("learned"), source, out, format=("mot",), **how)
    assert "inputs were done" in capsys.readouterr().err and (result / "mot.txt").stat().st_mtime_ns == before


def test_unknown_formats_and_missing_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no format `xml`. Choose from: csv, parquet, coco, mot"):
        PredictOptions(format=("xml",))
    monkeypatch.setattr("torchslots.inference.formats.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'torchslots\[tables\]'"):
        PredictOptions(format=("parquet",))


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_parquet_is_the_same_table(result: Path) -> None:
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    source, out = result.parents[1] / "film.mp4", result.parent
    predict(tiny("learned"), source, out, save=("tracks", "slots"), format=("parquet",), rollout=1)
    with (result / "tracks.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = parquet.read_table(result / "tracks.parquet").to_pylist()
    assert [{key: str(value) for key, value in row.items()} for row in found] == rows
    found = parquet.read_table(result / "slots.parquet")
    slots = np.load(result / "slots.npz")["slots"]
    values = np.stack([found[f"d{i}"].to_numpy() for i in range(slots.shape[2])], -1)
    assert values.dtype == np.float32 and np.array_equal(values.reshape(slots.shape), slots)
    places = list(zip(found["frame"].to_pylist(), found["slot"].to_pylist()))
    assert places == list(np.ndindex(*slots.shape[:2]))


def test_predictions_are_shown(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)
    found = predict_frames(tiny("learned"), frames)
    assert np.array_equal(found.frames, frames)
    image = found.show(num_frames=2)
    assert image is not None
    assert image.size == (2 * (4 * 48 + 4) - 4, 2 * (4 * 32 + 4) - 4)
    assert np.array_equal(np.asarray(image)[: 4 * 32 : 4, : 4 * 48 : 4], frames[0])
    assert found._repr_png_()[:4] == b"\x89PNG" and "3 frames, 5 slots" in found._repr_html_()
    batch = {"video": torch.rand(1, 2, 3, 16, 24)}
    direct = tiny("learned").predict(batch)
    shown = direct.show()
    assert (
        shown is not None
        and shown.size[0] > 2 * 128
        and "1 clip of 2 frames, 5 slots" in direct._repr_html_()
    )

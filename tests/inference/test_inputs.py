"""Which files are inputs, where their results and hints are, and what happens to those that fail or are done."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tiny_models import tiny
from torchslots.inference.inputs import InputOptions, jobs_of
from torchslots.inference.predict import InputsFailed, predict
from torchslots.io import video
from torchslots.io.errors import UserError

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), np.uint8)


def film(path: Path, frames: np.ndarray = FRAMES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4":
        video.write_video(path, frames, 10)
    else:
        video.write_png(path, frames[0])
    return path


def named(inputs, out: Path, each: bool = False, **options) -> list[tuple[str, str]]:
    jobs = jobs_of(inputs, out, InputOptions(**options), each)
    return [(job.source.name, job.target.name) for job in jobs]


# --------------------------------------------------------------------------------------------- what is an input


def test_links_to_nothing_and_to_a_folder_around_them_are_left_out(tmp_path, capsys):
    film(tmp_path / "films" / "day" / "a.mp4")
    (tmp_path / "films" / "day" / "around").symlink_to(tmp_path / "films", target_is_directory=True)
    (tmp_path / "films" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    film(tmp_path / "other" / "b.mp4")
    (tmp_path / "films" / "other").symlink_to(tmp_path / "other", target_is_directory=True)
    assert named(tmp_path / "films", tmp_path / "out") == [("a.mp4", "a"), ("b.mp4", "b")]
    said = capsys.readouterr().err
    assert "day/around (a link to a folder that it lies in)" in said
    assert "gone.mp4 (a link to nothing)" in said


def test_a_stick_from_a_mac(tmp_path, capsys):
    stick = tmp_path / "usb"
    film(stick / "a.mp4")
    (stick / "._a.mp4").write_bytes(b"\0\5\x16\7")
    (stick / ".DS_Store").write_bytes(b"?")
    (stick / ".Trashes").mkdir()
    (stick / "notes.txt").write_text("?")
    film(stick / "day 1" / "b.mp4")
    film(stick / "frames" / "0.png")
    film(stick / "frames" / "1.png")
    film(stick / "day 1" / "deeper" / "c.mp4")
    (stick / "empty").mkdir()
    film(stick / "masks" / "a.png")
    assert named(stick, tmp_path / "out") == [("a.mp4", "a"), ("b.mp4", "b"), ("frames", "frames")]
    said = capsys.readouterr().err
    for part in (
        "notes.txt (neither image nor video by its name)",
        "day 1/deeper (more than one folder down)",
        "empty (no images or videos in it)",
        "masks (masks)",
    ):
        assert part in said
    assert "._a" not in said and ".DS_Store" not in said


def test_films_one_level_down_and_images_beside_folders(tmp_path):
    film(tmp_path / "only" / "below" / "a.mp4")
    assert named(tmp_path / "only", tmp_path / "out") == [("a.mp4", "a")]
    for t in range(2):
        film(tmp_path / "mixed" / f"{t}.png")
        film(tmp_path / "mixed" / "more" / f"{t}.png")
    assert named(tmp_path / "mixed", tmp_path / "out") == [("mixed", "mixed"), ("more", "more")]
    assert [name for name, _ in named(tmp_path / "mixed", tmp_path / "out", each=True)] == [
        "0.png",
        "1.png",
        "0.png",
        "1.png",
    ]


def test_stacks_and_animations_make_a_folder_many_inputs(tmp_path):
    from PIL import Image

    for name in ("a.tif", "b.webp"):
        first, *rest = [Image.fromarray(frame) for frame in FRAMES]
        first.save(tmp_path / name, save_all=True, append_images=rest)
    film(tmp_path / "c.png")
    (tmp_path / "broken.webp").write_bytes(b"no image")
    assert [name for name, _ in named(tmp_path, tmp_path / "out")] == [
        "a.tif",
        "b.webp",
        "broken.webp",
        "c.png",
    ]


# ------------------------------------------------------------------------------------------------- names, hints


@pytest.mark.parametrize(
    "names, expected",
    [
        (["x_2.png", "x.png"], ["x_2", "x"]),
        (["x.png", "x.mp4", "x_2.png"], ["x", "x_3", "x_2"]),
        (["a.mp4", "a.png"], ["a", "a_2"]),
        (["A.png", "a.mp4", "a_2.png", "A_3.png"], ["A", "a_4", "a_2", "A_3"]),
    ],
)
def test_names_never_collide(tmp_path, names, expected):
    files = [film(tmp_path / str(i) / name) for i, name in enumerate(names)]
    assert [target for _, target in named(files, tmp_path / "out")] == expected


def test_each_hint_goes_to_its_own_input(tmp_path):
    files = [film(tmp_path / name) for name in ("x_2.png", "x.png", "a.mp4", "a.png")]
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    for i, name in enumerate(("x_2", "x", "a.mp4", "a.png")):
        (boxes / f"{name}.json").write_text(json.dumps([[0, 0, 1, 0.1 * (i + 1)]]))
    jobs = jobs_of(files, tmp_path / "out", InputOptions(boxes=boxes), False)
    widths = [round(float(job.hint.boxes[0, 3]), 4) for job in jobs if job.hint.boxes is not None]
    assert widths == [0.1, 0.2, 0.3, 0.4]


# ------------------------------------------------------------------------------------------- failures, and again


@pytest.fixture
def model():
    return tiny("learned")


def times(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_one_bad_film_among_four(tmp_path, model):
    files = [film(tmp_path / f"{name}.mp4") for name in "abcd"]
    files[1].write_bytes(b"no film" * 99)
    with pytest.raises(InputsFailed, match=r"(?s)1 of 4 inputs failed:.*b.mp4.*\n3 of 4") as caught:
        predict(model, files, tmp_path / "out", save=("tracks",))
    assert [folder.name for folder in caught.value.done] == ["a", "c", "d"]
    assert caught.value.exit_code == 1 and len(caught.value.failed) == 1
    film(files[1])
    before = times(tmp_path / "out" / "a")
    assert len(predict(model, files, tmp_path / "out", save=("tracks",))) == 4
    assert times(tmp_path / "out" / "a") == before, "what is done is not done again"
    assert (tmp_path / "out" / "b" / "tracks.json").is_file()


def test_the_same_failure_of_all_is_said_once(tmp_path):
    files = [film(tmp_path / f"{name}.mp4") for name in "ab"]
    with pytest.raises(UserError, match=r"2 of 2 inputs failed: .*--boxes or --masks") as caught:
        predict(tiny("boxes"), files, tmp_path / "out")
    assert str(caught.value).count("--boxes or --masks") == 1


def test_done_is_the_same_model_input_and_options_and_all_files(tmp_path, model, capsys):
    file = film(tmp_path / "a.mp4")
    out = tmp_path / "out"

    def again(used=model, **options) -> bool:
        before = times(out / "a")
        predict(used, file, out, **{"save": ("tracks", "masks"), **options})
        return times(out / "a") != before

    predict(model, file, out, save=("tracks", "masks"))
    assert not again()
    assert "1 of 1 inputs were done" in capsys.readouterr().err
    assert not again(save=("masks",)) and not again(device="cpu")
    assert again(overwrite=True) and not again()
    assert again(seed=3) and again() and not again()
    assert again(save=("slots", "tracks", "masks")) and not again()
    (out / "a" / "masks" / "00001.png").unlink()
    assert again() and not again()
    other = tiny("learned")
    with np.errstate(all="ignore"):
        next(other.parameters()).data.add_(0.01)
    assert again(other) and again()
    film(file, FRAMES[::-1].copy())
    assert again() and not again()


def test_results_of_an_earlier_input_do_not_stay(tmp_path, model):
    file = film(tmp_path / "1" / "a.mp4")
    out = tmp_path / "out"
    predict(model, file, out, recon=True)
    assert {"overlay.mp4", "slots.mp4", "recon.mp4", "00002.png"} <= set(times(out / "a"))
    predict(model, film(tmp_path / "2" / "a.png"), out)
    assert set(times(out / "a")) == {"overlay.png", "slots.png", "slots.npz", "tracks.json", "00000.png"}
    (out / "a" / "mine.txt").write_text("kept")
    predict(model, file, out, save=("overlay",))
    assert set(times(out / "a")) == {"overlay.mp4", "mine.txt"}
    shutil.rmtree(out / ".done")
    predict(model, tmp_path / "2" / "a.png", out, save=("overlay",))
    assert set(times(out / "a")) == {"overlay.png", "mine.txt"}, "without a record the twin goes, too"


def test_more_of_the_same_result_is_added(tmp_path, model):
    file = film(tmp_path / "a.mp4")
    predict(model, file, tmp_path / "out", save=("overlay",))
    predict(model, file, tmp_path / "out", save=("tracks",))
    assert set(times(tmp_path / "out" / "a")) == {"overlay.mp4", "tracks.json"}


def test_a_damaged_film_goes_on_when_asked(tmp_path, model, capsys):
    import av

    file = tmp_path / "a.mp4"
    video.write_video(file, np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8), 10)
    with av.open(str(file)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0) if packet.size][6]
    file.write_bytes(file.read_bytes().replace(packet, packet[:9] + bytes(len(packet) - 9)))
    with pytest.raises(UserError, match=r"a.mp4 is damaged: .* frames? \d.*--allow-damaged"):
        predict(model, file, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.json"))
    (folder,) = predict(model, file, tmp_path / "out", allow_damaged=True)
    assert len(json.loads((folder / "tracks.json").read_text())["frames"]) == 12
    assert "a.mp4 is damaged, and read all the same" in capsys.readouterr().err
    with pytest.raises(UserError, match="is damaged"):
        predict(model, file, tmp_path / "out")


def test_a_hint_by_a_name_that_two_inputs_share_is_nobodys(tmp_path):
    files = [film(tmp_path / folder / "x.png") for folder in "ab"]
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    for i, name in enumerate(("x.png", "x", "x_2")):
        (boxes / f"{name}.json").write_text(json.dumps([[0, 0, 1, 0.1 * (i + 1)]]))
    jobs = jobs_of(files, tmp_path / "out", InputOptions(boxes=boxes), False)
    widths = [round(float(job.hint.boxes[0, 3]), 4) for job in jobs if job.hint.boxes is not None]
    assert widths == [0.2, 0.3]

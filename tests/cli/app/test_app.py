"""The app without its page: models in the list, uploads, finding, editing, what is rendered, faults."""

import json
import socket
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_models import TINY
from torchslots.cli import main
from torchslots.cli.app import command
from torchslots.cli.app.boxes import annotated, boxes_of
from torchslots.cli.app.examples import Example, Examples
from torchslots.cli.app.models import Choice, Shelf, choices, needs_of, published, runs_below
from torchslots.cli.app.render import color, frame_html, tracks_html
from torchslots.cli.app.session import Change, Session, Sessions
from torchslots.cli.app.uploads import Limits, safe_name, take
from torchslots.inference.predict import predict
from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.io.images import image_size
from torchslots.models.weights import save_pretrained
from torchslots.recipes import savi

BOXES = [(0.1, 0.1, 0.5, 0.4), (0.5, 0.5, 0.9, 0.9)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models by what they start from."""
    folder = tmp_path_factory.mktemp("work")
    for name, conditioning in (("a/boxes", "boxes"), ("learned/model", "learned"), ("masks", "masks")):
        torch.manual_seed(0)
        config = replace(TINY, conditioning=conditioning, targets=("video",))
        save_pretrained(savi.build(config).eval(), config, folder / name)
    (folder / "learned" / "checkpoints").mkdir()
    (folder / ".hidden").mkdir()
    return folder


@pytest.fixture(scope="module")
def shelf(runs: Path) -> Shelf:
    return Shelf(choices(runs, finders=(runs_below,)))


def write_film(file: Path, frames: int = 4, side: int = 24) -> Path:
    film = np.random.default_rng(frames).integers(0, 255, (frames, side, side + 8, 3), np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    video.write_video(file, film, fps=8) if frames > 1 else video.write_png(file, film[0])
    return file


@pytest.fixture
def session(tmp_path: Path, shelf: Shelf) -> Session:
    return Session(tmp_path / "session", shelf, Examples(tmp_path / "examples"), Limits(1, 9))


def test_runs_are_found_by_their_folders(runs: Path) -> None:
    found = runs_below(runs)
    assert {choice.name: choice.source for choice in found} == {
        "a/boxes": runs / "a" / "boxes",
        "learned": runs / "learned",
        "masks": runs / "masks",
    }


def test_the_given_model_comes_first_and_finders_may_be_added(runs: Path) -> None:
    shipped = [Choice("shipped", "anywhere")]
    named = choices(runs, "given", (lambda _: shipped, runs_below, published))
    assert list(named)[:2] == ["given", "shipped"] and "slotcontrast_ytvis" in named
    assert named["slotcontrast_ytvis"].note in ("", "is fetched first")


def test_what_models_need(shelf: Shelf) -> None:
    needs = {name: needs_of(shelf.open(name)) for name in ("a/boxes", "masks", "learned")}
    assert [need.hint for need in needs.values()] == ["boxes", "masks", "nothing"]
    assert not any(need.poses for need in needs.values()) and "Draw them" in needs["a/boxes"].describe()


def test_unknown_models_get_one_message(shelf: Shelf) -> None:
    with pytest.raises(UserError, match=r"no model `mask` here\. Did you mean masks"):
        shelf.open("mask")
    with pytest.raises(UserError, match="No model is chosen"):
        shelf.open(None)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("my film.mp4", "my_film.mp4"),
        ("<img src=x onerror=alert(1)>.MP4", "img_src_x_onerror_alert_1.mp4"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\a.png", "a.png"),
        ("漢字.gif", "film.gif"),
        (".mp4", "mp4"),
        ("x" * 300 + ".mp4", "x" * 60 + ".mp4"),
    ],
)
def test_names_of_files_become_harmless(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_uploads_are_moved_and_numbered(tmp_path: Path) -> None:
    for expected in ("film.mp4", "film_2.mp4"):
        film = take(write_film(tmp_path / "up" / "film.mp4"), tmp_path / "in", Limits())
        assert (film.name, film.num_frames, film.first.shape) == (expected, 4, (24, 32, 3))
    assert not list((tmp_path / "up").iterdir())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: file.write_bytes(bytes((1 << 20) + 1)), "film.mp4 has .* and this app takes 1 MB"),
        (lambda file: file.write_bytes(b"no film"), "^film.mp4 .*(damaged|cannot be read)"),
        (lambda file: write_film(file, 10), "film.mp4 has 10 frames, and this app takes 9"),
    ],
)
def test_refused_uploads_get_one_message_and_are_removed(
    session: Session, tmp_path: Path, make, message
) -> None:
    file = tmp_path / "film.mp4"
    make(file)
    with pytest.raises(UserError, match=message) as caught:
        session.upload(file)
    assert str(tmp_path) not in str(caught.value)
    assert not file.exists() and not [path for path in session.folder.rglob("*") if path.is_file()]


def test_boxes_are_scaled_from_the_canvas(session: Session, tmp_path: Path) -> None:
    film = session.upload(write_film(tmp_path / "a.mp4"))._replace(boxes=(BOXES[0],))
    shown = annotated(film, tmp_path / "first.png")
    assert image_size(Path(shown["image"])) == (480, 640)
    assert shown["boxes"][0]["color"] == "rgb(230, 159, 0)"
    assert boxes_of(shown, film) == [pytest.approx(BOXES[0])]
    odd = {
        "boxes": [
            {"ymin": -5, "xmin": 0, "ymax": 240, "xmax": 9999},
            {"ymin": 3, "xmin": 3, "ymax": 3, "xmax": 3},
        ]
    }
    assert boxes_of(odd, film) == [(0.0, 0.0, 0.5, 1.0)] and boxes_of(None, film) == []


def test_finding_is_what_predict_does(session: Session, shelf: Shelf, tmp_path: Path) -> None:
    film = session.upload(write_film(tmp_path / "a.mp4"))
    found = session.find("a/boxes", BOXES)
    (alone,) = predict(shelf.open("a/boxes"), film.path, tmp_path / "alone", boxes=np.array(BOXES))
    for name in ("slots.npz", "tracks.json", "masks/00003.png"):
        assert (found.folder / name).read_bytes() == (alone / name).read_bytes()
    assert found.num_slots == 3 and found.overlay.name == "overlay.mp4"
    with zipfile.ZipFile(session.zipped()) as packed:
        written = {
            path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file()
        }
        kept = {name for name in written if not Path(name).name.startswith(".")}
        assert {name.removeprefix("a/") for name in packed.namelist()} == kept


def test_what_is_missing_gets_one_message(session: Session, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no film yet"):
        session.find("a/boxes")
    session.upload(write_film(tmp_path / "a.png", 1))
    for model, message in (
        ("a/boxes", "starts from boxes and got none. Draw a box"),
        ("masks", "starts from masks and got none. Give an indexed"),
        ("nothing", "no model `nothing`"),
    ):
        with pytest.raises(UserError, match=message):
            session.find(model)
    with pytest.raises(UserError, match=r"No objects were found in a\.png yet"):
        session.edit(Change("remove", (1,)))


def test_masks_are_taken(session: Session, tmp_path: Path) -> None:
    session.upload(write_film(tmp_path / "a.png", 1))
    ids = np.zeros((24, 32), np.uint8)
    ids[3:9, 4:12], ids[12:20, 15:30] = 1, 2
    Image.fromarray(ids).save(tmp_path / "mask.png")
    assert session.find("masks", mask=tmp_path / "mask.png").num_slots == 3
    Image.fromarray(ids[:9]).save(tmp_path / "small.png")
    with pytest.raises(UserError, match="Give a mask of the frame's size") as caught:
        session.find("masks", mask=tmp_path / "small.png")
    assert str(session.folder) not in str(caught.value)


def test_frames_are_rendered_with_the_slots_that_are_on(session: Session, tmp_path: Path) -> None:
    session.upload(write_film(tmp_path / "a.mp4"))
    found = session.find("a/boxes", BOXES)
    seen = {each["slot"] for each in found.tracks["frames"][2]["objects"]}
    html = frame_html(found, 2, [0, 1, 2])
    assert html.count("<figure>") == 3 and html.count("<rect") == len(seen - {0})
    alone = frame_html(found, 2, [1])
    assert alone.count("<figure>") == 1 and "slot 1" in alone and "slot 2" not in alone
    assert "switched off" in frame_html(found, 2, []) and color(1) == "#e69f00"
    rows = tracks_html(found, 2)
    assert rows.count("<tr>") == 1 + len(found.tracks["slots"]) and "4 of 4" in rows


def test_slots_are_removed_and_swapped(session: Session, tmp_path: Path) -> None:
    session.upload(write_film(tmp_path / "a.mp4"))
    session.find("a/boxes", BOXES)
    with pytest.raises(UserError, match="no second film to swap"):
        session.edit(Change("swap", (1,), partner="b.mp4", partner_slots=(1,)))
    file, note = session.edit(Change("remove", (1,)))
    assert file.name == "edited.mp4" and video.frame_count(file) == 4 and note.startswith("Slots 0 to 2")
    before = video.read_frames(file, 3, 1)
    session.upload(write_film(tmp_path / "b.mp4"))
    session.find("a/boxes", [BOXES[1], BOXES[0]])
    assert session.partners() == ["a.mp4"]
    file, _ = session.edit(Change("swap", (1, 2), partner="a.mp4", partner_slots=(2, 1)))
    assert not np.array_equal(video.read_frames(file, 3, 1), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Change("remove", ()), "No slot is chosen to remove"),
        (Change("melt", (1,)), "There is no edit `melt`"),
        (Change("remove", (7,)), "There is no slot 7"),
        (Change("move", (1,), down=0.5), "no pose to change"),
        (Change("swap", (1, 2), partner_slots=(1,)), "2 slots cannot be swapped for 1"),
    ],
)
def test_edits_that_cannot_be_get_one_message(
    session: Session, tmp_path: Path, change: Change, message: str
) -> None:
    session.upload(write_film(tmp_path / "a.png", 1))
    session.find("learned")
    with pytest.raises(UserError, match=message):
        session.edit(change)


def test_sessions_are_apart_and_leave_nothing(tmp_path: Path, shelf: Shelf) -> None:
    root = tmp_path / "files"
    sessions = Sessions(root, lambda folder: Session(folder, shelf, Examples(tmp_path / "e"), Limits()))
    one, two = sessions.get("one"), sessions.get("two")
    assert one.folder != two.folder and one is sessions.get("one") and len(one.folder.name) == 32
    one.upload(write_film(tmp_path / "a.png", 1))
    two.upload(write_film(tmp_path / "b.png", 1))
    (root / "left").write_text("by the server")
    sessions.close("one")
    assert not one.folder.exists() and two.folder.exists() and (root / "left").exists()
    sessions.close("two")
    assert len(sessions) == 0 and not list(root.iterdir())


@pytest.mark.slow
def test_examples_are_generated_with_their_boxes(tmp_path: Path, session: Session) -> None:
    session.examples = Examples(tmp_path / "examples", side=32, num_frames=3)
    film, image = session.example("film"), session.example("image")
    assert (film.num_frames, image.num_frames, film.first.shape) == (3, 1, (32, 32, 3))
    seen = [box for box in image.boxes if box[2] > 6 / 32]  # the model of 16 x 24 sees rows 5 to 26
    assert 1 <= len(seen) <= len(film.boxes) <= 5
    assert session.find("a/boxes", seen).num_slots == len(seen) + 1
    assert isinstance(session.examples.get("film"), Example)
    with pytest.raises(UserError, match="no example `sound`"):
        session.example("sound")


def test_ports_in_use_and_foreign_addresses(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(command, "require_gradio", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["app", "--port", str(port)]) == 2
    assert f"torchslots app: Port {port} is in use. Give another --port" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"192\.0\.2\.1 is no address of this machine"):
        command.free_port("192.0.2.1", None)
    assert command.free_port("127.0.0.1", None) >= 7860
    assert (
        command.is_loopback("localhost") and command.is_loopback("::1") and not command.is_loopback("0.0.0.0")
    )


def test_a_port_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="Port 70000 does not exist"):
        command.free_port("127.0.0.1", 70_000)


def test_without_gradio_the_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio_image_annotation", None)
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["app"]) == 2
    assert "pip install 'torchslots[app]'" in capsys.readouterr().err


def test_unknown_models_stop_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "require_gradio", lambda: None)
    monkeypatch.chdir(tmp_path)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE", "GRADIO_ANALYTICS_ENABLED", "GRADIO_SSR_MODE"):
        monkeypatch.setenv(name, "")
    assert main(["app", "nosuchmodel", "--device", "cpu"]) == 2
    assert "nosuchmodel does not exist here" in capsys.readouterr().err
    assert main(["app", "--max-upload", "0"]) == 2
    assert json.dumps(capsys.readouterr().err).count("max_upload should be 1 or more") == 1

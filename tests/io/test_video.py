import errno
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchslots.io import encode as writer
from torchslots.io import video
from torchslots.io.errors import UserError


def ramp(count: int = 12, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames whose grey level tells their number, with a bright square that moves."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = (20 + 3 * np.arange(count, dtype=np.uint8))[:, None, None, None]
    for t in range(count):
        frames[t, 4:12, 2 * (t % 16) : 2 * (t % 16) + 8] = (230, 60, 30)
    return frames


def encode(path: Path, frames: np.ndarray, codec: str, **options: str) -> Path:
    """A film from another program, as far as the reader can tell."""
    import av

    with av.open(str(path), "w", container_options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": "10", **options}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    return path


FILMS = {
    "clip.mp4": "libx264",
    "clip.mov": "libx264",
    "clip.mkv": "libx264",
    "clip.avi": "libx264",
    "old.avi": "mpeg4",
    "clip.webm": "libvpx-vp9",
    "clip.mpg": "mpeg2video",
}


@pytest.mark.parametrize("name", FILMS)
def test_films_are_read_whole_and_in_part(tmp_path, name):
    path = encode(tmp_path / name, ramp(50), FILMS[name])
    whole = video.read_frames(path)
    assert whole.shape == (50, 32, 48, 3) and whole.dtype == np.uint8
    assert np.abs(whole[:, -2, 4, 0].astype(int) - ramp(50)[:, -2, 4, 0]).max() <= 12
    assert (np.diff(whole[:, -2, 4, 0].astype(int)) >= 0).all(), "frames are out of order"
    assert video.frame_count(path) == 50
    assert video.fps(path) == pytest.approx(25)
    for start, count in [(0, 3), (7, 5), (37, 4), (48, 9)]:
        assert np.array_equal(video.read_frames(path, start, count), whole[start : start + count])
    assert np.array_equal(np.concatenate(list(video.iter_frames(path, 7))), whole)


def test_chunks_are_decoded_on_demand(tmp_path):
    path = encode(tmp_path / "clip.mp4", ramp(50), "libx264")
    sizes = [len(chunk) for chunk in video.iter_frames(path, 20)]
    assert sizes == [20, 20, 10]


def test_a_start_behind_the_end_is_refused(tmp_path):
    path = encode(tmp_path / "clip.mp4", ramp(5), "libx264")
    for start in (5, 40):
        with pytest.raises(UserError, match=f"has 5 frames, none from number {start} on"):
            video.read_frames(path, start)


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_written_film_plays_in_browsers_and_keeps_the_picture(tmp_path, size):
    import av

    frames = ramp(9, *size)
    video.write_video(tmp_path / "out.mp4", iter(frames), fps=12)
    back = video.read_frames(tmp_path / "out.mp4")
    assert back.shape == (9, 32 + 2 * (size[0] % 2), 48, 3)
    assert np.abs(back[:, : size[0], : size[1]].astype(int) - frames).mean() < 3
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 12
    head = (tmp_path / "out.mp4").read_bytes()
    assert head.index(b"moov") < head.index(b"mdat"), "players would wait for the whole file"


def test_colours_survive_the_film(tmp_path):
    colours = np.array([[255, 0, 0], [0, 255, 0], [40, 90, 200], [128, 128, 128]], np.uint8)
    frame = np.repeat(np.repeat(colours[None], 16, axis=1), 32, axis=0)
    video.write_video(tmp_path / "out.mp4", [frame] * 3)
    back = video.read_frames(tmp_path / "out.mp4")[1, 16, 8::16]
    assert np.abs(back.astype(int) - colours).max() <= 4


def test_without_h264_another_encoder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_H264", ("no_such_encoder",))
    with pytest.warns(UserWarning, match=r"no H.264 encoder.*browsers do not play"):
        video.write_video(tmp_path / "out.mp4", ramp(3))
    assert video.frame_count(tmp_path / "out.mp4") == 3


def test_a_phone_held_upright_gives_upright_frames(tmp_path):
    import av

    with av.open(str(tmp_path / "phone.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        if "set_display_rotation" not in dir(stream):
            pytest.skip("this PyAV cannot write a display matrix")
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.set_display_rotation(90)
        frame = np.zeros((32, 48, 3), np.uint8)
        frame[:, 24:] = 255
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    upright = video.read_frames(tmp_path / "phone.mp4")[0]
    assert upright.shape == (48, 32, 3)
    assert upright[4].min() > 240 and upright[-4].max() < 15, (
        "turned counter-clockwise, the right half is on top"
    )


def test_gif_frames_are_composed_and_loop(tmp_path):
    frames = ramp(8)
    video.write_gif(tmp_path / "out.gif", frames, fps=12)
    back = video.read_frames(tmp_path / "out.gif")
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).max() <= 8
    assert video.frame_count(tmp_path / "out.gif") == 8
    assert video.fps(tmp_path / "out.gif") == pytest.approx(12, rel=0.03)
    assert np.array_equal(video.read_frames(tmp_path / "out.gif", 3, 2), back[3:5])
    with Image.open(tmp_path / "out.gif") as image:
        assert image.info["loop"] == 0


def test_gif_that_stores_only_what_changed(tmp_path):
    first = Image.fromarray(np.full((16, 16), 1, np.uint8))
    first.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 200])
    patch = Image.fromarray(np.full((16, 16), 1, np.uint8))
    patch.paste(2, (4, 4, 8, 8))
    patch.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 200])
    first.save(tmp_path / "part.gif", save_all=True, append_images=[patch], disposal=1, duration=100)
    back = video.read_frames(tmp_path / "part.gif")
    assert back[1, 5, 5].tolist() == [0, 0, 200] and back[1, 0, 0].tolist() == [200, 0, 0]


def test_pictures_of_every_mode(tmp_path):
    rgba = np.dstack([np.full((4, 6, 3), (10, 200, 30), np.uint8), np.full((4, 6), 0, np.uint8)])
    deep = np.full((4, 6), 0x8040, np.uint16)
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(rgba[..., :3]).quantize(4).save(tmp_path / "indexed.png")
    Image.fromarray(rgba[..., 0]).save(tmp_path / "grey.webp", lossless=True)
    expected = {
        "alpha.png": [10, 200, 30],
        "deep.png": [128] * 3,
        "indexed.png": [10, 200, 30],
        "grey.webp": [10] * 3,
    }
    for name, colour in expected.items():
        assert video.read_image(tmp_path / name).shape == (4, 6, 3)
        assert video.read_image(tmp_path / name)[2, 2].tolist() == colour, name
        assert video.read_frames(tmp_path / name).shape == (1, 4, 6, 3)


def test_a_turned_photograph_is_turned_back(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "photo.jpg", exif=exif)
    assert video.read_image(tmp_path / "photo.jpg").shape == (6, 4, 3)


def test_folder_of_frames_in_natural_order(tmp_path):
    for t, frame in enumerate(ramp(12)):
        video.write_png(tmp_path / f"frame_{t}.png", frame)
    (tmp_path / "notes.txt").write_text("not a frame")
    assert np.array_equal(video.read_frames(tmp_path), ramp(12))
    assert np.array_equal(video.read_frames(tmp_path, 9, 2), ramp(12)[9:11])
    assert video.frame_count(tmp_path) == 12 and video.fps(tmp_path) is None


def test_palette_png_gives_the_ids_back(tmp_path):
    ids = np.arange(256).reshape(16, 16)
    palette = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    video.write_palette_png(tmp_path / "ids.png", ids, palette)
    with Image.open(tmp_path / "ids.png") as image:
        assert np.array_equal(np.asarray(image), ids)
    assert np.array_equal(video.read_image(tmp_path / "ids.png"), palette[ids])
    with pytest.raises(UserError, match=r"ids run from 0 to 256"):
        video.write_palette_png(tmp_path / "ids.png", np.array([[0, 256]]), palette)


def test_missing_empty_and_foreign_files_are_named(tmp_path):
    cases = {
        "gone.mp4": None,
        "zero.mp4": b"",
        "zero.png": b"",
        "text.mp4": b"hello " * 99,
        "text.png": b"hello " * 99,
    }
    for name, content in {**cases, "table.csv": b"1,2"}.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            video.read_frames(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        video.read_frames(tmp_path / "empty")


@pytest.mark.parametrize(
    "name", ["clip.mp4", "old.avi", "clip.mkv", "clip.webm", "clip.gif", "clip.png", "clip.jpg"]
)
def test_truncated_files_are_refused(tmp_path, name):
    path, noise = tmp_path / name, np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), dtype=np.uint8)
    if name in FILMS:
        encode(path, noise, FILMS[name])
    elif name == "clip.gif":
        video.write_gif(path, noise)
    else:
        Image.fromarray(noise[0]).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(UserError, match=name):
        video.read_frames(path)


@pytest.mark.parametrize(("count", "fps"), [(1, 1), (1, 0.25), (9, 1)])
def test_slow_films_of_few_frames_are_whole(tmp_path, count, fps):
    frames = np.zeros((count, 32, 48, 3), np.uint8)
    video.write_video(tmp_path / "slow.mkv", frames, fps)
    assert video.frame_count(tmp_path / "slow.mkv") == count
    assert video.read_frames(tmp_path / "slow.mkv").shape == frames.shape


def test_sound_alone_is_no_video(tmp_path):
    import av

    with av.open(str(tmp_path / "song.mkv"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UserError, match=r"song.mkv has no video track"):
        video.read_frames(tmp_path / "song.mkv")


@contextmanager
def room_for(size: int):
    """Files cannot grow past `size` bytes: the kernel's own refusal, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits")
@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out.png"])
def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"as it was")
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    with room_for(4096), pytest.raises(UserError, match=rf"{name} cannot be written: No space left"):
        if name == "out.png":
            video.write_png(tmp_path / name, noise[0])
        else:
            (video.write_video if name == "out.mp4" else video.write_gif)(tmp_path / name, noise)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"as it was"


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def frames():
        yield ramp(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        video.write_video(tmp_path / "out.mp4", frames())
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_told(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"out.png cannot be written: Permission denied"):
        video.write_png(tmp_path / "new" / "out.png", ramp(1)[0])


def test_nothing_to_write_and_a_wrong_ending(tmp_path):
    with pytest.raises(UserError, match="no frames to write"):
        video.write_video(tmp_path / "out.mp4", [])
    with pytest.raises(UserError, match=r"out.txt: videos are written as"):
        video.write_video(tmp_path / "out.txt", ramp(2))


def test_a_colon_in_a_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("run:1") / "a:b.mp4"
    video.write_video(path, np.zeros((2, 16, 16, 3), np.uint8), 5)
    assert next(video.iter_frames(path, 6)).shape == (2, 16, 16, 3)

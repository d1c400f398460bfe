"""Films as a player shows them: orientation, colours, damage."""

import struct
from pathlib import Path

import numpy as np
import pytest

from torchslots.io import films, video
from torchslots.io.errors import UserError

CORNERS = np.array([[[250, 20, 20], [20, 250, 20]], [[20, 20, 250], [240, 240, 240]]], np.uint8)
"""Four colours: red, green above blue, white."""
MATRICES = {
    # (a, b, c, d) of the display matrix: what the player does to the stored image
    (1, 0, 0, 1): lambda image: image,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (0, -1, 1, 0): lambda image: np.rot90(image, 1),
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
    (0, -1, -1, 0): lambda image: np.rot90(image, 2).swapaxes(0, 1),
}


def with_matrix(source: Path, target: Path, a: int, b: int, c: int, d: int) -> Path:
    """A copy of an mp4 with another display matrix in its track header."""
    data = bytearray(source.read_bytes())
    header = data.index(b"tkhd") + 4
    place = header + (40 if data[header] == 0 else 52)
    matrix = [65536 * a, 65536 * b, 0, 65536 * c, 65536 * d, 0, 0, 0, 1 << 30]
    data[place : place + 36] = struct.pack(">9i", *matrix)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("matrix", MATRICES)
def test_every_display_matrix_is_shown_as_a_player_shows_it(tmp_path, matrix):
    stored = CORNERS.repeat(16, 0).repeat(24, 1)
    video.write_video(tmp_path / "a.mp4", [stored] * 3)
    film = with_matrix(tmp_path / "a.mp4", tmp_path / "b.mp4", *matrix)
    expected = MATRICES[matrix](stored)
    for frame in video.read_frames(film):
        assert frame.shape == expected.shape
        assert np.abs(frame.astype(int) - expected)[2::8, 2::8].max() < 12


WEIGHTS = {5: (0.299, 0.114), 6: (0.299, 0.114), 1: (0.2126, 0.0722), 9: (0.2627, 0.0593), 2: (0.299, 0.114)}
"""Red and blue weight of each colour matrix by its code in the stream; 2: not stated, as BT.601."""
COLOURS = [(40, 200, 60), (200, 30, 90), (20, 60, 220), (128, 128, 128)]


def planes(colour: tuple[int, int, int], red: float, blue: float, full: bool) -> list[int]:
    """Y, U and V by the definition of the standards."""
    r, g, b = (value / 255 for value in colour)
    luma = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)
    if full:
        return [round(255 * luma), round(128 + 255 * u), round(128 + 255 * v)]
    return [round(16 + 219 * luma), round(128 + 224 * u), round(128 + 224 * v)]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("code", WEIGHTS)
def test_colours_by_the_matrix_and_range_that_the_film_states(tmp_path, code, full):
    import av

    stored = np.zeros((3, 32, 16 * len(COLOURS)), np.uint8)
    for i, colour in enumerate(COLOURS):
        stored[:, :, 16 * i : 16 * i + 16] = np.array(planes(colour, *WEIGHTS[code], full))[:, None, None]
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.height, stream.width, stream.pix_fmt = *stored.shape[1:], "yuv444p"
        stream.options = {"qp": "0"}
        stream.codec_context.colorspace, stream.codec_context.color_range = code, 2 if full else 1
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(stored, format="yuv444p")
            frame.colorspace, frame.color_range = code, 2 if full else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = video.read_frames(tmp_path / "a.mp4")[1, 16, 8::16]
    assert np.abs(shown.astype(int) - COLOURS).max() <= 3


def moving(count: int = 48) -> np.ndarray:
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (12, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return np.stack([np.roll(scene, (2 * t, 3 * t), (0, 1)) for t in range(count)])


def encoded(path: Path, codec: str) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        stream.options = {"g": "12", "bf": "0"}
        for frame in moving():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    return path


def damage(path: Path, frame: int, keep: float = 0.1) -> None:
    """Overwrite a frame's packet but for its first part."""
    import av

    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data, packet = path.read_bytes(), packets[frame]
    assert data.count(packet) == 1
    kept = round(keep * len(packet))
    path.write_bytes(data.replace(packet, packet[:kept] + bytes(len(packet) - kept)))


@pytest.mark.parametrize("name, codec", [("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.mkv", "libx264")])
def test_damaged_frames_are_refused_by_their_numbers(tmp_path, name, codec):
    film = encoded(tmp_path / name, codec)
    assert films.damaged_frames(film) == []
    whole = video.read_frames(film)
    damage(film, 20)
    assert 20 in films.damaged_frames(film) and min(films.damaged_frames(film)) == 20
    with pytest.raises(UserError, match=r"is damaged: the decoder reports frames? 20.*--allow-damaged"):
        video.read_frames(film)
    assert np.array_equal(video.read_frames(film, 0, 15), whole[:15]), "the frames before are right"


@pytest.mark.parametrize("name, codec", [("a.mp4", "libx264"), ("a.mkv", "libx264")])
def test_damaged_films_are_read_when_asked(tmp_path, capsys, name, codec):
    film = encoded(tmp_path / name, codec)
    whole = video.read_frames(film)
    damage(film, 20)
    back = video.read_frames(film, allow_damaged=True)
    assert len(back) == 48, "no frame moves in time"
    assert np.array_equal(back[:20], whole[:20]) and np.array_equal(back[24:], whole[24:])
    assert "read all the same: the decoder reports frame 20." in capsys.readouterr().err
    assert np.array_equal(video.read_frames(film, 36, 5), whole[36:41]), "sound where no damage reaches"


def test_a_packet_that_is_gone_is_noticed(tmp_path):
    film = encoded(tmp_path / "a.mp4", "libx264")
    damage(film, 30, keep=0)
    assert 30 in films.damaged_frames(film)
    with pytest.raises(UserError, match="is damaged"):
        video.read_frames(film)
    assert len(video.read_frames(film, allow_damaged=True)) == 48


def test_runs_of_frames_are_named_as_ranges():
    assert films.named_frames([3]) == "frame 3"
    assert films.named_frames([9, 7, 8, 3, 3]) == "frames 3, 7 to 9"

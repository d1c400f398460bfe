"""Images as their files mean them: depth, pages, clocks, sizes, hidden files."""

import sys

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.io.files import hidden

STEPS = np.linspace(0, 1, 32).reshape(4, 8)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_bits_that_are_used_are_the_range(tmp_path, capsys, bits):
    values = (STEPS * ((1 << bits) - 1)).round().astype(np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        read = video.read_image(tmp_path / name)
        assert np.abs(read.astype(float) - 255 * STEPS[..., None]).max() <= 1
        assert (f"a.{name[2:]} does not say" in capsys.readouterr().err) == (bits < 16)


def test_colours_of_16_bits_of_which_12_are_used(tmp_path, capsys):
    import av

    values = np.stack([STEPS, STEPS[::-1], STEPS.T.reshape(4, 8)], -1)
    deep = (4095 * values).round().astype(np.uint16)
    with av.open(str(tmp_path / "a.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = 4, 8, "rgb48be"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(deep, format="rgb48le")))
        container.mux(stream.encode())
    assert np.abs(video.read_image(tmp_path / "a.png") - 255 * values).max() <= 1
    assert "read as 12 bits" in capsys.readouterr().err


def test_a_deep_image_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = (65535 * STEPS).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(video.read_frames(tmp_path)[0, ..., 0], np.rot90(values >> 8, -1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize(
    "orientation, turned", [(5, np.transpose), (6, lambda v: np.rot90(v, -1)), (8, np.rot90)]
)
def test_a_turned_tiff_is_upright_whatever_its_numbers(tmp_path, dtype, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    values = (200 * STEPS + 55).astype(np.uint8)
    Image.fromarray(values.astype(dtype)).save(tmp_path / "a.tif", exif=exif)
    assert np.array_equal(video.read_image(tmp_path / "a.tif")[..., 0], turned(values))


@pytest.mark.parametrize(
    "values, low, high",
    [
        (STEPS.astype(np.float32), 0, 1),
        ((200 * STEPS).astype(np.float32), 0, 255),
        ((900 * STEPS - 300).astype(np.float32), -300, 600),
        ((3_000_000 * STEPS).astype(np.int32), 0, 3_000_000),
        ((4000 * STEPS - 1000).astype(np.int32), -1000, 3000),
        ((4095 * STEPS).astype(np.int32), 0, 4095),
    ],
)
def test_integers_and_floats_are_scaled_by_their_range(tmp_path, capsys, values, low, high):
    Image.fromarray(values).save(tmp_path / "a.tif")
    expected = 255 * (values.astype(float) - low) / (high - low)
    assert np.abs(video.read_image(tmp_path / "a.tif")[..., 1] - expected).max() <= 1
    assert "a.tif does not say which value is white" in capsys.readouterr().err


@pytest.mark.parametrize("tag", [281, 341])
def test_a_range_that_the_file_states_counts(tmp_path, capsys, tag):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[tag] = 2000 if tag == 281 else 2000.0
    info.tagtype[tag] = 3 if tag == 281 else 11
    Image.fromarray((1000 * STEPS).astype(np.uint16)).save(tmp_path / "a.tif", tiffinfo=info)
    assert np.abs(video.read_image(tmp_path / "a.tif")[..., 0] - 127.5 * STEPS).max() <= 1
    assert capsys.readouterr().err == ""


def test_what_is_not_a_number_is_black(tmp_path):
    values = STEPS.astype(np.float32)
    values[0, 0], values[0, 1] = np.nan, np.inf
    Image.fromarray(values).save(tmp_path / "a.tif")
    read = video.read_image(tmp_path / "a.tif")[..., 0]
    assert read[0, 0] == 0 and read[0, 1] == 255 and read[3, 7] == 255


def test_the_frames_of_a_folder_share_one_range(tmp_path):
    for t, most in enumerate([500, 4000, 1000]):
        Image.fromarray((most * STEPS).astype(np.uint16)).save(tmp_path / f"{t}.png")
    read = video.read_frames(tmp_path)[..., 0]
    assert read[:, 3, 7].tolist() == [500 >> 4, 4000 >> 4, 1000 >> 4]
    assert np.array_equal(video.read_frames(tmp_path, 2, 1)[0, ..., 0], read[2])


def stack(path, frames, **about):
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=rest, **about)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_pages_of_a_stack_are_frames(tmp_path, dtype):
    frames = [
        np.full((6, 8), level, np.uint8).astype(dtype) * (1 if dtype == np.uint8 else 257)
        for level in (10, 99, 200)
    ]
    stack(tmp_path / "a.tif", frames)
    assert video.frame_count(tmp_path / "a.tif") == 3
    assert video.read_frames(tmp_path / "a.tif")[:, 2, 3, 1].tolist() == [10, 99, 200]
    assert video.read_frames(tmp_path / "a.tif", 1, 1)[:, 2, 3, 1].tolist() == [99]


def test_small_copies_in_a_stack_are_no_frames(tmp_path, capsys):
    stack(tmp_path / "a.tif", [np.full(size, 50, np.uint8) for size in ((6, 8), (3, 4), (6, 8))])
    assert video.read_frames(tmp_path / "a.tif").shape == (2, 6, 8, 3)
    assert "1 pages of another size" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "apng"])
def test_animations_play_by_their_clock(tmp_path, ending):
    frames = [np.full((16, 16, 3), 40 * t, np.uint8) for t in range(5)]
    file = tmp_path / f"a.{ending}"
    stack(file, frames, duration=40, format="PNG" if ending == "apng" else None)
    assert video.fps(file) == pytest.approx(25)
    stack(file, frames, duration=[100, 200, 300, 100, 300], format="PNG" if ending == "apng" else None)
    assert video.fps(file) == pytest.approx(5)


def test_images_of_other_sizes_are_fitted_to_the_first(tmp_path, capsys):
    video.write_png(tmp_path / "1.png", np.full((8, 16, 3), 10, np.uint8))
    wide = np.full((16, 64, 3), 200, np.uint8)
    wide[:, 16:48] = 90
    video.write_png(tmp_path / "2.png", wide)
    video.write_png(tmp_path / "3.png", np.full((8, 16, 3), 30, np.uint8))
    read = video.read_frames(tmp_path)
    assert read.shape == (3, 8, 16, 3)
    assert read[:, 4, 4, 0].tolist() == [10, 90, 30] and (read[1, :, 2:-2] == 90).all()
    assert "another size than the first, 16x8 pixels" in capsys.readouterr().err
    assert video.read_frames(tmp_path, 1, 1).shape == (1, 8, 16, 3), "by the first image, not the first read"


def test_a_turned_first_image_has_its_upright_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for t in range(2):
        Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(tmp_path / f"{t}.jpg", exif=exif)
    assert video.read_frames(tmp_path).shape == (2, 16, 8, 3)


def test_a_video_among_the_images_of_a_folder_is_refused(tmp_path):
    video.write_png(tmp_path / "0.png", np.zeros((6, 8, 3), np.uint8))
    stack(tmp_path / "1.tif", [np.full((6, 8), level, np.uint8) for level in (10, 99)])
    with pytest.raises(UserError, match=r"1.tif holds 2 frames"):
        video.read_frames(tmp_path)


def test_hidden_files_are_no_frames(tmp_path):
    video.write_png(tmp_path / "0.png", np.zeros((6, 8, 3), np.uint8))
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_bytes(b"?")
        assert hidden(tmp_path / name)
    assert video.frame_count(tmp_path) == 1


def test_heic_without_its_library_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UserError, match="pip install pillow-heif"):
        video.read_image(tmp_path / "a.heic")


def test_heic_with_its_library(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    image = np.full((16, 16, 3), (200, 40, 60), np.uint8)
    heif.from_pillow(Image.fromarray(image)).save(tmp_path / "a.heic", quality=100)
    assert np.abs(video.read_image(tmp_path / "a.heic").astype(int) - image).max() < 8


def test_grey_with_alpha_of_16_bits_of_which_12_are_used(tmp_path, capsys):
    import av

    deep = (4095 * STEPS).round().astype(">u2")
    frame = av.VideoFrame(8, 4, "ya16be")
    rows = np.zeros((4, frame.planes[0].line_size // 2), ">u2")
    rows[:, 0:16:2], rows[:, 1:16:2] = deep, 65535
    frame.planes[0].update(rows.tobytes())
    with av.open(str(tmp_path / "a.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = 4, 8, "ya16be"
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert np.abs(video.read_image(tmp_path / "a.png") - 255 * STEPS[..., None]).max() <= 1
    assert "read as 12 bits" in capsys.readouterr().err

"""Pictures of slots: colours are told apart and stay with their object, tiles are where they should be."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchslots.io import draw


def _two_objects() -> np.ndarray:
    """Ids [3, 8, 8]: object 1 upper left, object 2 lower right, on background."""
    ids = np.zeros((3, 8, 8), dtype=np.int32)
    ids[:, 1:4, 1:4], ids[:, 4:8, 5:8] = 1, 2
    return ids


def test_palette_colours_differ():
    first = draw.PALETTE[:20].astype(float)
    distance = np.linalg.norm(first[:, None] - first[None], axis=-1) + 1e3 * np.eye(20)
    assert distance.min() > 50
    assert len(np.unique(draw.PALETTE, axis=0)) == 256


def test_colorize_never_gives_an_object_the_background_colour():
    assert (draw.colorize(np.array([[0, 1, 255, 256]]))[0] == draw.PALETTE[[0, 1, 255, 1]]).all()


def test_boundaries_of_a_half():
    ids = np.array([[0, 0, 1, 1]] * 3)
    assert (draw.boundaries(ids) == np.array([[False, True, False, False]] * 3)).all()


def test_overlay_leaves_background_and_tints_objects():
    video = np.full((3, 8, 8, 3), 100, dtype=np.uint8)
    picture = draw.overlay(video, _two_objects(), opacity=0.5, outline=False)
    assert (picture[:, 0, 0] == 100).all()
    assert (picture[:, 2, 2] == np.rint(50 + draw.PALETTE[1] * 0.5)).all()


def test_match_colors_follow_objects_under_any_slot_order():
    truth = _two_objects()
    slots = np.array([3, 0, 2])
    colors = draw.match_colors(truth, slots[truth], 5)
    assert (colors[slots] == [0, 1, 2]).all()
    assert len(set(colors.tolist())) == 5


def test_match_colors_without_overlap_gives_fresh_colours():
    truth = np.array([[0, 0, 1, 1]])
    colors = draw.match_colors(truth, np.zeros((1, 4), dtype=int), 3)
    assert colors[0] in (0, 1) and (colors[1:] >= 2).all()


def test_match_colors_without_truth_takes_the_largest_as_background():
    assert draw.match_colors(None, np.array([[2, 2, 2, 0, 1]]), 4).tolist() == [1, 2, 0, 3]


def test_slot_views_show_the_picture_through_the_mask_over_a_chequer():
    video = np.full((2, 4, 4, 3), 50, dtype=np.uint8)
    masks = np.zeros((2, 3, 4, 4))
    masks[:, 1] = 1
    views = draw.slot_views(video, masks)
    assert (views[:, 1] == 50).all() and (views[:, [0, 2]] == draw.chequer(4, 4)).all()
    assert {*np.unique(draw.chequer(64, 64))} == {84, 112}, "no colour of an object, neither white nor black"
    own = np.stack([video, video + 1, video + 2], axis=1)
    assert (draw.slot_views(own, masks)[:, 1] == 51).all()


def test_scale_up_repeats_pixels_and_never_shrinks():
    video = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(1, 2, 3, 3)
    large = draw.scale_up(video, 8)
    assert large.shape == (1, 8, 12, 3)
    assert (large[:, ::4, ::4] == video).all()
    assert draw.scale_up(video, 1).shape == video.shape


def test_clip_panel_holds_the_input_and_slots_have_their_objects_colour():
    truth = _two_objects()
    slots = np.array([1, 2, 0])
    prediction = slots[truth]
    masks = np.stack([prediction == k for k in range(3)], axis=1).astype(np.float32)
    video = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    panel = draw.clip_panel(video, prediction, truth=truth, masks=masks, recon={"flow": video}, tile=80)
    assert panel.shape[0] == 3 and panel.shape[1] % 2 == 0 and panel.shape[2] % 2 == 0
    assert (panel[:, 22:102:10, 4:84:10] == video).all()
    truth_tile, prediction_tile = panel[:, 22:102, 88:168], panel[:, 22:102, 172:252]
    assert (truth_tile == prediction_tile).all()
    row = 22 + 80 + 4
    for slot, color in enumerate((2, 0, 1)):
        assert (panel[0, row + 8, 8 + 84 * slot] == draw.PALETTE[color]).all()


def test_clip_panel_without_truth_and_masks():
    video = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    assert draw.clip_panel(video, np.zeros((2, 8, 8), dtype=int)).shape[0] == 2


def test_slot_strip_of_one_frame_and_of_a_clip():
    video = np.full((2, 8, 8, 3), 9, dtype=np.uint8)
    masks = np.full((2, 3, 8, 8), 1 / 3)
    clip = draw.slot_strip(video, masks, tile=80)
    assert (clip[0] == draw.slot_strip(video[0], masks[0], tile=80)).all()
    assert clip.shape[0] == 2 and clip.shape[2] > 240


def test_contact_sheet_rows():
    pictures = [np.full((8, 8, 3), i, dtype=np.uint8) for i in range(5)]
    sheet = draw.contact_sheet(pictures, columns=3, tile=80)
    assert (sheet[22 + 102 : 22 + 182, 88:168] == 4).all()


@pytest.mark.parametrize(
    ("count", "rows", "widest"), [(5, 2, 3), (11, 3, 4), (4, 1, 4), (9, 3, 3), (1, 1, 1)]
)
def test_rows_of_a_sheet_are_as_equal_as_they_can_be(count: int, rows: int, widest: int):
    pictures = [np.full((8, 8, 3), i, dtype=np.uint8) for i in range(count)]
    sheet = draw.contact_sheet(pictures, columns=4, tile=80)
    assert (sheet.shape[0] // 102, sheet.shape[1] // 84) == (rows, widest)


@pytest.mark.parametrize("log_y", [False, True])
def test_curves_are_written_and_leave_no_figure_open(tmp_path: Path, log_y: bool):
    draw.plot_curves(
        {"a": ([0, 1], [1.0, 2.0]), "b": ([0, 1], [2.0, 1.0])}, tmp_path / "c.png", title="t", log_y=log_y
    )
    with Image.open(tmp_path / "c.png") as image:
        assert image.size[0] > 600
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()

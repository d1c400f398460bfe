"""First-frame hints: every accepted way of writing them means the same; every wrong one is said."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchslots.data.sets.own_masks import read_mask_image
from torchslots.inference.view import FirstFrameHint, box_hint, mask_hint, read_boxes
from torchslots.io.errors import UserError

BOX = [0.25, 0.5, 0.75, 1.0]


def read_mask(file: Path) -> FirstFrameHint:
    return mask_hint(read_mask_image(file), where=str(file))


def write(folder, content):
    file = folder / "boxes.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.mark.parametrize(
    "content",
    [
        [BOX],
        {"boxes": [BOX]},
        {"boxes": [BOX], "format": "yxyx", "normalized": True},
        {"boxes": [[0.5, 0.25, 1.0, 0.75]], "format": "xyxy"},
    ],
)
def test_all_ways_of_writing_a_box_agree(tmp_path, content):
    hint = read_boxes(write(tmp_path, content))
    assert hint.boxes.tolist() == [BOX]
    assert not hint.in_pixels


def test_pixels_are_marked_as_such(tmp_path):
    hint = read_boxes(write(tmp_path, {"boxes": [[10, 20, 30, 40]], "format": "xyxy", "normalized": False}))
    assert hint.boxes.tolist() == [[20, 10, 40, 30]]
    assert hint.in_pixels


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "7",
        {"box": [BOX]},
        {"boxes": [BOX], "format": "xywh"},
        {"boxes": [BOX], "normalized": "no"},
        {"boxes": BOX},
        [],
        [[1, 2, 3]],
        [["a", 0, 1, 1]],
        [[0, 0, 1, None]],
        [[0.5, 0, 0.5, 1]],
        [[0.6, 0, 0.5, 1]],
        [[0, 0, 64, 64]],
        [[-0.5, 0, 0.5, 0.5]],
    ],
)
def test_a_file_that_is_no_list_of_boxes_is_named(tmp_path, content):
    with pytest.raises(UserError, match=r"boxes\.json"):
        read_boxes(write(tmp_path, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.json cannot be read"):
        read_boxes(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"none\.png cannot be read"):
        read_mask(tmp_path / "none.png")


def test_a_row_of_zeros_is_an_absent_object():
    assert box_hint([BOX, [0, 0, 0, 0]]).boxes[1].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("mode", ["P", "L"])
def test_a_mask_gives_ids_in_order_and_boxes_around_them(tmp_path, mode):
    values = np.zeros((8, 16), np.uint8)
    values[2:4, 4:12] = 200
    values[6:8, 0:4] = 7
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / "mask.png")
    hint = read_mask(tmp_path / "mask.png")
    assert hint.ids.tolist() == np.where(values == 7, 1, np.where(values == 200, 2, 0)).tolist()
    assert hint.boxes.tolist() == [[0.75, 0.0, 1.0, 0.25], [0.25, 0.25, 0.5, 0.75]]


def test_masks_without_objects_or_with_colours_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    with pytest.raises(UserError, match=r"colour\.png is in colour"):
        read_mask(tmp_path / "colour.png")
    Image.new("L", (4, 4)).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match=r"empty\.png has only background"):
        read_mask(tmp_path / "empty.png")
    for wrong in (np.zeros((2, 3, 4), int), np.ones((3, 4), np.float32)):
        with pytest.raises(UserError, match="integer ids"):
            mask_hint(wrong)

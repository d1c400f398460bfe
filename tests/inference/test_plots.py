"""Plots of poses: what is plotted, where, in which colour."""

import math

import numpy as np
import torch

from torchslots.inference.plots import outline, plot_poses
from torchslots.io.draw import PALETTE
from torchslots.models.slots.poses import rotation_from_angle
from torchslots.models.types import Pose

GREY = np.full((200, 300, 3), 128, np.uint8)


def _has(picture: np.ndarray, y: float, x: float, slot: int, reach: int = 2) -> bool:
    """Whether the slot's colour is within `reach` pixels of (y, x) in [-1, 1]."""
    row, column = round((y + 1) / 2 * 199), round((x + 1) / 2 * 299)
    near = picture[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
    return bool((near == PALETTE[slot + 1]).all(-1).any())


def test_positions_are_marked_in_their_slots_colours() -> None:
    picture = plot_poses(GREY, Pose(torch.tensor([[-0.5, 0.5], [0.5, -0.25]])))
    assert _has(picture, -0.5, 0.5, 0) and _has(picture, 0.5, -0.25, 1)
    assert not _has(picture, 0.5, -0.25, 0) and np.array_equal(picture[100, 290], GREY[0, 0])
    assert picture.shape == GREY.shape and picture.dtype == np.uint8 and (GREY == 128).all()


def test_scale_is_an_ellipse_of_its_half_axes() -> None:
    pose = Pose(torch.tensor([[0.0, 0.2]]), torch.tensor([[0.5, 0.25]]))
    picture = plot_poses(GREY, pose)
    for y, x in ((0.5, 0.2), (-0.5, 0.2), (0.0, 0.45), (0.0, -0.05)):
        assert _has(picture, y, x, 0)
    assert not _has(picture, 0.5, 0.45, 0)


def test_rotation_turns_the_ellipse_and_draws_the_first_axis() -> None:
    """The first axis (1, 1) points right and down, and the long half-axis 0.5 lies along it."""
    turned = rotation_from_angle(torch.tensor([-math.pi / 4]))
    pose = Pose(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.1, 0.5]]), turned)
    tip = 0.5 / math.sqrt(2)
    picture = plot_poses(GREY, pose)
    assert _has(picture, tip, tip, 0) and _has(picture, tip / 2, tip / 2, 0)
    assert _has(picture, -tip, -tip, 0) and not _has(picture, -tip / 2, -tip / 2, 0, reach=0)
    points = outline(pose, 0)
    assert np.allclose(points[0], (tip, tip)) and np.allclose(
        points[12], (0.1 / math.sqrt(2), -0.1 / math.sqrt(2))
    )


def test_masks_tint_and_hidden_slots_are_not_plotted() -> None:
    masks = np.zeros((2, 200, 300), np.float32)
    masks[0, :, :150], masks[1, :, 150:] = 1, 1
    pose = Pose(torch.tensor([[0.0, -0.5], [0.0, 0.5]]))
    picture = plot_poses(GREY, pose, masks, hidden=(0,))
    assert np.array_equal(picture[20, 20], GREY[0, 0]) and not np.array_equal(picture[20, 250], GREY[0, 0])
    assert not _has(picture, 0.0, -0.5, 0) and _has(picture, 0.0, 0.5, 1)


def test_small_pictures_are_enlarged_and_far_frames_do_no_harm() -> None:
    small = np.zeros((35, 35, 3), np.uint8)
    pose = Pose(torch.tensor([[1e6, -1e6], [0.0, 0.0]], requires_grad=True), torch.full((2, 2), 1e4))
    picture = plot_poses(small, pose, np.full((2, 35, 35), 0.5))
    assert picture.shape[0] % 35 == 0 and picture.shape[0] >= 150

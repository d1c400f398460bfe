"""Pictures of slots' frames of reference: a cross at the position, the scale's ellipse, a tick along the first axis."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from torchslots.io.draw import PALETTE, Pixels, overlay, scale_up
from torchslots.models.types import Pose

_STEPS = 48
_MIN_HEIGHT = 192


def plot_poses(
    image: Pixels, pose: Pose, masks: NDArray[Any] | None = None, *, hidden: tuple[int, ...] = ()
) -> Pixels:
    """Draw each slot's frame in the slot's colour over a picture.

    Small pictures are enlarged by a whole factor first. Slot k has colour k + 1 of the palette, in the tint of its
    mask, too. Frames may reach past the border; what lies outside is cut off.

    Args:
        image: [H, W, 3].
        pose: of one frame's slots, each part [K, ...]; parts may be None.
        masks: [K, H, W] in [0, 1]; the pixels that a slot wins are tinted. None: no tint.
        hidden: slots that are not drawn, such as the background's.
    """
    pose = pose.map(lambda part: part.detach().cpu())
    canvas = scale_up(image, max(_MIN_HEIGHT, image.shape[0]))
    factor = canvas.shape[0] // image.shape[0]
    if masks is not None:
        ids = np.asarray(masks).argmax(0) + 1
        ids[np.isin(ids - 1, hidden)] = 0
        canvas = overlay(canvas, ids.repeat(factor, 0).repeat(factor, 1), opacity=0.35)
    picture = Image.fromarray(np.ascontiguousarray(canvas))
    pen = ImageDraw.Draw(picture)
    for slot in range(len(pose.position)):
        if slot not in hidden:
            _draw_frame(pen, pose, slot, (canvas.shape[0], canvas.shape[1]))
    return np.asarray(picture, np.uint8)


def outline(pose: Pose, slot: int) -> NDArray[np.float64]:
    """Points (y, x) in [-1, 1] on the ellipse one scale around a slot's position, the first on its first axis.

    Without a scale the ellipse is a dot's; without a rotation its axes are the picture's.
    """
    position = np.asarray(pose.position[slot], np.float64)
    scale = np.full(2, 0.04) if pose.scale is None else np.asarray(pose.scale[slot], np.float64)
    axes = np.eye(2) if pose.rotation is None else np.asarray(pose.rotation[slot], np.float64)
    turns = np.linspace(0, 2 * math.pi, _STEPS, endpoint=False)
    along = np.stack([np.cos(turns) * scale[1], np.sin(turns) * scale[0]])
    return position + (axes @ along)[::-1].T


def _to_pixels(points: NDArray[np.float64], size: tuple[int, int]) -> list[tuple[float, float]]:
    """(y, x) in [-1, 1], pixel centres at both ends, to (x, y) in pixels; far points are pulled in, for the pen."""
    height, width = size
    pixels = (np.clip(points, -20, 20) + 1) / 2 * (np.array([height, width]) - 1)
    return [(float(x), float(y)) for y, x in pixels]


def _draw_frame(pen: ImageDraw.ImageDraw, pose: Pose, slot: int, size: tuple[int, int]) -> None:
    color = tuple(int(channel) for channel in PALETTE[(slot % 255) + 1])
    points = outline(pose, slot)
    ring = _to_pixels(points, size)
    (center,) = _to_pixels(np.asarray(pose.position[slot], np.float64)[None], size)
    strokes: list[tuple[list[tuple[float, float]], int]] = []
    if pose.scale is not None:
        strokes.append(([*ring, ring[0]], 2))
    if pose.rotation is not None:
        strokes.append(([center, ring[0]], 2))
    reach = 3 + size[0] // 128
    strokes += [
        ([(center[0] - reach, center[1]), (center[0] + reach, center[1])], 2),
        ([(center[0], center[1] - reach), (center[0], center[1] + reach)], 2),
    ]
    for line, width in strokes:
        pen.line(line, fill=(0, 0, 0), width=width + 2)
    for line, width in strokes:
        pen.line(line, fill=color, width=width)

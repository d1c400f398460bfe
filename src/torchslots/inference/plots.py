"""Plots of slots: numbered regions, reconstructions beside the input, before and after an edit, poses."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from torchslots.io.draw import PALETTE, Pixels, contact_sheet, number_slots, overlay, scale_up
from torchslots.models.layers.ranges import to_bytes
from torchslots.models.types import Pose

_TILE = 192
_STEPS = 48
_PREFERRED = ("video", "flow")


def preferred_target(recon: Mapping[str, Any]) -> str:
    """The reconstruction to show: frames, else optical flow, else the first."""
    return next((name for name in _PREFERRED if name in recon), next(iter(recon)))


def to_images(values: Float[Tensor, "*b C h w"]) -> UInt8[ndarray, "*b h w 3"]:
    """Values in [0, 1] as images; one channel (depth) becomes grey."""
    images = to_bytes(values).movedim(-3, -1).cpu()
    return np.ascontiguousarray(images.expand(*images.shape[:-1], 3).numpy())


def beside_input(
    images: UInt8[ndarray, "T h w 3"], recon: UInt8[ndarray, "T h w 3"], target: str
) -> list[Pixels]:
    """Each frame at the model's resolution, and its reconstruction."""
    labels = ["input", f"reconstructed {target}"]
    return [contact_sheet(pair, labels, tile=_TILE) for pair in zip(images, recon)]


def before_and_after(
    images: UInt8[ndarray, "T h w 3"],
    before: Float[Tensor, "T C h w"],
    after: Float[Tensor, "T C h w"],
    target: str,
) -> Iterator[Pixels]:
    """Each frame, its decoded slots, and its decoded edited slots."""
    labels = ["input", f"{target} before", f"{target} after"]
    for tiles in zip(images, *_on_one_scale(before, after)):
        yield contact_sheet(tiles, labels, columns=3, tile=_TILE)


def _on_one_scale(*values: Float[Tensor, "T C h w"]) -> list[UInt8[ndarray, "T h w 3"]]:
    """Values as images; one channel (depth) becomes grey, from the least to the greatest of all values."""
    if values[0].shape[1] == 3:
        return [to_images(part) for part in values]
    low = min(float(part.min()) for part in values)
    high = max(float(part.max()) for part in values)
    return [to_images((part - low) / max(high - low, 1e-6)) for part in values]


def numbered_slots(
    images: UInt8[ndarray, "T h w 3"], masks: Float[ndarray, "T K h w"], pose: Pose | None
) -> Iterator[Pixels]:
    """Each frame beside the same with its slots tinted and numbered, and their poses if there are any.

    Args:
        pose: of the slots of all frames, each part [T, K, ...].
    """
    for t, image in enumerate(images):
        large = scale_up(image, _TILE)
        factor = len(large) // len(image)
        ids = masks[t].argmax(0).repeat(factor, 0).repeat(factor, 1)
        tinted = overlay(large, ids, opacity=0.4)
        if pose is not None:
            tinted = plot_poses(image, pose.map(lambda part, t=t: part[t]), masks[t], hidden=(0,))
        unseen = sorted({*range(masks.shape[1])} - {*np.unique(ids).tolist()})
        label = "slots" + (f" (no pixels: {', '.join(map(str, unseen))})" if unseen else "")
        yield contact_sheet([large, number_slots(tinted, ids)], ["input", label], columns=2, tile=_TILE)


def plot_poses(
    image: Pixels, pose: Pose, masks: NDArray[Any] | None = None, *, hidden: tuple[int, ...] = ()
) -> Pixels:
    """Plot the slots' poses, each in its slot's colour: position as a cross, scale as an ellipse, first axis as a line.

    Small images are enlarged by a whole factor first. Slot k has colour k + 1 of the palette, as does the tint of its
    mask. Plots are clipped at the border.

    Args:
        image: [H, W, 3].
        pose: of one frame's slots, each part [K, ...]; parts may be None.
        masks: [K, H, W] in [0, 1]; the pixels of each slot are tinted. None: no tint.
        hidden: slots that are not plotted, such as the background's.
    """
    pose = pose.map(lambda part: part.detach().cpu())
    canvas = scale_up(image, max(_TILE, image.shape[0]))
    factor = canvas.shape[0] // image.shape[0]
    if masks is not None:
        ids = np.asarray(masks).argmax(0) + 1
        ids[np.isin(ids - 1, hidden)] = 0
        canvas = overlay(canvas, ids.repeat(factor, 0).repeat(factor, 1), opacity=0.35)
    plot = Image.fromarray(np.ascontiguousarray(canvas))
    pen = ImageDraw.Draw(plot)
    for slot in range(len(pose.position)):
        if slot not in hidden:
            _plot_pose(pen, pose, slot, (canvas.shape[0], canvas.shape[1]))
    return np.asarray(plot, np.uint8)


def outline(pose: Pose, slot: int) -> NDArray[np.float64]:
    """Points (y, x) in [-1, 1] on the ellipse of one scale around a slot's position, from its first axis on.

    Without a scale the ellipse is small; without a rotation its axes are the image's.
    """
    position = np.asarray(pose.position[slot], np.float64)
    scale = np.full(2, 0.04) if pose.scale is None else np.asarray(pose.scale[slot], np.float64)
    axes = np.eye(2) if pose.rotation is None else np.asarray(pose.rotation[slot], np.float64)
    turns = np.linspace(0, 2 * math.pi, _STEPS, endpoint=False)
    along = np.stack([np.cos(turns) * scale[1], np.sin(turns) * scale[0]])
    return position + (axes @ along)[::-1].T


def _to_pixels(points: NDArray[np.float64], size: tuple[int, int]) -> list[tuple[float, float]]:
    """(y, x) in [-1, 1], pixel centres at both ends, to (x, y) in pixels; far points are clipped."""
    height, width = size
    pixels = (np.clip(points, -20, 20) + 1) / 2 * (np.array([height, width]) - 1)
    return [(float(x), float(y)) for y, x in pixels]


def _plot_pose(pen: ImageDraw.ImageDraw, pose: Pose, slot: int, size: tuple[int, int]) -> None:
    color = tuple(int(channel) for channel in PALETTE[(slot % 255) + 1])
    ring = _to_pixels(outline(pose, slot), size)
    ((x, y),) = _to_pixels(np.asarray(pose.position[slot], np.float64)[None], size)
    reach = 3 + size[0] // 128
    lines = [[(x - reach, y), (x + reach, y)], [(x, y - reach), (x, y + reach)]]
    lines += [] if pose.scale is None else [[*ring, ring[0]]]
    lines += [] if pose.rotation is None else [[(x, y), ring[0]]]
    for line in lines:
        pen.line(line, fill=(0, 0, 0), width=4)
    for line in lines:
        pen.line(line, fill=color, width=2)

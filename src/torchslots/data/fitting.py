"""Fit frames to a model's input: bicubic resizing, square crops and mirroring, as readers for ViT features do.

Frames are cut and resized before they are normalized, which a backbone does. What is sampled (a crop, a flip) is an
argument; `fit` and `mirror_some` sample it.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from torchslots.data.config import DataConfig
from torchslots.data.transforms import (
    LABELS,
    Crop,
    Sample,
    crop,
    frame_size,
    resize,
    resize_bilinear,
    resize_nearest,
    small_size,
)
from torchslots.io.errors import UserError


def fit(sample: Sample, config: DataConfig, rng: np.random.Generator | None) -> Sample:
    """Crop and resize as the recipe says: in training, where `rng` samples the crop, or in evaluation (None).

    In evaluation labels may have a size of their own.
    """
    size = config.resolution if rng is not None or config.label_size is None else config.label_size
    frames = {key: value for key, value in sample.items() if key not in LABELS}
    labels = {key: value for key, value in sample.items() if key in LABELS}
    if size == config.resolution or not labels:
        return _fit(sample, config, config.resolution, rng)
    return _fit(frames, config, config.resolution, rng) | _fit(labels, config, size, rng)


def _fit(sample: Sample, config: DataConfig, size: int, rng: np.random.Generator | None) -> Sample:
    how, kind = RESIZERS[config.interpolation], config.eval_crop if rng is None else config.train_crop
    height, width = frame_size(sample)
    if kind == "square":
        return resize(crop(sample, central_square(height, width)), size, size, how)
    if kind == "none":
        shape = (size, size) if config.square else small_size(height, width, size)
        return resize(sample, *shape, how)
    shape = short_side_size(height, width, size)
    area = central_square(*shape) if rng is None or kind == "center" else sample_square(*shape, rng)
    return crop(resize(sample, *shape, how), area)


def short_side_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width when the shorter side becomes `size`; the longer one is rounded down."""
    longer = int(max(height, width) / min(height, width) * size)
    return (size, longer) if height <= width else (longer, size)


def central_square(height: int, width: int) -> Crop:
    """The largest square in the middle; of two middles the one at an even pixel."""
    side = min(height, width)
    return Crop(round((height - side) / 2), round((width - side) / 2), side, side)


def sample_square(height: int, width: int, rng: np.random.Generator) -> Crop:
    """The largest square, at a place sampled uniformly."""
    side = min(height, width)
    return Crop(int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side)


def pre_resize(sample: Sample, size: int | None) -> Sample:
    """Frames and labels with a shorter side of `size`, by the nearest pixel; None: as they are.

    Raises:
        UserError: there is flow or depth, which this would make wrong.
    """
    if size is None:
        return sample
    if "flow" in sample or "depth" in sample:
        raise UserError(
            "`data.pre_resize` is for frames and masks, not for flow and depth: set it to None, or leave these keys "
            "out."
        )
    shape = short_side_size(*frame_size(sample), size)
    keys = ("video", "padding_mask", *LABELS)
    return {key: resize_nearest(value, *shape) if key in keys else value for key, value in sample.items()}


def _bicubic(video: Shaped[Tensor, "T 3 H W"], height: int, width: int) -> Float[Tensor, "T 3 h w"]:
    """Without antialiasing (a = -0.75), then clamped to [0, 1]."""
    values = video.float() / 255 if video.dtype == torch.uint8 else video
    return F.interpolate(values, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)


def _bicubic_antialias(
    video: Shaped[Tensor, "T 3 H W"], height: int, width: int
) -> Shaped[Tensor, "T 3 h w"]:
    """With antialiasing (a = -0.5), in torch's integer arithmetic where values are 8-bit; these stay so."""
    resized = F.interpolate(video, (height, width), mode="bicubic", align_corners=False, antialias=True)
    return resized if video.dtype == torch.uint8 else resized.clamp(0, 1)


RESIZERS = {"bilinear": resize_bilinear, "bicubic": _bicubic, "bicubic_antialias": _bicubic_antialias}


def mirror_some(sample: Sample, probability: float, rng: np.random.Generator | None) -> Sample:
    """Mirror a training clip with some probability; nothing is sampled where it is 0 or in evaluation.

    Raises:
        UserError: as `mirror`.
    """
    if rng is None or probability == 0:
        return sample
    return mirror(sample) if rng.random() < probability else sample


def mirror(sample: Sample) -> Sample:
    """All frames of a clip with left and right exchanged; boxes and flow follow.

    Raises:
        UserError: there are properties, whose positions are in space.
    """
    if "properties" in sample:
        raise UserError(
            "Clips with `properties` cannot be mirrored: set `data.flip` to 0, or leave this key out."
        )
    keys = ("video", "flow", "depth", "padding_mask", *LABELS)
    mirrored = {key: value.flip(-1) if key in keys else value for key, value in sample.items()}
    if "flow" in sample:
        mirrored["flow"] = mirrored["flow"] * torch.tensor([1.0, -1.0]).view(2, 1, 1)
    if "boxes" in sample:
        top, left, bottom, right = sample["boxes"].unbind(-1)
        there = (sample["boxes"] != 0).any(-1, keepdim=True)
        mirrored["boxes"] = torch.where(there, torch.stack([top, 1 - right, bottom, 1 - left], -1), 0.0)
    return mirrored


"""How `video` is resized, by the names of `DataConfig.interpolation`."""

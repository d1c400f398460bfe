"""From stored frames to what a recipe asks for: which frames, crop or resize, flow and depth as targets.

Data sets differ in how frames are stored; from here on they are the same. The order of operations is SAVi's.
"""

import numpy as np
import torch

from torchslots.data import transforms
from torchslots.data.config import DataConfig
from torchslots.data.transforms import Sample
from torchslots.errors import UserError


def clip_window(
    num_frames: int, config: DataConfig, train: bool, rng: np.random.Generator | None
) -> tuple[int, int]:
    """First frame and length of the clip to take from a video; it may reach beyond the video's end.

    In training one of the windows that lie end to end, or one anywhere (`config.windows`); the whole video where
    nothing is drawn (`rng` None); in evaluation (`train` False) the first `config.num_frames` frames.
    """
    if not train:
        return 0, config.num_frames
    if rng is None:
        return 0, num_frames
    draw = {"end_to_end": transforms.strided_window_start, "anywhere": transforms.window_start}[
        config.windows
    ]
    return draw(num_frames, config.num_frames, rng), config.num_frames


def finish_clip(sample: Sample, config: DataConfig, length: int, rng: np.random.Generator | None) -> Sample:
    """A clip as stored becomes a sample of the batch contract.

    Args:
        sample: uint8 `video`; `flow` and `depth` as uint16 codes with their `flow_range` and `depth_range`,
            or as floats without.
        length: Frames of the result; what the clip lacks is padding.
        rng: Draws the crop of recipes that have one; None: resize the whole frame.
    """
    sample = _keep(transforms.take_window(decode_codes(sample), 0, length), config.crop)
    if rng is not None and config.min_object_covered is not None:
        area = transforms.draw_crop(*transforms.frame_size(sample), config.min_object_covered, rng)
        sample = transforms.random_resized_crop(sample, area, config.resolution, config.resolution)
    elif config.square:
        sample = transforms.resize(sample, config.resolution, config.resolution)
    else:
        sample = transforms.resize_small(sample, config.resolution)
    sample = transforms.transform_depth(sample, config.depth_transform)
    sample = transforms.masks_to_int(transforms.video_to_float(transforms.flow_to_rgb(sample)))
    return transforms.number_by_rank(sample) if config.renumber else sample


def _keep(sample: Sample, area: tuple[int, ...] | None) -> Sample:
    """The part of the frames that a recipe keeps.

    Raises:
        UserError: it reaches beyond the frames.
    """
    if area is None:
        return sample
    height, width = transforms.frame_size(sample)
    part = transforms.Crop(*area)
    if min(part) < 0 or part.top + part.height > height or part.left + part.width > width:
        raise UserError(
            f"The recipe keeps rows {part.top} to {part.top + part.height} and columns {part.left} to "
            f"{part.left + part.width}, but the frames are {height} x {width}. Change `data.crop`, or set it to None."
        )
    return transforms.crop(sample, part)


def decode_codes(sample: Sample) -> Sample:
    """`flow` and `depth` from uint16 codes to pixels and distance; their ranges leave the sample.

    What has no range is no code and stays as it is.
    """
    decoded = {key: value for key, value in sample.items() if not key.endswith("_range")}
    for key in ("flow", "depth"):
        if f"{key}_range" in sample:
            values = transforms.decode_range(sample[key].numpy(), sample[f"{key}_range"].numpy())
            decoded[key] = torch.from_numpy(values)
    return decoded

"""Single pictures with masks as clips of one frame: what data sets of images share, wherever they are stored."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float32, Integer, UInt8

from torchslots.data import transforms
from torchslots.data.config import DataConfig
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.transforms import Sample, limit_instances, mask_boxes
from torchslots.io.errors import UserError
from torchslots.io.progress import progress

_SHOWN = 100
"""Pictures between two moves of the progress bar, which takes longer than to look a number up."""


class Picture(NamedTuple):
    """A picture as it is stored; `ids` 0 for background, `depth` in the set's unit of length, a row of `properties` for
    each object."""

    image: UInt8[np.ndarray, "H W 3"]
    ids: Integer[np.ndarray, "H W"] | None = None
    depth: Float32[np.ndarray, "H W"] | None = None
    properties: Float32[np.ndarray, "n P"] | None = None


class PictureSource(Protocol):
    """The pictures of one split."""

    title: str
    """The data set's name, for messages."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Of batches, those that can be had."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Where a picture comes from, without reading it."""
        ...

    def picture(self, index: int, keys: tuple[str, ...]) -> Picture:
        """One picture; what `keys` do not ask for need not be read.

        Raises:
            CorruptRecord: it cannot be read.
        """
        ...

    def num_objects(self, index: int) -> int:
        """Objects in the scene.

        Raises:
            CorruptRecord: they cannot be read.
        """
        ...


def demand_keys(config: DataConfig, keys: tuple[str, ...], title: str) -> None:
    """Refuse a recipe that wants keys which a set lacks.

    Raises:
        UserError: it does; says what there is.
    """
    unknown = sorted(set(config.keys) - {*keys, "padding_mask", "name"})
    if unknown:
        raise UserError(
            f"The recipe asks for `{unknown[0]}`, which {title} lacks. It has: {', '.join(keys)}. Change `data.keys`, "
            "or use another data set."
        )


class Stills:
    """Pictures of one split as clips of one frame, as a recipe's `DataConfig` asks."""

    def __init__(self, source: PictureSource, split: str, config: DataConfig, train: bool = True) -> None:
        """Choose the pictures.

        Raises:
            UserError: the recipe wants keys that the set lacks.
        """
        demand_keys(config, source.keys, source.title)
        self.source, self.split, self.config, self.train = source, split, config, train
        self._chosen = _choose(source, config)

    def __len__(self) -> int:
        return len(self._chosen)

    def name(self, index: int) -> str:
        """Where the picture comes from."""
        return self.source.name(self._chosen[index])

    def sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        """One picture as a clip of one frame.

        Raises:
            CorruptRecord: it cannot be read.
        """
        sample = finish_clip(self.stored(index), self.config, 1, rng if self.train else None)
        return {**sample, "name": self.name(index)}

    def stored(self, index: int) -> Sample:
        """A picture before cropping and resizing; what `finish_clip` takes."""
        keys = self.config.keys
        found = self.source.picture(self._chosen[index], keys)
        sample: Sample = {"padding_mask": torch.ones(1, *found.image.shape[:2], dtype=torch.bool)}
        if "video" in keys:
            sample["video"] = torch.tensor(found.image).permute(2, 0, 1)[None]
        if found.ids is not None:
            sample |= _segmentations(found.ids, keys, self.config.max_instances)
        if "depth" in keys and found.depth is not None:
            sample["depth"] = torch.tensor(found.depth)[None, None]
        if "properties" in keys and found.properties is not None:
            sample["properties"] = _padded(found.properties, self.config.max_instances)[None]
        return limit_instances(sample, self.config.max_instances)


def _segmentations(ids: Integer[np.ndarray, "H W"], keys: tuple[str, ...], max_instances: int) -> Sample:
    """`segmentations` and `boxes`, as far as they are asked for."""
    frames = torch.from_numpy(ids.astype(np.int32))[None]
    made = {"segmentations": lambda: frames, "boxes": lambda: mask_boxes(frames, max_instances)}
    return {key: make() for key, make in made.items() if key in keys}


def _padded(properties: Float32[np.ndarray, "n P"], rows: int) -> Float32[torch.Tensor, "rows P"]:
    """Objects beyond `rows` are dropped, missing ones are zeros."""
    padded = torch.zeros(rows, properties.shape[1])
    padded[: len(properties)] = torch.from_numpy(properties[:rows])
    return padded


def _choose(source: PictureSource, config: DataConfig) -> "range | list[int]":
    """The first `num_records`, of these those of at most `max_objects`; corrupt ones stay, to be met when used."""
    numbers = range(len(source) if config.num_records is None else min(len(source), config.num_records))
    if config.max_objects is None:
        return numbers
    chosen = []
    with progress("Counting objects", len(numbers), "images") as advance:
        for number in numbers:
            try:
                few = source.num_objects(number) <= config.max_objects
            except CorruptRecord:
                few = True
            chosen += [number] if few else []
            if number % _SHOWN == _SHOWN - 1:
                advance(_SHOWN)
    return chosen


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

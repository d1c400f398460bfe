"""Clips of a data set: select examples and frames, and turn stored arrays into samples of the batch contract.

A data set is a `Source`: the stored arrays of one split. `Clips` selects examples, takes windows, crops, resizes, pads
and renumbers objects; it is the same for all data sets.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from torchslots.data import fitting, transforms
from torchslots.data.config import DataConfig
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.parts import Part
from torchslots.data.transforms import Sample
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError
from torchslots.io.progress import progress

_CHANNELS_LAST = ("video", "flow", "depth")
_SIZED = {"video", "segmentations", "flow", "depth", "classes", "features"}
"""Keys of which one must be read, for the frames' size."""
_SHOWN = 100
"""Examples between two updates of the progress bar."""

Finish = Callable[[Sample, DataConfig, int, np.random.Generator | None], Sample]
"""(clip as stored, config, frames of the result, rng) -> sample of the batch contract without its name."""


def clip_window(
    num_frames: int, config: DataConfig, train: bool, rng: np.random.Generator | None
) -> tuple[int, int]:
    """First frame and length of the clip to take from a video; it may extend past the video's end.

    In training one of the windows that lie end to end, whole or not, or one anywhere (`config.windows`); the whole
    video where nothing is sampled (`rng` None); in evaluation (`train` False) the first `config.num_frames` frames.
    """
    if not train:
        return 0, config.num_frames
    if rng is None:
        return 0, num_frames
    starts = {
        "end_to_end": transforms.strided_window_start,
        "anywhere": transforms.window_start,
        "back_and_forth": transforms.window_start,
        "chunks": transforms.chunk_start,
    }
    return starts[config.windows](num_frames, config.num_frames, rng), config.num_frames


def finish_clip(sample: Sample, config: DataConfig, length: int, rng: np.random.Generator | None) -> Sample:
    """Crop, resize, pad and mirror a clip, and decode its flow and depth.

    Args:
        sample: uint8 `video`; `flow` and `depth` as uint16 codes with their `flow_range` and `depth_range`,
            or as floats without.
        length: Frames of the result; what the clip lacks is padding.
        rng: Samples the crop and the flip of recipes that have them; None: as in evaluation.
    """
    sample = fitting.pre_resize(transforms.take_window(_decode_codes(sample), 0, length), config.pre_resize)
    sample = _crop(sample, config.crop)
    if rng is not None and config.min_object_covered is not None:
        area = transforms.sample_crop(*transforms.frame_size(sample), config.min_object_covered, rng)
        sample = transforms.random_resized_crop(sample, area, config.resolution, config.resolution)
    else:
        sample = fitting.fit(sample, config, rng)
    sample = fitting.mirror_some(sample, config.flip, rng)
    sample = transforms.transform_depth(sample, config.depth_transform)
    sample = transforms.masks_to_int(transforms.video_to_float(transforms.flow_to_rgb(sample)))
    return transforms.number_by_rank(sample) if config.renumber else sample


def finish_cropped(
    sample: Sample, config: DataConfig, length: int, rng: np.random.Generator | None
) -> Sample:
    """`finish_clip` of frames that were cropped when they were read, as those of your own files are."""
    return finish_clip(sample, replace(config, crop=None), length, rng)


def _finish_image(sample: Sample, config: DataConfig, length: int, rng: np.random.Generator | None) -> Sample:
    """An image is a clip of one frame, however long the recipe's clips are."""
    return finish_clip(sample, config, 1, rng)


class Example(NamedTuple):
    """One video or image, not yet decoded."""

    num_frames: int
    read: Callable[[int, int], Mapping[str, np.ndarray]]
    """(start, stop) -> the stored arrays of these frames.

    `video` uint8 [T, H, W, 3], `segmentations` integers [T, H, W] (0 = background), `boxes` float32 [T, n, 4],
    `flow` [T, H, W, 2] and `depth` [T, H, W, 1] as floats, or as uint16 codes with `flow_range` and `depth_range`
    [2], `properties` float32 [T, n, P], `ignore` bool and `classes` integers [T, H, W].
    """
    finish: Finish = finish_clip


def image_example(**arrays: np.ndarray | None) -> Example:
    """An image as an example; arrays as of `Example.read` without T, or None."""
    frame = {key: array[None] for key, array in arrays.items() if array is not None}
    return Example(1, lambda start, stop: frame, _finish_image)


class Source(Protocol):
    """The stored arrays of one split of a data set, before windows, crops and sizes."""

    @property
    def title(self) -> str:
        """The data set's name, for messages."""
        ...

    @property
    def files(self) -> str:
        """Kind, number or size of the stored files, for people."""
        ...

    @property
    def keys(self) -> tuple[str, ...] | None:
        """Batch keys that are stored; boxes need not be, they follow from masks, and `ignore`, where it is stored,
        comes with masks. None: whatever is asked is tried, and left out where it is missing."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Where an example comes from, without reading it."""
        ...

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """Open one example; arrays that `keys` does not name need not be read.

        Args:
            keys: None: all stored arrays, by their own names, as `data inspect` shows them.

        Raises:
            CorruptRecord: it cannot be read, now or by `Example.read`.
        """
        ...

    def num_objects(self, index: int) -> int | None:
        """Number of objects in an example; None: not stored.

        Raises:
            CorruptRecord: the example cannot be read.
        """
        ...


class Clips:
    """Clips of a source's examples by a recipe's `DataConfig`."""

    def __init__(
        self, source: Source, split: str, config: DataConfig, train: bool = True, part: Part | None = None
    ) -> None:
        """Select the examples: of the first `config.num_records` those of at most `config.max_objects`.

        Args:
            part: Only examples between these bounds; None: all.
            train: Clips of `config.num_frames` at random places; otherwise the first `config.num_frames` frames of each
                video, or each of its `config.eval_chunks`. Where a video is shorter, the rest is zero and its
                `padding_mask` False; but of whole chunks (`config.windows`) it is left out.

        Raises:
            UserError: the recipe wants keys that the source lacks, chunks longer than every video, or flow of clips
                that are played backward.
        """
        if config.windows == "back_and_forth" and "flow" in config.keys:
            raise UserError(
                "Clips that are played backward have no flow. Take `flow` out of `data.keys`, or set `data.windows` to "
                "anywhere."
            )
        self.source, self.split, self.config, self.train = source, split, config, train
        self._keys = _stored_keys(source, config)
        self._chosen: Sequence[int] = _choose(source, config, part, split)
        self._frames: list[range] | None = None
        if train and config.windows == "chunks":
            found = _all_chunks(source, self._chosen, config.num_frames, "num_frames")
            self._chosen = list(dict.fromkeys(i for i, _ in found))
        elif not train and config.eval_chunks is not None:
            found = _all_chunks(source, self._chosen, config.eval_chunks, "eval_chunks")
            self._chosen, self._frames = [i for i, _ in found], [frames for _, frames in found]

    def __len__(self) -> int:
        return len(self._chosen)

    def name(self, index: int) -> str:
        """Where the example comes from, and the frames of a chunk."""
        name = self.source.name(self._chosen[index])
        if self._frames is None:
            return name
        return f"{name}:{self._frames[index].start}-{self._frames[index].stop - 1}"

    def num_frames(self, index: int) -> int:
        """Frames of the example's whole video.

        Raises:
            CorruptRecord: the example cannot be read.
        """
        return self.source.open(self._chosen[index], ()).num_frames

    def sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        """One clip (contract: `data/batch.py`); without `rng` the whole video, or if not `train` its first frames.

        Raises:
            CorruptRecord: the example cannot be read.
            UserError: it lacks what the recipe needs.
        """
        rng = rng if self.train else None
        example = self.source.open(self._chosen[index], self._keys)
        if self._frames is None:
            start, length = clip_window(example.num_frames, self.config, self.train, rng)
        else:
            start, length = self._frames[index].start, len(self._frames[index])
        stored = self._read(example, start, min(start + length, example.num_frames))
        if rng is not None and self.config.windows == "back_and_forth":
            stored = transforms.back_and_forth(stored, length)
        finished = example.finish(stored, self.config, length, rng)
        return {**without_overlaps(finished, self.name(index), index), "name": self.name(index)}

    def stored(self, index: int) -> Sample:
        """A whole video as `finish_clip` takes it: not cropped, not resized, flow and depth not decoded.

        Raises:
            CorruptRecord, UserError: as `sample`.
        """
        example = self.source.open(self._chosen[index], self._keys)
        return self._read(example, 0, example.num_frames)

    def _read(self, example: Example, start: int, stop: int) -> Sample:
        """Frames as tensors, channels first, with `max_instances` rows of objects."""
        stored = _tensors(example.read(start, stop))
        keys, rows = {*self.config.keys}, self.config.max_instances
        keys |= {"ignore", "overlaps"} if "segmentations" in keys else set()
        sample = {key: value for key, value in stored.items() if key.removesuffix("_range") in keys}
        if "boxes" in keys and "boxes" not in stored and "segmentations" in stored:
            sample["boxes"] = transforms.mask_boxes(stored["segmentations"], rows)
        for key in ("boxes", "properties"):
            if key in sample:
                sample[key] = transforms.fit_length(sample[key], 1, rows)
        frames = (stop - start, *transforms.frame_size(stored))
        sample["padding_mask"] = torch.ones(frames, dtype=torch.bool)
        return sample


class Overlap(CorruptRecord):
    """Two instances on one pixel, where the recipe allows none."""

    def __init__(self, file: Path, record: int, reason: str) -> None:
        UserError.__init__(
            self,
            f"{file}: {reason}. Count no pixels of several instances with `--data.overlaps ignore`, or leave such "
            "examples out with --skip-corrupt.",
        )
        self.file, self.record, self.reason = file, record, reason


def without_overlaps(sample: Sample, name: str, index: int) -> Sample:
    """The sample without the map of overlaps, which must be empty.

    Raises:
        Overlap: two annotations overlap; says which.
    """
    found = transforms.overlapping(sample)
    if found is not None:
        frame, first, second = found
        raise Overlap(
            Path(name), index, f"annotations {first} and {second} overlap in frame {frame} of this clip"
        )
    return {key: value for key, value in sample.items() if key != "overlaps"}


def _stored_keys(source: Source, config: DataConfig) -> tuple[str, ...]:
    """Keys to read: also masks where boxes follow from them, and `video` where no other key has the frames' size.

    Raises:
        UserError: the recipe wants keys that the source lacks; the message says which it has.
    """
    asked = [key for key in config.keys if key not in ("padding_mask", "name", "ignore")]
    if {"segmentations", "ignore"} & set(config.keys) and "ignore" in (source.keys or ("ignore",)):
        asked.append("ignore")
    if source.keys is None:
        return tuple(asked)
    derived = ("boxes",) if "segmentations" in source.keys and "boxes" not in source.keys else ()
    unknown = sorted(set(asked) - {*source.keys, *derived})
    if unknown:
        raise UserError(
            f"The recipe asks for `{unknown[0]}`, which {source.title} lacks. It has: "
            f"{', '.join((*source.keys, *derived))}. Change `data.keys`, or use another data set."
        )
    keys = ["segmentations" if key in derived else key for key in asked]
    return tuple(dict.fromkeys(keys if _SIZED & set(keys) else [*keys, "video"]))


def _choose(source: Source, config: DataConfig, part: Part | None, split: str) -> "range | list[int]":
    """Of the first `num_records` the part, and of it those of at most `max_objects`; corrupt ones stay, and fail when
    they are read.

    Raises:
        UserError: none has so few objects.
    """
    count = len(source) if config.num_records is None else min(len(source), config.num_records)
    numbers = range(count) if part is None else part.of(count, f"`{split}` of {source.title}")
    if config.max_objects is None:
        return numbers
    chosen = []
    with progress("Counting objects", len(numbers), "examples") as advance:
        for number in numbers:
            try:
                few = (source.num_objects(number) or 0) <= config.max_objects
            except CorruptRecord:
                few = True
            chosen += [number] if few else []
            if number % _SHOWN == _SHOWN - 1:
                advance(_SHOWN)
    if len(numbers) and not chosen:
        raise UserError(
            f"No example of {source.title} has at most {count_text(config.max_objects, 'object')}. "
            "Raise `max_objects`, or set it to None."
        )
    return chosen


def _all_chunks(source: Source, chosen: Sequence[int], size: int, field: str) -> list[tuple[int, range]]:
    """The whole chunks of all chosen examples.

    Raises:
        UserError: there is none, though there are examples.
    """
    found = [(i, frames) for i in chosen for frames in _chunks(source, i, size)]
    if len(chosen) and not found:
        raise UserError(
            f"No example of {source.title} has {size} frames, as whole chunks need. Lower `data.{field}`."
        )
    return found


def _chunks(source: Source, index: int, size: int) -> list[range]:
    """The whole chunks of an example's frames; of a corrupt example one, to be met when used."""
    try:
        starts = transforms.chunk_starts(source.open(index, ()).num_frames, size)
    except CorruptRecord:
        starts = [0]
    return [range(start, start + size) for start in starts]


def _tensors(arrays: Mapping[str, np.ndarray]) -> Sample:
    sample = {key: torch.from_numpy(np.require(array, requirements="W")) for key, array in arrays.items()}
    for key in _CHANNELS_LAST:
        if key in sample:
            sample[key] = sample[key].permute(0, 3, 1, 2)
    ids = sample.get("segmentations")
    if ids is not None and ids.dtype != torch.uint8:
        sample["segmentations"] = ids.to(torch.int32)
    return sample


def _crop(sample: Sample, area: tuple[int, ...] | None) -> Sample:
    """Crop to `DataConfig.crop`.

    Raises:
        UserError: it extends beyond the frames.
    """
    if area is None:
        return sample
    height, width = transforms.frame_size(sample)
    part = transforms.Crop(*area)
    if min(part) < 0 or part.top + part.height > height or part.left + part.width > width:
        raise UserError(
            f"The recipe crops to rows {part.top} to {part.top + part.height} and columns {part.left} to "
            f"{part.left + part.width}, but the frames are {height} x {width}. Change `data.crop`, or set it to None."
        )
    return transforms.crop(sample, part)


def _decode_codes(sample: Sample) -> Sample:
    """Decode `flow` and `depth` from uint16 codes to pixels and distance, and drop their ranges.

    Arrays without a range are no codes and stay as they are.
    """
    decoded = {key: value for key, value in sample.items() if not key.endswith("_range")}
    for key in ("flow", "depth"):
        if f"{key}_range" in sample:
            values = transforms.decode_range(sample[key].numpy(), sample[f"{key}_range"].numpy())
            decoded[key] = torch.from_numpy(values)
    return decoded

"""Annotated instances as maps of ids: what overlaps, crowds and void pixels become is a named choice of the recipe.

An instance's id is its place among the annotations of its image or video, from 1 on, whichever of them are seen in a
frame. `ignore` marks what no metric may count; ids are 0 there. `classes` is 0 there too where it is void or a crowd,
but the largest category where several instances lie.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from torchslots.data.config import DataConfig
from torchslots.data.formats.coco_masks import decode_mask
from torchslots.data.formats.example import MalformedExample
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.transforms import mask_boxes

_VOID = 255


class Annotation(NamedTuple):
    """One annotation; `segmentations` has a mask as in the file for each frame, None where it is not seen."""

    number: int
    """Its `id` in the file."""
    category: int
    crowd: bool
    segmentations: Sequence[Any]


class LabelReader:
    """Labels of frames from annotations.

    Args:
        file: The annotations' file, for messages.
        config: The recipe's `overlaps` and `crowds`.
        overlaps: The data set's own rule, where the recipe has none.
    """

    def __init__(self, file: Path, config: DataConfig, overlaps: str) -> None:
        self.file, self.crowds, self.overlaps = file, config.crowds, config.overlaps or overlaps

    def objects(self, annotations: Sequence[Annotation]) -> list[Annotation]:
        """Those that are instances, in the order of their ids."""
        return [found for found in annotations if self.crowds == "objects" or not found.crowd]

    def read(
        self,
        annotations: Sequence[Annotation],
        frame: int,
        size: tuple[int, int],
        record: int,
        keys: Collection[str],
    ) -> dict[str, np.ndarray]:
        """Those of `segmentations`, `ignore`, `classes` and `boxes` that `keys` ask for, in one frame of `size` pixels.

        Where no overlaps are allowed `overlaps` come with ids: masks may overlap as they are stored, what counts is
        whether they do once they have the size asked for.

        Raises:
            CorruptRecord: a mask cannot be decoded or is of another size.
        """
        objects = self.objects(annotations)
        masks = self._masks(objects, frame, size, record)
        covering = masks.sum(0, dtype=np.int32)
        parts = {
            "segmentations": lambda: _ids(masks, covering),
            "ignore": lambda: (
                (covering > 1) & (self.overlaps == "ignore")
                | (covering == 0) & self._crowd(annotations, frame, size, record)
            ),
            "classes": lambda: _classes(objects, masks),
            "boxes": lambda: _boxes(masks),
            "overlaps": lambda: _pairs(objects, masks, covering),
        }
        wanted = {*keys, "overlaps"} if self.overlaps == "error" and "segmentations" in keys else {*keys}
        return {key: make() for key, make in parts.items() if key in wanted}

    def _masks(
        self, annotations: Sequence[Annotation], frame: int, size: tuple[int, int], record: int
    ) -> Bool[np.ndarray, "I H W"]:
        masks = np.zeros((len(annotations), *size), bool)
        for mask, found in zip(masks, annotations):
            segmentation = found.segmentations[frame]
            try:
                mask[:] = False if segmentation is None else decode_mask(segmentation, *size)
            except MalformedExample as error:
                where = f"has, in annotation {found.number}, frame {frame},"
                raise CorruptRecord(self.file, record, f"{where} {error}") from error
        return masks

    def _crowd(
        self, annotations: Sequence[Annotation], frame: int, size: tuple[int, int], record: int
    ) -> Bool[np.ndarray, "H W"]:
        crowds = [found for found in annotations if found.crowd and self.crowds == "ignore"]
        return np.logical_or.reduce(self._masks(crowds, frame, size, record), axis=0)


def _ids(masks: Bool[np.ndarray, "I H W"], covering: Int32[np.ndarray, "H W"]) -> Int32[np.ndarray, "H W"]:
    """Place of the only mask on each pixel, from 1 on; 0 where there is none, or several."""
    if not len(masks):
        return np.zeros_like(covering)
    return np.where(covering == 1, masks.argmax(0) + 1, 0).astype(np.int32)


def _boxes(masks: Bool[np.ndarray, "I H W"]) -> Float32[np.ndarray, "I 4"]:
    """Around each whole mask, also where others lie on it."""
    boxes = [mask_boxes(torch.from_numpy(mask[None].astype(np.int32)), 1)[0, 0].numpy() for mask in masks]
    return np.stack(boxes) if boxes else np.zeros((0, 4), np.float32)


def _pairs(
    objects: list[Annotation], masks: Bool[np.ndarray, "I H W"], covering: Int32[np.ndarray, "H W"]
) -> Int64[np.ndarray, "2 H W"]:
    """Where several instances lie, the numbers of the first two annotations, else 0."""
    pairs = np.zeros((2, *covering.shape), np.int64)
    rows, columns = np.nonzero(covering > 1)
    numbers, there = np.array([found.number for found in objects]), masks[:, rows, columns]
    for layer in range(2 if len(rows) else 0):
        first = there.argmax(0)
        pairs[layer, rows, columns] = numbers[first]
        there[first, np.arange(len(rows))] = False
    return pairs


def _classes(objects: list[Annotation], masks: Bool[np.ndarray, "I H W"]) -> np.ndarray:
    classes = np.zeros(masks.shape[1:], np.int32)
    for found, mask in zip(objects, masks):
        np.maximum(classes, found.category, out=classes, where=mask)
    return classes


def stack_frames(frames: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Labels of a clip from those of its frames."""
    return {key: np.stack([frame[key] for frame in frames]) for key in frames[0]}


def without_void(
    ids: UInt8[np.ndarray, "H W"], classes: UInt8[np.ndarray, "H W"], config: DataConfig
) -> dict[str, np.ndarray]:
    """Labels from palette indices, of which 255 is void: ignored, or uncovered where the recipe says so."""
    void = (ids == _VOID) | (classes == _VOID)
    return {
        "segmentations": np.where(void, 0, ids).astype(np.int32),
        "classes": np.where(void, 0, classes).astype(np.int32),
        "ignore": void if config.void == "ignore" else np.zeros_like(void),
    }

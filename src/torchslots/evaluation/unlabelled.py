"""What an evaluation measures on data without masks: how well frames are reconstructed, or the training loss."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

import torch

from torchslots.evaluation.observers import Losses, Observer, ReconstructionFigures
from torchslots.io.devices import figures_device
from torchslots.io.processes import gather
from torchslots.metrics.reconstruction import ReconstructionScores
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Batch


def stand_ins(
    model: ObjectCentricModel,
    first: Batch | None,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    observers: Sequence[Observer[Any]],
) -> list[Observer[Any]]:
    """Observers in place of the segmentation's: none where any process has masks, or nothing can be measured.

    Frames are compared where the decoder decodes them at once. A decoder that generates them takes long: its loss is
    taken.

    Args:
        first: a batch of this process; None: it has none.
        observers: those that are asked for.
    """
    kinds = gather(None if first is None else tuple(sorted(first)))
    keys = next((set(kind) for kind in kinds if kind is not None), set())
    if not keys or any(kind is not None and "segmentations" in kind for kind in kinds):
        return []
    decoder = model.decoder
    if "video" in decoder.targets and not decoder.sampling_options:
        known = any(isinstance(observer, ReconstructionFigures) for observer in observers)
        return [] if known else [ReconstructionFigures(ReconstructionScores(device=figures_device(device)))]
    known = any(isinstance(observer, Losses) for observer in observers)
    if decoder.targets and set(decoder.targets) <= keys and not known:
        return [Losses(model.loss, device, autocast)]
    return []


def with_first(batches: Iterable[Batch]) -> tuple[Batch | None, Iterator[Batch]]:
    """The first batch, None for none, and all batches."""
    rest = iter(batches)
    first = next(rest, None)
    return first, rest if first is None else chain([first], rest)

"""Judging a model on whole videos: slice by slice, handing the state on, in constant memory."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from torchslots.data.loader import ClipDataset, eval_batches, number_read
from torchslots.evaluation.baselines import BoxCopy
from torchslots.evaluation.observers import DRAWN_FRAMES, Observer, PlottedVideo, VideoPanel, merged
from torchslots.evaluation.report import DEFINITIONS, EvalReport
from torchslots.io.errors import UserError
from torchslots.io.processes import gather, is_first_process
from torchslots.io.progress import progress
from torchslots.metrics.scores import SegmentationScores
from torchslots.metrics.set_prediction import AveragePrecision
from torchslots.models.model import START_KEYS
from torchslots.models.slots.seeding import seeded
from torchslots.models.slots.temporal import forget
from torchslots.models.types import Batch, Pose, Prediction, State
from torchslots.recipes.config import EvalConfig

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Of the matrix products in each precision but fp32."""
_LOSS_DEFINITION = "The training loss of this name on whole videos, mean over videos."


class Predictor(Protocol):
    """What evaluation asks of a model besides being an `nn.Module`."""

    def predict(
        self,
        batch: Batch,
        state: State | None = None,
        slot_recon: bool = False,
        recon: bool = True,
        attn: bool = True,
    ) -> Prediction:
        """Segment a slice of frames, going on from `state`."""
        ...


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    config: EvalConfig,
    *,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    draw: int = 4,
    with_loss: bool = False,
    onlookers: Sequence[Observer] = (),
) -> EvalReport:
    """Judge `model` on whole videos; `torchslots.metrics.scores` defines every figure.

    A video goes through the model in slices of `config.slice_size` frames, each from the state that the one
    before left. The last slice is shorter where T does not divide (the reference pads it and cuts the
    padding off: the same for models whose frames do not look ahead). Figures are means over real videos,
    over all processes together where torch.distributed runs; every process must then call this, and the
    first one draws.

    Args:
        batches: from `eval_batches`: each video once over all processes. Frames past `config.num_frames` are
        left out.
        precision: `fp32`, `bf16` or `fp16`, of the matrix products.
        draw: videos to keep for pictures.
        with_loss: also average `model.loss` over videos, from whole batches at once (memory grows with T).
        onlookers: told of every frame as the model paints it; without any, only drawn videos are painted.

    Raises:
        UserError: no videos; onlookers of a model that paints no frames.
    """
    run = _Evaluation(model, config, torch.device(device), precision, draw, with_loss, onlookers)
    return run_pass(run, model, batches)


class Pass(Protocol):
    """An evaluation in progress."""

    def judge(self, batch: Batch) -> None:
        """Take one batch of whole videos."""
        ...

    def report(self) -> EvalReport:
        """All that was found."""
        ...


def run_pass(run: Pass, model: nn.Module, batches: Iterable[Batch]) -> EvalReport:
    """Every batch through a model that is in eval mode meanwhile."""
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            run.judge(batch)
    finally:
        model.train(was_training)
    return run.report()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """`fp32`, `bf16` or `fp16` for the matrix products below."""
    dtype = _DTYPES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def require_videos(number: int) -> None:
    """Raises UserError where nothing was judged."""
    if not number:
        raise UserError("There is no video to evaluate. Check the data folder, the split and `num_videos`.")


def box_copy_baseline(
    batches: Iterable[Batch], config: EvalConfig, *, device: torch.device | str = "cpu", draw: int = 0
) -> EvalReport:
    """What copying the first frame's boxes to all frames scores: the floor for conditioned models."""
    return evaluate(BoxCopy(), batches, config, device=device, draw=draw)


class _Evaluation:
    """The sums of one evaluation in progress."""

    def __init__(
        self,
        model: nn.Module,
        config: EvalConfig,
        device: torch.device,
        precision: str,
        draw: int,
        with_loss: bool,
        onlookers: Sequence[Observer],
    ) -> None:
        self._model, self._config, self._device, self._precision = model, config, device, precision
        self._draw, self._with_loss = draw if is_first_process() else 0, with_loss
        self._onlookers = onlookers
        self._scores = SegmentationScores(config.num_frames, device, config.num_background)
        self._sets = AveragePrecision(sync_on_compute=False)
        self._panels: list[PlottedVideo] = []
        self._losses: dict[str, float] = {}
        self._videos, self._num_slots = 0, 0

    def judge(self, batch: Batch) -> None:
        """Take one batch of whole videos through the model."""
        state, num_videos = None, len(batch["video"])
        ids: Tensor | None = batch.get("segmentations")
        num_objects = 0 if ids is None else int(ids.max()) + 1
        drawings = [VideoPanel(row) for row in range(min(self._draw - len(self._panels), num_videos))]
        batch = seeded(batch, self._config.seed, self._videos)
        for start, part in frame_slices(batch, self._config, self._device):
            drawn = drawings if start < DRAWN_FRAMES else []
            paints = bool(drawn or self._onlookers)
            with self._autocast():
                found = cast(Predictor, self._model).predict(
                    part, state, slot_recon=bool(drawn), recon=paints, attn=False
                )
            state = forget(found.state) if self._config.restart_memory else found.state
            self._num_slots = found.masks.shape[2]
            if ids is not None:
                truth, mask = part["segmentations"], part.get("padding_mask")
                self._scores.add(truth, found.segmentation, self._num_slots, num_objects, mask, start)
            if found.properties is not None and "properties" in part:
                self._sets.update(found.properties.cpu(), part["properties"].cpu())
            for drawing in drawn:
                drawing.add(part, found)
            for onlooker in self._onlookers:
                onlooker.add(_frames_of(found), part)
        for onlooker in self._onlookers:
            onlooker.finish(batch)
        if ids is not None:
            self._scores.finish()
        names = batch.get("name", [""] * num_videos)
        self._panels += [drawing.finish(names[drawing.row]) for drawing in drawings]
        self._videos += num_videos
        if self._with_loss:
            self._add_losses(batch)

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self._device, self._precision)

    def _add_losses(self, batch: Batch) -> None:
        moved = {key: _to(value, self._device) for key, value in batch.items() if key != "name"}
        with self._autocast():
            losses: dict[str, Tensor] = cast(Any, self._model).loss(moved)
        for name, value in losses.items():
            self._losses[name] = self._losses.get(name, 0.0) + float(value) * len(batch["video"])

    def report(self) -> EvalReport:
        """All that was found, by all processes."""
        figures, curves, census = self._scores.compute()
        figures |= self._average_precision()
        parts = gather((self._videos, self._num_slots, self._losses))
        videos, num_slots = sum(part[0] for part in parts), max(part[1] for part in parts)
        require_videos(videos)
        names = dict.fromkeys(name for part in parts for name in part[2])
        losses = {f"loss_{name}": sum(part[2].get(name, 0.0) for part in parts) / videos for name in names}
        looked = merged(self._onlookers)
        definitions = {name: DEFINITIONS.get(name, _LOSS_DEFINITION) for name in (*figures, *losses)}
        definitions |= looked.definitions
        settings = {**asdict(self._config), "num_slots": num_slots, "precision": self._precision}
        notes = _notes(census, videos, num_slots) + looked.notes
        curves = curves if census["videos"] else {}
        figures |= losses | looked.figures
        return EvalReport(figures, curves, videos, definitions, notes, settings, self._panels)

    def _average_precision(self) -> dict[str, float]:
        """Of the sets that all processes saw together; empty where none was predicted or no object is there."""
        parts = [sets for sets in gather(self._sets) if sets.update_called]
        for sets in parts[1:]:
            parts[0].merge_state(sets)
        found = parts[0].compute() if parts else {}
        return {name: value for name, value in found.items() if math.isfinite(value)}


def _notes(census: Mapping[str, int], videos: int, num_slots: int) -> list[str]:
    """What a reader of the figures should know."""
    notes = []
    if not census["videos"]:
        notes.append("The data have no masks, so there are no segmentation figures.")
    elif census["videos"] < videos:
        notes.append(f"Only {census['videos']} of {videos} videos have masks; the figures are theirs.")
    if census["crowded"]:
        notes.append(
            f"{census['crowded']} of {videos} videos show more objects than the model has slots for: up to "
            f"{census['most_objects']} objects and the background for {num_slots} slots. Some objects must "
            "share a slot, which lowers every figure; use more slots, or videos with fewer objects."
        )
    if census["empty"]:
        notes.append(
            f"{census['empty']} of {videos} videos show no object. FG-ARI counts them as 1, as the "
            "reference does; fg_miou and mbo leave them out."
        )
    return notes


def _frames_of(found: Prediction) -> Tensor:
    """The frames that a model painted.

    Raises:
        UserError: it paints something else.
    """
    if "video" not in found.recon:
        paints = ", ".join(found.recon) or "nothing"
        raise UserError(f"This model paints {paints} and no frames, so no frames can be judged or written.")
    return found.recon["video"].float()


def frame_slices(batch: Batch, config: EvalConfig, device: torch.device) -> Iterator[tuple[int, Batch]]:
    """The batch's frames in order, `slice_size` at once, on the device, with each slice's first index.

    What the batch says of random starts has no frames and goes along whole.
    """
    num_frames = min(batch["video"].shape[1], config.num_frames)
    for start in range(0, num_frames, config.slice_size):
        frames = slice(start, min(start + config.slice_size, num_frames))
        yield (
            start,
            {
                key: _to(value[:, frames] if _has_frames(key, value) else value, device)
                for key, value in batch.items()
            },
        )


def _has_frames(key: str, value: Any) -> bool:
    return isinstance(value, Tensor) and key not in START_KEYS


def _to(value: Any, device: torch.device) -> Any:
    """Tensors and frames of reference on the device, anything else as it is."""
    if isinstance(value, Pose):
        return value.map(partial(_to, device=device))
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value


def shown_batches(
    dataset: ClipDataset,
    settings: EvalConfig,
    what: str,
    *,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    skip_corrupt: bool = False,
    unit: str = "videos",
) -> Iterator[Batch]:
    """Each example once over all processes, in order.

    Args:
        what: is done, in front of the bar.
        unit: what the bar counts.

    Raises:
        UserError: the data set is empty, or data are wrong.
    """
    batches = eval_batches(
        dataset,
        batch_size=settings.batch_size,
        rank=rank,
        world_size=world_size,
        num_workers=num_workers,
        limit=settings.num_videos,
        skip_corrupt=skip_corrupt,
    )
    with progress(what, number_read(dataset, settings.num_videos), unit) as advance:
        for batch in batches:
            yield batch
            advance(len(batch["video"]) * world_size)

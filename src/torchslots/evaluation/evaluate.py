"""Evaluate a model on whole videos, slice by slice with the state passed on, in constant memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from torchslots.data.batch import ClipDataset
from torchslots.data.loader import eval_batches, number_read
from torchslots.evaluation.baselines import BoxCopy
from torchslots.evaluation.kept import Kept, through
from torchslots.evaluation.observers import (
    Losses,
    Needs,
    Observer,
    Segmentation,
    SetPrediction,
    Slice,
    merged,
)
from torchslots.evaluation.panels import PairPanel, Panels, VideoPanel
from torchslots.evaluation.report import EvalReport
from torchslots.evaluation.tokenizer import missing_figures, reconstruct_step
from torchslots.evaluation.unlabelled import stand_ins, with_first
from torchslots.io.devices import figures_device
from torchslots.io.errors import UserError
from torchslots.io.processes import gather
from torchslots.io.progress import progress
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slices import Carries, carry_state, cut, demand_finite, to_device
from torchslots.models.slots.seeding import seeded
from torchslots.models.slots.temporal import forget
from torchslots.models.tokenizers.base import Tokenizer
from torchslots.models.types import Batch, Prediction, State
from torchslots.recipes.config import EvalConfig

Autocast = Callable[[], AbstractContextManager[Any]]
Step = Callable[[Batch, State | None, Needs], Carries]
"""Runs the model on a slice of frames, from the state of the slice before."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    config: EvalConfig,
    *,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    num_plots: int = 4,
    with_loss: bool = False,
    observers: Sequence[Observer[Any]] = (),
    kept: Kept | None = None,
) -> EvalReport:
    """Evaluate a model of slots or a `Tokenizer` on whole videos; the report defines every figure.

    The model runs on slices of `config.slice_size` frames, each from the state of the one before. The last slice may be
    shorter (the reference pads it and removes the padding, which is equivalent for causal models). Figures are means
    over videos, over all processes if torch.distributed runs; then every process must call this, and the first one
    stores the videos to plot.

    Args:
        batches: from `eval_batches`: each video once over all processes. Frames past `config.num_frames` are left out.
        precision: `fp32`, `bf16` or `fp16`, of the matrix products.
        num_plots: videos to store for plots.
        with_loss: also average `model.loss` over videos, from whole batches at once (memory grows with T).
        observers: further observers. Without any, only videos to plot are decoded to frames; of data without masks all
            are, to measure their reconstruction.
        kept: where results are kept until the evaluation is done, so that it may be interrupted; None: nowhere.

    Raises:
        UserError: no videos; a model whose values are not finite; observers of frames with a model that decodes none;
            no such protocol.
    """
    device, figures = torch.device(device), figures_device(device)
    context = partial(autocast, device, precision)
    if isinstance(model, Tokenizer):
        step: Step = reconstruct_step(model, context)
        own: list[Observer[Any]] = [*missing_figures(observers, figures), Panels(num_plots, PairPanel)]
    else:
        step = predict_step(cast(ObjectCentricModel, model), context, config.restart_memory)
        hinted = isinstance(model, ObjectCentricModel) and model.takes_hints
        own = [Segmentation(config, figures, hinted=hinted), SetPrediction(), Panels(num_plots, VideoPanel)]
        if isinstance(model, ObjectCentricModel) and not with_loss:
            first, batches = with_first(batches)
            own += stand_ins(model, first, device, context, observers)
    if with_loss:
        own.append(Losses(cast(Any, model).loss, device, context))
    every = [*own, *observers]
    num_videos = run_pass(model, step, batches, config, device, every, kept)
    found = merged(every)
    settings = {**asdict(config), **found.settings, "precision": precision}
    return EvalReport(
        found.metrics, found.curves, num_videos, found.definitions, found.notes, settings, found.panels
    )


def run_pass(
    model: nn.Module,
    step: Step,
    batches: Iterable[Batch],
    config: EvalConfig,
    device: torch.device,
    observers: Sequence[Observer[Any]],
    kept: Kept | None = None,
) -> int:
    """Pass the result of `step` on every slice to the observers; returns the number of videos over all processes.

    The model is in evaluation mode until this returns.

    Raises:
        UserError: no videos; values that are not finite, with the video's name.
    """

    def needs() -> Needs:
        return Needs(*map(any, zip(*(observer.needs for observer in observers))))

    def run(seen: Slice, state: State | None) -> Carries:
        found = step(seen.part, state, needs())
        demand_finite(found, seen.batch.get("name", ()))
        return found

    num_videos, was_training = 0, model.training
    model.eval()
    try:
        for batch in batches:
            batch = seeded(batch, config.seed, num_videos)
            slices, fresh = _slices(batch, config, device), partial(carry_state, run)
            pairs = fresh(slices) if kept is None else through(kept, batch, slices, needs, fresh)
            for seen, found in pairs:
                shown = _for_figures(seen, found, figures_device(device))
                for observer in observers:
                    observer.add(*shown)
            for observer in observers:
                observer.finish(batch)
            num_videos += len(batch["video"])
    finally:
        model.train(was_training)
    total = sum(gather(num_videos))
    if not total:
        raise UserError("There is no video to evaluate. Check the data folder, the split and `num_videos`.")
    return total


def _for_figures(seen: Slice, found: Any, device: torch.device) -> tuple[Slice, Any]:
    """The slice and its result, without the state, where figures are computed.

    Reconstructions are laid out as kept ones are, since the order of a sum shows in its last digit.
    """
    found = found._replace(recon={name: value.contiguous() for name, value in found.recon.items()})
    if device == seen.part["video"].device:
        return seen, found
    moved = to_device({name: value for name, value in found._asdict().items() if name != "state"}, device)
    return seen._replace(part=to_device(seen.part, device)), found._replace(**moved)


def _slices(batch: Batch, config: EvalConfig, device: torch.device) -> Iterator[Slice]:
    start = 0
    for part in cut(batch, config.slice_size, config.num_frames):
        yield Slice(batch, to_device(part, device), start)
        start += part["video"].shape[1]


def predict_step(
    model: ObjectCentricModel | BoxCopy, context: Autocast, restart_memory: bool = False
) -> Step:
    """The step of `run_pass` for a model of slots.

    Args:
        context: entered for each slice.
        restart_memory: start every slice without the predictor's memory.
    """

    def step(part: Batch, state: State | None, needs: Needs) -> Prediction:
        with context():
            found = model.predict(part, state, slot_recon=needs.slot_recon, recon=needs.recon, attn=False)
        return found._replace(state=forget(found.state)) if restart_memory else found

    return step


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """A context for matrix products in `fp32`, `bf16` or `fp16`."""
    dtype = _DTYPES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def box_copy_baseline(
    batches: Iterable[Batch], config: EvalConfig, *, device: torch.device | str = "cpu", num_plots: int = 0
) -> EvalReport:
    """Evaluate copies of the first frame's boxes, a lower bound for conditional models."""
    return evaluate(BoxCopy(), batches, config, device=device, num_plots=num_plots)


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
    """Each example once over all processes, in order, with a progress bar.

    Args:
        what: text in front of the progress bar.
        unit: what the bar counts.

    Raises:
        UserError: the data set is empty or damaged.
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

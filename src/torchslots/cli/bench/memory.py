"""Measure the memory of the tensors of a training step."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from torchslots.io.counts import count_text
from torchslots.io.errors import UserError
from torchslots.models.types import Batch
from torchslots.training.step import TrainStep


def step_bytes(step: TrainStep, batch: Batch) -> int:
    """Peak bytes of tensors in a step: weights, moments, data, and what the step allocates.

    The process needs more, at least torch itself. The optimiser must have stepped before, so that its moments exist.
    """
    if step.accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(step.accelerator.device)
        step(1, batch)
        return torch.cuda.max_memory_allocated(step.accelerator.device)
    lasting = 3 * sum(_bytes(parameter) for parameter in step.model.parameters())
    return lasting + _passing_bytes(step, batch)


def require_memory(step: TrainStep, batch: Batch, clips: int) -> None:
    """Refuse a step on the CPU that this machine has no memory for: the system would kill the program without a word.

    Args:
        batch: one clip.
        clips: clips of the step.

    Raises:
        UserError: the tensors of one clip, as many times as there are clips, exceed the memory of the machine.
    """
    if step.accelerator.device.type != "cpu" or clips == 1:
        return
    step(1, batch)
    one = _passing_bytes(step, batch)
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if clips * one > has:
        fitting = max(has // (2 * one), 1)
        raise UserError(
            f"A step of {count_text(clips, 'clip')} needs about {clips * one / 1e9:.0f} GB, and this machine has "
            f"{has / 1e9:.0f} GB. "
            f"At most {count_text(fitting, 'clip')} fit well: --batch {fitting}."
        )


def _passing_bytes(step: TrainStep, batch: Batch) -> int:
    """Peak bytes on the CPU of a batch and of what a step allocates for it."""
    return sum(_bytes(value) for value in batch.values()) + rise(lambda: step(1, batch))


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0


def rise(work: Callable[[], object]) -> int:
    """Peak bytes of the tensors that `work` allocates on the CPU: of the running sum of allocations and releases."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events: Any = found.profiler
    moves = [(e.start_ns(), e.nbytes()) for e in events.kineto_results.events() if e.name() == "[memory]"]
    live = highest = 0
    for _, size in sorted(moves, key=lambda move: move[0]):
        live += size
        highest = max(highest, live)
    return highest

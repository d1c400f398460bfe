"""Run a step whose loss is not finite again, and name the first tensor that is not finite."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from torchslots.io.errors import UserError, first_line, memory_is_full
from torchslots.io.json_files import parse_json
from torchslots.io.ranges import Range, check_number
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe
from torchslots.training.checkpoint import read_tensors
from torchslots.training.step import TrainStep, load_weights
from torchslots.training.stops import BATCH_OF, WEIGHTS_OF

_BATCH = re.compile(rf"{BATCH_OF}(\d+)(_process_\d+)?\.safetensors")


class _Found(Exception):
    """A tensor that is not finite."""


def replay(file: Path, device: str | None = None) -> str:
    """Repeat the step of a saved batch with the weights beside it, on one process, with anomaly detection.

    Args:
        file: `nonfinite_batch_step_N.safetensors` in a run.
        device: as of `train`.

    Returns:
        A sentence with the first tensor that is not finite, in the order of computation: batch, weights, outputs of
        the model's parts, losses, gradients; or one that says that all are finite.

    Raises:
        UserError: no such file, no weights beside it, or files of another version.
    """
    named = _BATCH.fullmatch(file.name)
    if named is None:
        raise UserError(f"--replay needs a file {BATCH_OF}N.safetensors of a run, got {file}.")
    batch, about = _read(file)
    weights, _ = _read(file.with_name(f"{WEIGHTS_OF}{named[1]}.safetensors"))
    try:
        recipe, step = catalog.recipe_of(parse_json(about["recipe"]), str(file)), int(about["step"])
        check_number("step", step, Range(0, 2**53))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{file} does not say its recipe: an older version wrote it. Train again.") from error
    model = catalog.build(recipe.model)
    load_weights(model, weights, str(file))
    try:
        found = first_not_finite(model, recipe, step, batch, device)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        if memory_is_full(error):
            raise
        raise UserError(
            f"{file} does not fit the recipe that it holds: {first_line(error)}. Give the file as the run saved it."
        ) from error
    return f"Step {step + 1}: " + (
        f"the first tensor that is not finite is {found}."
        if found
        else "all tensors are finite here. The step may need its other processes, or the device it ran on."
    )


def first_not_finite(
    model: nn.Module, recipe: Recipe, step: int, batch: dict[str, Any], device: str | None = None
) -> str | None:
    """The first tensor of a step that is not finite, in words; None: all are finite."""
    for what, tensors in (("the batch", batch), ("the weights", model.state_dict())):
        for name, value in tensors.items():
            if bad := _bad(value):
                return f"`{name}` of {what}, {bad}"
    model.train()
    shortest = min(recipe.data.num_frames, recipe.train.short_clip or recipe.data.num_frames)
    stepper = TrainStep(model, recipe.optim, replace(recipe.train, compile=False), device, shortest)
    try:
        with _watched(model), torch.autograd.set_detect_anomaly(True):
            losses = stepper.repeat(step, batch)
    except _Found as found:
        return str(found)
    except RuntimeError as error:
        if "returned nan" not in str(error):
            raise
        return f"a gradient: {first_line(error)}"
    for name, value in losses.items():
        if bad := _bad(value):
            return f"the loss `{name}`, {bad}"
    for name, parameter in model.named_parameters():
        if bad := _bad(parameter.grad):
            return f"the gradient of `{name}`, {bad}"
    return None


@contextmanager
def _watched(model: nn.Module) -> Iterator[None]:
    """Stop at the first part of the model whose output is not finite."""

    def look(name: str) -> Any:
        def hook(part: nn.Module, inputs: Any, output: Any) -> None:
            for bad in map(_bad, _tensors(output)):
                if bad:
                    raise _Found(f"the output of `{name}` ({type(part).__name__}), {bad}")

        return hook

    with ExitStack() as hooks, _without_warning():
        for name, part in model.named_modules():
            hooks.callback(part.register_forward_hook(look(name or "the model")).remove)
        yield


@contextmanager
def _without_warning() -> Iterator[None]:
    """Anomaly detection warns that it is slow, and prints where a gradient's function was called."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(Anomaly Detection|Error detected)")
        yield


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        yield from _tensors([getattr(value, field.name) for field in fields(value)])
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _bad(value: Any) -> str | None:
    """How many values of a tensor are not finite, in words; None: it is finite, or no floats."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    count = int((~value.isfinite()).sum())
    return f"{list(value.shape)}: {count:,} of {value.numel():,} values" if count else None


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        tensors = read_tensors(file, file.read_bytes())
        with safe_open(file, framework="pt") as stored:
            return tensors, stored.metadata() or {}
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {first_line(error)}. Give the file that the run saved."
        ) from error

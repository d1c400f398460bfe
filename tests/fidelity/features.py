"""What recordings of systems on the features of transformers have in common: gradients and training steps by the
original's names, masks at another size."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fidelity.cases import Case, Row, Rows, absolute, holds, largest, norm
from fidelity.loading import Loaded
from fidelity.training import Steps, loss_of
from torchslots.convert import systems
from torchslots.convert.layouts import Arrays
from torchslots.io.errors import UserError
from torchslots.models.types import Batch

FEATURE, SHARE, LOSS = 3e-5, 1e-5, 2e-6
"""Largest differences of features and slots, and of masks, attention and targets; a loss's, as a part of it."""
CLOSE = 1e-5
"""Lead of the best slot under which a pixel is not compared."""
_STEP_LOSS, _GRADIENT, _STEP_GRADIENT, _RATE, _WEIGHT = 5e-6, 1e-4, 5e-4, 1e-12, 2e-6
_TINY = 1e-6
"""Norm below which a gradient is rounding."""

Drifting = Callable[[str, np.ndarray], np.ndarray]
"""Name and array to where its gradient is zero in exact arithmetic, so that Adam moves it by rounding."""


def gradient_rows(case: Case) -> Rows:
    """Norm, and a projection, of each gradient; nothing else has one."""
    grads = read_gradients(case)
    found: dict[str, Row] = {"no other gradient": holds("frozen parts have none")}
    for name, size in grads["grad_norm"].items():
        projected, tiny = np.array(grads["grad_dot_cos"][name]), size < _TINY
        found[f"grad_norm/{name}"] = absolute(np.array(size), SHARE if tiny else _GRADIENT * size)
        found[f"grad_dot_cos/{name}"] = absolute(projected, SHARE if tiny else _GRADIENT * size)
    return found


def read_gradients(case: Case) -> dict[str, Any]:
    """Content of grads.json.

    Raises:
        UserError: it is missing or damaged.
    """
    file = case.folder / "grads.json"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error!r}. Copy the folder again.") from error


def gradients(case: Case, loaded: Loaded, batch: Batch) -> Arrays:
    """Of the sum of losses."""
    model = loaded.model
    loss_of(model, batch).backward()
    grads = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    found: Arrays = {}
    theirs = loaded.to_theirs(grads)
    for name, array in theirs.items():
        flat = array.reshape(-1).astype(np.float64)
        found[f"grad_norm/{name}"] = np.asarray(norm(flat))
        found[f"grad_dot_cos/{name}"] = np.asarray(flat @ np.cos(np.arange(len(flat))))
    named = {leaf.name for leaf in loaded.leaves}
    same = set(theirs) == set(read_gradients(case)["grad_norm"]) and set(grads) <= named
    return {**found, "no other gradient": np.array(same)}


def training_rows(case: Case, rates: Sequence[Any], first: Path, trained: Path, drifting: Drifting) -> Rows:
    """Figures of each step, and the weights behind the last.

    Args:
        rates: of each step, of each group of parameters.
        first: the checkpoint that training begins with.
        trained: the checkpoint behind it; where that is not there the norms of its weights are compared.
    """
    recorded = case.config["train"]
    found = {
        "train_loss": Row(np.array(recorded["loss"]), _STEP_LOSS, measure=largest),
        "train_lr": Row(np.array(rates), _RATE, measure=largest),
        "train_grad_norm": Row(np.array(recorded["grad_norm"]), _STEP_GRADIENT, measure=largest),
    }
    apart = 2 * float(np.max(np.array(rates).reshape(len(rates), -1), 1).sum())
    if not trained.is_file():
        start = systems.TORCH.read(first).params
        for name, size in read_gradients(case)["param_norm_after_train"].items():
            moved = apart * float(np.sqrt(drifting(name, start[name]).sum()))
            found[f"param_norm_after_train/{name}"] = absolute(np.array(size), SHARE * size + moved)
        return found
    for name, array in systems.TORCH.read(trained).params.items():
        if not np.isfinite(array).all():
            continue  # a causal mask, no weight
        loose = drifting(name, array)
        found[f"trained/{name}"] = replace(absolute(array[~loose], _WEIGHT), amplified=True)
        if loose.any():
            found[f"trained_drifting/{name}"] = absolute(array[loose], apart)
    return found


def trained_arrays(loaded: Loaded, steps: Steps, drifting: Drifting) -> Arrays:
    """What `training_rows` asks for."""
    found: Arrays = {
        "train_loss": steps.losses,
        "train_lr": steps.rates,
        "train_grad_norm": steps.norms,
    }
    for name, array in loaded.to_theirs(dict(loaded.model.named_parameters())).items():
        loose = drifting(name, array)
        found[f"trained/{name}"] = array[~loose]
        found[f"trained_drifting/{name}"] = array[loose]
        found[f"param_norm_after_train/{name}"] = np.asarray(norm(array))
    return found


def written_back(loaded: Loaded, theirs: Arrays) -> np.ndarray:
    """Whether a checkpoint's arrays are those of our model, name for name and bit for bit."""
    arrays = loaded.program.arrays(theirs, loaded.config, str(loaded.read.path))
    ours = loaded.to_theirs(loaded.model.state_dict())
    same = set(ours) == set(arrays)
    return np.array(same and all(np.array_equal(ours[name], array) for name, array in arrays.items()))


def enlarged(masks: Tensor, size: tuple[int, ...]) -> Tensor:
    """Masks [n, K, h, w] at another size."""
    return F.interpolate(masks, size, mode="bilinear")


def margin(masks: np.ndarray, grid: tuple[int, int], size: tuple[int, ...]) -> np.ndarray:
    """By how much the best slot leads, from recorded masks [n, K, N]."""
    best = enlarged(torch.from_numpy(masks).unflatten(-1, grid), size).topk(2, dim=1).values
    return (best[:, 0] - best[:, 1]).numpy()

"""Gradients and training steps: ours for every system, and what the recordings of the torch originals hold of them.

There `grads.json` has L2 norms by the original's parameter names, `config.json` losses and rates of the steps, and in a
note the trainer's settings. Dropout was off throughout.
"""

import json
import math
import re
from collections.abc import Collection, Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from fidelity.cases import GRADIENT_TOLERANCE, LOSS_TOLERANCE, Case, Row, Rows, norm, zero_gradient
from fidelity.loading import Loaded
from torchslots.convert.layouts import Arrays
from torchslots.io.errors import UserError
from torchslots.models.types import Batch
from torchslots.recipes.config import OptimConfig
from torchslots.training import optim

_ROUNDING = 1e-6
"""Part of the whole gradient's norm under which a parameter's gradient is rounding of an exact zero: a bias in front of
a norm, or of keys, which a softmax cancels."""
_TRAINED = "param_norm_after_train/"


# ------------------------------------------------------------------------------------------------------ ours


def loss_of(model: Any, batch: Batch) -> torch.Tensor:
    """The sum of a model's losses."""
    return torch.stack(list(model.loss(batch).values())).sum()


def norms(arrays: Arrays, prefix: str) -> Arrays:
    """L2 norms, under names that begin with `prefix`."""
    return {f"{prefix}{name}": np.asarray(norm(array)) for name, array in arrays.items()}


def gradients(loaded: Loaded, batch: Batch, prefix: str = "grad_norm/") -> Arrays:
    """Norms of the loss's gradients by the original's names, and of all of them as `grad_global_norm`."""
    model: nn.Module = loaded.model
    loss_of(model, batch).backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    whole = torch.nn.utils.get_total_norm(list(found.values()))
    model.zero_grad()
    return {"grad_global_norm": whole.numpy(), **norms(loaded.to_theirs(found), prefix)}


class Steps(NamedTuple):
    """What training steps gave, one row for each; rates have one column for each group of parameters."""

    losses: np.ndarray
    rates: np.ndarray
    norms: np.ndarray


def _clipping(config: OptimConfig) -> tuple[float | None, Literal["l2", "inf"], float]:
    return config.max_grad_norm, config.clip_norm, config.clip_epsilon


def train(loaded: Loaded, config: OptimConfig, batches: Iterable[Batch], *, resume: bool = False) -> Steps:
    """Steps of our trainer's Adam; the model is trained on.

    Args:
        resume: go on from the checkpoint's moments and number of updates.
    """
    model, losses, rates, sizes = loaded.model, [], [], []
    optimizer = optim.adam(model, config)
    if resume:
        optim.load_optimizer(model, optimizer, loaded.adam(), str(loaded.read.path))
    done = (loaded.read.step or 0) if resume else 0
    for step, batch in enumerate(batches):
        optim.prepare_update(optimizer, config, done + step)
        rates.append([group["lr"] for group in optimizer.param_groups])
        loss = loss_of(model, batch)
        loss.backward()
        sizes.append(optim.clip_gradients(model.parameters(), *_clipping(config)).item())
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return Steps(np.array(losses), np.array(rates), np.array(sizes))


def torch_training(case: Case, loaded: Loaded, batch: Batch, batches: Iterable[Batch]) -> Arrays:
    """Gradients and five steps of a torch original's trainer; the model is trained on.

    Args:
        batches: what each step trains on.
    """
    found = gradients(loaded, batch)
    steps = train(loaded, settings(case), batches)
    trained = loaded.to_theirs(dict(loaded.model.named_parameters()))
    return {
        **found,
        "train_losses": steps.losses,
        "train_lrs": steps.rates,
        "train_grad_norm": steps.norms,
        **norms(trained, _TRAINED),
    }


def num_steps(case: Case) -> int:
    """Recorded steps of training."""
    return len(case.config["train"]["train_losses"])


# -------------------------------------------------------------------------------------------------- recorded


def torch_rows(case: Case, shapes: dict[str, tuple[int, ...]], drifting: Collection[str] = ()) -> Rows:
    """What was recorded of gradients and training of a torch original.

    Where the gradient was rounding, Adam made steps of full length out of it, whose direction nothing determines: there
    the norm of the trained weights may differ by all of them.

    Args:
        shapes: of its parameters.
        drifting: parameters of which a part has no gradient but rounding.
    """
    recorded, both = case.config["train"], _recorded_norms(case)
    scale = norm(np.array(list(both["grad_norm"].values())))
    vanishing = {name for name, size in both["grad_norm"].items() if size < _ROUNDING * scale}
    rows = {
        f"grad_norm/{name}": zero_gradient(scale)
        if name in vanishing
        else Row(np.array(size), GRADIENT_TOLERANCE)
        for name, size in both["grad_norm"].items()
    }
    rows["train_lrs"] = Row(np.array(recorded["train_lrs"]), LOSS_TOLERANCE)
    rows["train_losses"] = Row(np.array(recorded["train_losses"]))
    if min(recorded["train_grad_norm"]) >= 0:
        rows["train_grad_norm"] = Row(np.array(recorded["train_grad_norm"]), GRADIENT_TOLERANCE)
    apart = 2 * sum(max(rates) for rates in recorded["train_lrs"])
    for name, size in both["param_norm_after_train"].items():
        row = Row(np.array(size))
        if name in vanishing or name in drifting:
            drift = apart * math.sqrt(math.prod(shapes.get(name, ()))) / size
            row = Row(np.array(size), max(row.tolerance, drift), note="its gradient is rounding")
        rows[f"{_TRAINED}{name}"] = row
    return rows


def _recorded_norms(case: Case) -> dict[str, dict[str, float]]:
    file = case.folder / "grads.json"
    try:
        found = json.loads(file.read_text())
        return {what: found[what] for what in ("grad_norm", "param_norm_after_train")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {error!r}. Copy the folder again.") from error


def settings(case: Case) -> OptimConfig:
    """The trainer's settings from the case's note, such as "lr 1e-4, dec_lr 3e-4, min 0, total 20, warm 2, clip .05".

    Raises:
        UserError: a note that does not say them.
    """
    note = case.config.get("train_note") or case.config.get("loss_note") or ""
    peak, least, clip = _number(note, r"\blr"), _number(note, r"\bmin"), _number(note, r"\bclip")
    total, warm = _number(note, r"\btotal"), _number(note, r"\bwarm")
    if peak is None and not note:
        peak, least, total, warm = _from_rates(case)
    if peak is None or total is None or warm is None:
        raise UserError(
            f"{case.folder / 'config.json'}: `train_note` should say lr, min, total, warm and clip, got {note!r}."
        )
    return OptimConfig(
        learning_rate=peak,
        decoder_learning_rate=_number(note, r"\bdec(?:_lr)?"),
        min_learning_rate=peak / 100 if least is None else least,
        warmup_steps=warm,
        num_steps=int(total),
        max_grad_norm=clip,
    )


def _from_rates(case: Case) -> tuple[float, float, float, float]:
    """Without a note: warm-up ends at the highest of the recorded rates, and the schedule has 20 steps as in all
    recordings."""
    rates = [step[0] for step in case.config["train"]["train_lrs"]]
    return max(rates), rates[0], 20, float(rates.index(max(rates)))


def _number(note: str, what: str) -> float | None:
    found = re.search(what + r"\s+([\d.]+(?:e-?\d+)?)", note)
    return None if found is None else float(found[1])

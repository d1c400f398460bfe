"""What all recordings of the torch originals hold: gradients of the first loss, and five steps of their trainer.

`grads.json` has L2 norms by the original's parameter names, `config.json` losses and rates of the steps, and in a note
the trainer's settings. Dropout was off throughout.
"""

import copy
import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from fidelity.cases import (
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    OUTPUT_TOLERANCE,
    Case,
    Check,
    compare,
    compare_zero,
)
from torchslots.convert.layouts import Arrays
from torchslots.io.errors import UserError
from torchslots.models.types import Batch
from torchslots.recipes.config import OptimConfig
from torchslots.training import optim

ToTheirs = Callable[[dict[str, Tensor]], Arrays]
"""Our tensors by our names to the original's arrays by its names; tensors that are not there are left out."""

_ROUNDING = 1e-6
"""Part of the whole gradient's norm under which a parameter's gradient is rounding of an exact zero: a bias in front of
a norm, or of keys, which a softmax cancels."""

_TRAINED = "param_norm_after_train/"
_DOUBT = 4
"""Multiples of the rounding of a parameter's gradient under which the sign of an entry is not known."""


def gradient_checks(case: Case, model: nn.Module, batch: Batch, to_theirs: ToTheirs) -> Iterator[Check]:
    """The norm of every recorded parameter's gradient of the summed losses.

    Behind many norms float32 rounds them by more than is allowed. What disagrees is compared in float64 too: that is
    noted and changes no verdict.
    """
    found = list(_gradient_checks(case, _gradients(model, batch, to_theirs)))
    if not all(check.passed for check in found):
        exact = _gradient_checks(case, _gradients(copy.deepcopy(model).double(), _doubled(batch), to_theirs))
        found = [
            check if check.passed else replace(check, note=f"ours in float64 is {precise.relative:.1e} off")
            for check, precise in zip(found, exact)
        ]
    yield from found


def _gradients(model: nn.Module, batch: Batch, to_theirs: ToTheirs) -> Arrays:
    total: Any = sum(model(batch).values())
    total.backward()
    found = to_theirs({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    model.zero_grad()
    return found


def _gradient_checks(case: Case, ours: Arrays) -> Iterator[Check]:
    recorded = _recorded_norms(case)["grad_norm"]
    scale = float(np.linalg.norm(list(recorded.values())))
    for name, norm in recorded.items():
        mine = _norm(ours[name]) if name in ours else None
        if mine is None:
            yield _missing(f"grad_norm/{name}")
        elif norm < _ROUNDING * scale:
            yield compare_zero(f"grad_norm/{name}", mine, scale)
        else:
            yield compare(f"grad_norm/{name}", np.array(mine), np.array(norm), GRADIENT_TOLERANCE)


def training_checks(
    case: Case,
    model: nn.Module,
    batches: Callable[[int], Batch],
    to_theirs: ToTheirs,
    drifting: Collection[str] = (),
) -> Iterator[Check]:
    """The original trainer's steps from the case's weights: losses, rates, gradient norms, weights behind the last.

    Adam turns a gradient that is rounding into a whole step. Where something disagrees, our model makes the same steps
    in float64 too, and what float32 leaves open is noted; the verdict stays.

    Args:
        model: with the case's weights, in eval mode; it is trained on.
        batches: what step i trains on.
        drifting: parameters of which a part has no gradient but rounding.
    """
    untrained, recorded = copy.deepcopy(model), case.config["train"]
    ours = _train(case, model, batches, to_theirs)
    yield compare("train_lrs", ours.rates, np.array(recorded["train_lrs"]), LOSS_TOLERANCE)
    found = [*_step_checks(case, ours), *_final_checks(case, ours.weights, drifting)]
    if not all(check.passed for check in found):
        exact = _train(case, untrained.double(), lambda step: _doubled(batches(step)), to_theirs)
        found = [check if check.passed else _explained(case, check, ours, exact) for check in found]
    yield from found


class _Training(NamedTuple):
    """What some steps gave, one entry for each; gradients and weights by the original's names."""

    losses: np.ndarray
    rates: np.ndarray
    norms: np.ndarray
    gradients: list[Arrays]
    weights: Arrays


def _train(case: Case, model: nn.Module, batches: Callable[[int], Batch], to_theirs: ToTheirs) -> _Training:
    config = settings(case)
    optimizer = optim.adam(model, config)
    losses, rates, norms, gradients = [], [], [], []
    for step in range(len(case.config["train"]["train_losses"])):
        optim.prepare_update(optimizer, config, step)
        rates.append([group["lr"] for group in optimizer.param_groups])
        total: Any = sum(model(batches(step)).values())
        total.backward()
        given = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        gradients.append(to_theirs(given))
        norms.append(optim.clip_gradients(model.parameters(), config.max_grad_norm).item())
        losses.append(total.item())
        optimizer.step()
        optimizer.zero_grad()
    weights = to_theirs(dict(model.named_parameters()))
    return _Training(np.array(losses), np.array(rates), np.array(norms), gradients, weights)


def _step_checks(case: Case, ours: _Training) -> Iterator[Check]:
    recorded = case.config["train"]
    yield compare("train_losses", ours.losses, np.array(recorded["train_losses"]), OUTPUT_TOLERANCE)
    if min(recorded["train_grad_norm"]) >= 0:
        yield compare(
            "train_grad_norm", ours.norms, np.array(recorded["train_grad_norm"]), GRADIENT_TOLERANCE
        )


def _doubled(batch: Batch) -> Batch:
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in batch.items()
    }


def _explained(case: Case, check: Check, ours: _Training, exact: _Training) -> Check:
    """A check that failed, with what float32 leaves open.

    Of the figures of the steps that is how far ours in float32 is from ours in float64; of a norm of trained weights,
    whole steps of those weights alone whose gradient float32 cannot tell from zero in a step.
    """
    if check.name == "train_losses":
        open_to = compare("", ours.losses, exact.losses, 0.0).relative
    elif check.name == "train_grad_norm":
        open_to = compare("", ours.norms, exact.norms, 0.0).relative
    else:
        open_to = _left_open(check.name.removeprefix(_TRAINED), ours, exact, _whole_steps(case))
    return replace(check, note=f"float32 leaves {open_to:.1e} open, as float64 shows")


def _left_open(name: str, ours: _Training, exact: _Training, steps: float) -> float:
    """Relative change of a parameter's norm if its doubtful weights went elsewhere, each by `steps` at most."""
    if name not in exact.weights or name not in exact.gradients[0]:
        return 0.0
    doubtful = np.zeros(exact.weights[name].shape, bool)
    for single, double in zip(ours.gradients, exact.gradients):
        rounding = np.sqrt(np.mean((single[name] - double[name]) ** 2))
        doubtful |= np.abs(double[name]) < _DOUBT * rounding
    size, part = (_norm(values) for values in (exact.weights[name], exact.weights[name][doubtful]))
    return float(steps * part + steps**2 * doubtful.sum() / 2) / size**2


def _whole_steps(case: Case) -> float:
    """How far apart two weights may come that Adam moves in opposite directions in all recorded steps."""
    return 2 * sum(max(rates) for rates in case.config["train"]["train_lrs"])


def _final_checks(case: Case, ours: Arrays, drifting: Collection[str]) -> Iterator[Check]:
    """Norms of the trained weights. Where the gradient was rounding, Adam made steps of full length out of it, whose
    direction nothing determines: there the norm may differ by all of them."""
    norms = _recorded_norms(case)
    scale = float(np.linalg.norm(list(norms["grad_norm"].values())))
    steps = _whole_steps(case)
    for name, norm in norms["param_norm_after_train"].items():
        label = f"{_TRAINED}{name}"
        if name not in ours:
            yield _missing(label)
            continue
        array = ours[name]
        if name in drifting or norms["grad_norm"].get(name, 0.0) < _ROUNDING * scale:
            allowed = max(steps * float(np.sqrt(array.size)) / norm, OUTPUT_TOLERANCE)
            yield compare(label, np.array(_norm(array)), np.array(norm), allowed, "its gradient is rounding")
        else:
            yield compare(label, np.array(_norm(array)), np.array(norm), OUTPUT_TOLERANCE)


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


def _recorded_norms(case: Case) -> dict[str, dict[str, float]]:
    file = case.folder / "grads.json"
    try:
        norms = json.loads(file.read_text())
        return {what: norms[what] for what in ("grad_norm", "param_norm_after_train")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {error!r}. Copy the folder again.") from error


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(array, np.float64)))


def _missing(name: str) -> Check:
    return Check(name, (), 0.0, 0.0, 0.0, False, "recorded, but not computed here")

"""The optimiser as plain functions: schedules, Adam, clipping, weight average, named state.

A model has up to three parts with different learning rates, distinguished by the names of their parameters: the decoder
(`decoder.`), a tokenizer in it that is trained with the slots (`decoder.tokenizer.`), and the rest.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from torchslots.io.errors import UserError
from torchslots.recipes.config import OptimConfig

EPSILON = 1e-8
"""Adam's epsilon."""
TOKENIZER, DECODER, REST = "decoder.tokenizer.", "decoder.", ""
"""The parts of a model, as prefixes of the names of their parameters."""
_FUSED = ("cuda", "cpu")
"""Kinds of devices on which torch's Adam has a fused kernel."""
_NORMS = {"l2": 2.0, "inf": math.inf}


def cosine_with_warmup(
    step: int, *, peak: float, warmup_steps: float, num_steps: int, least: float = 0.0
) -> float:
    """Learning rate after `step` updates: linear from `least`, then half a cosine back.

    With `least` 0, SAVi's schedule: the first update has rate 0.

    Args:
        step: updates done, from 0; after `num_steps` the rate is constant.
    """
    if step < warmup_steps:
        return least + (peak - least) * step / warmup_steps
    done = (min(step, num_steps) - warmup_steps) / max(num_steps - warmup_steps, 1)
    return least + 0.5 * (peak - least) * (1.0 + math.cos(math.pi * done))


def exponential_with_warmup(
    step: int, *, peak: float, warmup_steps: float, decay_rate: float, decay_steps: int
) -> float:
    """Learning rate after `step` updates: linear from zero, times a continuous exponential decay from step 0 on.

    Slot Attention's schedule; the first update has rate 0.

    Args:
        decay_rate: factor for every `decay_steps` steps.
    """
    warm = step / warmup_steps if step < warmup_steps else 1.0
    return peak * warm * decay_rate ** (step / decay_steps)


def schedule(config: OptimConfig, part: str = REST) -> Callable[[int], float]:
    """The recipe's learning rate of a part of the model, as a function of the updates done.

    Raises:
        UserError: a minimum rate that is above a part's rate, or with the exponential schedule.
    """
    peak = _peak(config, part)
    if part == TOKENIZER and config.tokenizer_learning_rate is not None:
        return lambda step: peak
    if config.schedule == "exponential":
        decay = {"decay_rate": config.decay_rate, "decay_steps": config.decay_steps}
        return partial(exponential_with_warmup, peak=peak, warmup_steps=config.warmup_steps, **decay)
    ends = {"num_steps": config.num_steps, "least": config.min_learning_rate}
    return partial(cosine_with_warmup, peak=peak, warmup_steps=config.warmup_steps, **ends)


def _peak(config: OptimConfig, part: str) -> float:
    above = {TOKENIZER: (config.tokenizer_learning_rate, config.decoder_learning_rate)}
    rates = (*above.get(part, ()), config.decoder_learning_rate if part == DECODER else None)
    peak = next((rate for rate in rates if rate is not None), config.learning_rate)
    if not 0.0 <= config.min_learning_rate <= peak < math.inf:
        raise UserError(
            f"optim.min_learning_rate should lie between 0 and each part's learning rate, got "
            f"{config.min_learning_rate} and {peak} for `{part or 'all but decoder.'}`. Lower it, or raise the rate."
        )
    if config.min_learning_rate and config.schedule == "exponential":
        raise UserError(
            f"optim.min_learning_rate is {config.min_learning_rate}, but the exponential schedule has no minimum. "
            f"Choose optim.schedule cosine, or optim.min_learning_rate 0."
        )
    return peak


def prepare_update(optimizer: torch.optim.Optimizer, config: OptimConfig, step: int) -> float:
    """Set the learning rates after `step` updates and, if in the recipe, Keras' epsilon; returns the rate of `REST`.

    Keras divides by sqrt(v) + eps before it corrects the bias of v, torch after it: with an epsilon that is larger by
    1 / sqrt(1 - beta2^t) torch is equivalent. The difference matters for gradients below about 1e-6.
    """
    for group in optimizer.param_groups:
        group["lr"] = schedule(config, group.get("part", REST))(step)
        if config.epsilon_hat:
            group["eps"] = EPSILON / math.sqrt(1.0 - group["betas"][1] ** (step + 1))
    return schedule(config)(step)


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The rate of each part, by its name in the log: `lr`, `lr_decoder`, `lr_tokenizer`."""
    names = {REST: "lr", DECODER: "lr_decoder", TOKENIZER: "lr_tokenizer"}
    return {names[group.get("part", REST)]: float(group["lr"]) for group in optimizer.param_groups}


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adam(model: nn.Module, config: OptimConfig | None = None) -> torch.optim.Adam:
    """Adam with the reference's constants (0.9, 0.999, 1e-8), fused if torch has the kernel.

    `prepare_update` sets the learning rates before each step. The fused kernel assumes contiguous memory, so a weight,
    its gradient and its moments must have equal strides: autograd ensures the gradient's, `load_optimizer` the
    moments'.

    Args:
        config: the rates of the parts; None: one rate for all.

    Raises:
        UserError: no trainable parameter, a rate for a part that is missing, or an impossible schedule.
    """
    parameters, config = trainable(model), config or OptimConfig()
    if not parameters:
        raise UserError(f"{type(model).__name__} has no trainable parameter: all are frozen. Unfreeze some.")
    fusable = all(parameter.device.type in _FUSED for parameter in parameters.values())
    choice = {"fused": True} if fusable else {"foreach": True}
    given = {TOKENIZER: config.tokenizer_learning_rate, DECODER: config.decoder_learning_rate}
    own = [part for part, rate in given.items() if rate is not None]  # the narrowest first
    groups = _groups(parameters, own)
    for part in (REST, *own):
        schedule(config, part)
        if part and not any(group["part"] == part for group in groups):
            field = "tokenizer" if part == TOKENIZER else "decoder"
            raise UserError(
                f"optim.{field}_learning_rate is set, but {type(model).__name__} trains nothing named `{part}*`. "
                f"Leave it out."
            )
    return torch.optim.Adam(groups, lr=0.0, betas=(0.9, 0.999), eps=EPSILON, **choice)


def _groups(parameters: dict[str, nn.Parameter], own: list[str]) -> list[dict[str, Any]]:
    """Adam's groups without empty ones; a parameter belongs to the first part whose prefix its name has."""
    members: dict[str, list[nn.Parameter]] = {part: [] for part in (REST, *reversed(own))}
    for name, parameter in parameters.items():
        members[next(part for part in (*own, REST) if name.startswith(part))].append(parameter)
    return [{"params": owned, "part": part} for part, owned in members.items() if owned]


def clip_gradients(
    parameters: Iterable[nn.Parameter], max_norm: float | None, kind: Literal["l2", "inf"] = "l2"
) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)); returns the norm before, on the gradients' device.

    A norm that is not finite makes the gradients useless: the caller must check it before the update.
    """
    limit = math.inf if max_norm is None else max_norm
    return nn.utils.clip_grad_norm_(parameters, limit, norm_type=_NORMS[kind], foreach=True)


def average_weights(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """An exponential moving average of the weights, starting with those after the first update; None without `decay`.

    Raises:
        UserError: a decay outside [0, 1).
    """
    if decay is None:
        return None
    if not 0.0 <= decay < 1.0:
        raise UserError(f"optim.ema_decay should be in [0, 1), got {decay}. Usual are 0.999 and 0.9999.")
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state under `<what>/<parameter name>`, which does not depend on the order of parameters."""
    return {
        f"{what}/{name}": value
        for name, parameter in trainable(model).items()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], where: str
) -> None:
    """Load the tensors of `optimizer_tensors`, on the devices and with the strides of the parameters.

    Raises:
        UserError: state of a parameter that the model lacks, or of another shape; `where` names the source.
    """
    parameters = trainable(model)
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        what, name = key.split("/", 1)
        if name not in parameters or (value.ndim and value.shape != parameters[name].shape):
            raise UserError(
                f"{where}: the optimiser's `{key}` {list(value.shape)} fits no parameter of this model. "
                f"Resume with the recipe that wrote it, or start in a new run folder."
            )
        state.setdefault(name, {})[what] = _laid_out(value, parameters[name])
    whole = optimizer.state_dict()
    names = {parameter: name for name, parameter in parameters.items()}
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    whole["state"] = {index: state[name] for index, name in enumerate(order) if name in state}
    optimizer.load_state_dict(whole)


def _laid_out(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """A moment with the strides of its parameter (in checkpoints it is contiguous); counters are unchanged."""
    if not value.ndim:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)

"""The optimiser's parts as plain functions: schedule, Adam, clipping, weight average, named state."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from torchslots.errors import UserError
from torchslots.training.recipe import OptimConfig

EPSILON = 1e-8
"""What Adam adds to the root of the second moment."""


def cosine_with_warmup(step: int, *, peak: float, warmup_steps: int, num_steps: int) -> float:
    """Learning rate of the update that follows `step` finished ones: linear from zero, then a half cosine to
    zero.

    SAVi's schedule; the first update has rate 0. A pure function of the step, so a resumed run continues
    exactly.

    Args:
        step: updates done so far, from 0; beyond `num_steps` the rate stays at its end.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    done = (min(step, num_steps) - warmup_steps) / max(num_steps - warmup_steps, 1)
    return 0.5 * peak * (1.0 + math.cos(math.pi * done))


def exponential_with_warmup(
    step: int, *, peak: float, warmup_steps: int, decay_rate: float, decay_steps: int
) -> float:
    """Learning rate of the update that follows `step` finished ones: linear from zero, times a continuous
    exponential decay that runs during warm-up too.

    Slot Attention's schedule; the first update has rate 0.

    Args:
        decay_rate: factor for every `decay_steps` steps.
    """
    warm = step / warmup_steps if step < warmup_steps else 1.0
    return peak * warm * decay_rate ** (step / decay_steps)


def schedule(config: OptimConfig) -> Callable[[int], float]:
    """The recipe's learning rate as a function of the updates done."""

    def decayed(step: int) -> float:
        return exponential_with_warmup(
            step,
            peak=config.learning_rate,
            warmup_steps=config.warmup_steps,
            decay_rate=config.decay_rate,
            decay_steps=config.decay_steps,
        )

    def rate(step: int) -> float:
        return cosine_with_warmup(
            step, peak=config.learning_rate, warmup_steps=config.warmup_steps, num_steps=config.num_steps
        )

    return decayed if config.schedule == "exponential" else rate


def prepare_update(optimizer: torch.optim.Optimizer, config: OptimConfig, step: int) -> float:
    """Set the learning rate, and where the recipe asks for it Keras' epsilon, of the update that follows `step`
    finished ones; returns the rate.

    Keras divides by sqrt(v) + eps before it corrects the bias of v, torch after it: an epsilon that is larger by
    1 / sqrt(1 - beta2^t) makes torch's form the same. It matters for gradients below about 1e-6.
    """
    rate = schedule(config)(step)
    for group in optimizer.param_groups:
        group["lr"] = rate
        if config.epsilon_hat:
            group["eps"] = EPSILON / math.sqrt(1.0 - group["betas"][1] ** (step + 1))
    return rate


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that the optimiser owns, by name; frozen ones are left out."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adam(model: nn.Module) -> torch.optim.Adam:
    """Adam with the reference's constants (0.9, 0.999, 1e-8): one fused kernel on CUDA, foreach elsewhere.

    `prepare_update` sets the learning rate before each step.

    Raises:
        UserError: the model has nothing to train.
    """
    parameters = list(trainable(model).values())
    if not parameters:
        raise UserError(f"{type(model).__name__} has no trainable parameter: every one is frozen.")
    on_cuda = all(parameter.is_cuda for parameter in parameters)
    choice = {"fused": True} if on_cuda else {"foreach": True}
    return torch.optim.Adam(parameters, lr=0.0, betas=(0.9, 0.999), eps=EPSILON, **choice)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)) and return the norm from before.

    The norm is a tensor on the gradients' device, not read here: a non-finite one makes the gradients
    useless, so the caller must test it before it steps.
    """
    return nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm, foreach=True)


def average_weights(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """An exponential moving average of the weights, starting at the weights after the first update; None:
    none is kept.

    Raises:
        UserError: a decay outside [0, 1).
    """
    if decay is None:
        return None
    if not 0.0 <= decay < 1.0:
        raise UserError(
            f"optim.ema_decay should lie in [0, 1), got {decay}. Common values are 0.999 and 0.9999."
        )
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state under `<what>/<parameter name>`: names survive a change of parameter order."""
    return {
        f"{what}/{name}": value
        for name, parameter in trainable(model).items()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], where: str
) -> None:
    """Put back what `optimizer_tensors` gave; devices follow the parameters.

    Raises:
        UserError: state for a parameter that the model lacks, or of another shape, naming `where` it was
            read.
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
        state.setdefault(name, {})[what] = value
    whole = optimizer.state_dict()
    whole["state"] = {index: state[name] for index, name in enumerate(parameters) if name in state}
    optimizer.load_state_dict(whole)

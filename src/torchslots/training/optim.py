"""The optimiser as plain functions: schedules, Adam, clipping, weight average, named state.

A model has up to four parts with a learning rate of their own, distinguished by the names of their parameters: the
decoder (`decoder.`), in it a tokenizer that is trained along (`decoder.tokenizer.`), a tuned backbone
(`slot_encoder.encoder.backbone.`), and the rest.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
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
BACKBONE = "slot_encoder.encoder.backbone."
"""The parts of a model, by how the names of their parameters begin."""
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


def exponential_after_warmup(
    step: int, *, peak: float, warmup_steps: float, decay_rate: float, decay_steps: int
) -> float:
    """Learning rate of the update that follows `step` finished ones: linear from zero, then a continuous exponential
    decay that begins behind warm-up.

    DINOSAUR's schedule; the first update has rate 0.

    Args:
        decay_rate: factor for every `decay_steps` steps.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    return peak * decay_rate ** ((step - warmup_steps) / decay_steps)


def cosine_from_half(
    step: int, *, peak: float, warmup_steps: float, num_steps: int, least: float = 0.0
) -> float:
    """Learning rate of the update that follows `step` finished ones: a part `step + 1/2` of warm-up, then a half cosine
    that arrives at `least` in the last of `num_steps` updates.

    FT-DINOSAUR's schedule.
    """
    if step < warmup_steps:
        return peak * (step + 0.5) / warmup_steps
    done = (min(step, num_steps - 1) - warmup_steps) / max(num_steps - warmup_steps - 1, 1)
    return least + 0.5 * (peak - least) * (1.0 + math.cos(math.pi * done))


def schedule(config: OptimConfig, part: str = REST, factor: float = 1.0) -> Callable[[int], float]:
    """The recipe's learning rate of a part of the model, as a function of the updates done.

    Args:
        factor: of the part's peak.

    Raises:
        UserError: a minimum rate that is above a part's rate, or with the exponential schedule.
    """
    peak = _peak(config, part, factor)
    if part == TOKENIZER and config.tokenizer_learning_rate is not None:
        return lambda step: peak
    start = {"peak": peak, "warmup_steps": config.warmup_steps}
    if config.schedule in _EXPONENTIAL:
        decay = {"decay_rate": config.decay_rate, "decay_steps": config.decay_steps}
        return partial(_EXPONENTIAL[config.schedule], **start, **decay)
    ends = {"num_steps": config.num_steps, "least": config.min_learning_rate}
    return partial(_COSINE[config.schedule], **start, **ends)


_EXPONENTIAL = {"exponential": exponential_with_warmup, "exponential_after_warmup": exponential_after_warmup}
_COSINE = {"cosine": cosine_with_warmup, "cosine_from_half": cosine_from_half}


def _peak(config: OptimConfig, part: str, factor: float) -> float:
    own = {
        TOKENIZER: (config.tokenizer_learning_rate, config.decoder_learning_rate),
        DECODER: (config.decoder_learning_rate,),
        BACKBONE: (config.backbone_learning_rate,),
    }
    rates = (rate for rate in own.get(part, ()) if rate is not None)
    peak = factor * next(rates, config.learning_rate)
    if not 0.0 <= config.min_learning_rate <= peak < math.inf:
        raise UserError(
            f"optim.min_learning_rate should lie between 0 and each part's learning rate, got "
            f"{config.min_learning_rate} and {peak} for `{part or 'all but decoder.'}`. Lower it, or raise the rate."
        )
    if config.min_learning_rate and config.schedule in _EXPONENTIAL:
        raise UserError(
            f"optim.min_learning_rate is {config.min_learning_rate}, but the exponential schedule has no "
            f"minimum. Choose optim.schedule cosine, or optim.min_learning_rate 0."
        )
    return peak


def prepare_update(optimizer: torch.optim.Optimizer, config: OptimConfig, step: int) -> float:
    """Set the learning rates after `step` updates and, if in the recipe, Keras' epsilon; returns the rate of `REST`.

    Keras divides by sqrt(v) + eps before it corrects the bias of v, torch after it: with an epsilon that is larger by
    1 / sqrt(1 - beta2^t) torch is equivalent. The difference matters for gradients below about 1e-6.
    """
    for group in optimizer.param_groups:
        group["lr"] = schedule(config, group.get("part", REST), group.get("factor", 1.0))(step)
        if config.epsilon_hat:
            group["eps"] = EPSILON / math.sqrt(1.0 - group["betas"][1] ** (step + 1))
    return schedule(config)(step)


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The rate of each part, under the names of a log: `lr`, `lr_decoder`, `lr_tokenizer`, and `lr_backbone`, which is
    that of its last trained block."""
    names = {REST: "lr", DECODER: "lr_decoder", TOKENIZER: "lr_tokenizer", BACKBONE: "lr_backbone"}
    groups = reversed(optimizer.param_groups)
    found = {names[group.get("part", REST)]: float(group["lr"]) for group in groups}
    return {name: found[name] for name in names.values() if name in found}


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adam(model: nn.Module, config: OptimConfig | None = None) -> torch.optim.Adam | torch.optim.AdamW:
    """Adam with the reference's constants (0.9, 0.999, 1e-8), in one pass over memory where torch has it; AdamW where
    the recipe has weights decay (Loshchilov and Hutter 2019).

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
    own = _own_rates(config)
    groups = _groups(parameters, own, config)
    for part in (REST, *own):
        schedule(config, part)
        if part and not any(group["part"] == part for group in groups):
            raise UserError(
                f"optim.{_FIELDS[part]}_learning_rate is set, but {type(model).__name__} trains nothing named "
                f"`{part}*`. Leave it out."
            )
    for group in groups:
        schedule(config, group["part"], group.get("factor", 1.0))
    _check_decay(config)
    settings: dict[str, Any] = {"lr": 0.0, "betas": (0.9, 0.999), "eps": EPSILON, **choice}
    if config.backbone_weight_decay:
        return torch.optim.AdamW(groups, weight_decay=0.0, **settings)
    return torch.optim.Adam(groups, **settings)


_FIELDS = {TOKENIZER: "tokenizer", DECODER: "decoder", BACKBONE: "backbone"}


def _check_decay(config: OptimConfig) -> None:
    shaped = config.backbone_layer_decay != 1.0 or config.backbone_weight_decay != 0.0
    if shaped and config.backbone_learning_rate is None:
        raise UserError(
            "optim.backbone_layer_decay and optim.backbone_weight_decay are of a backbone with a rate of its own. Set "
            "optim.backbone_learning_rate, too."
        )
    if not 0.0 < config.backbone_layer_decay <= 1.0 or not 0.0 <= config.backbone_weight_decay < math.inf:
        raise UserError(
            f"optim.backbone_layer_decay should lie in (0, 1] and optim.backbone_weight_decay not be negative, got "
            f"{config.backbone_layer_decay} and {config.backbone_weight_decay}. Usual are 0.85 and 0.01."
        )


def _own_rates(config: OptimConfig) -> list[str]:
    """Parts with a rate of their own, the narrowest first."""
    given = {
        TOKENIZER: config.tokenizer_learning_rate,
        DECODER: config.decoder_learning_rate,
        BACKBONE: config.backbone_learning_rate,
    }
    return [part for part, rate in given.items() if rate is not None]


def _groups(parameters: dict[str, nn.Parameter], own: list[str], config: OptimConfig) -> list[dict[str, Any]]:
    """Adam's groups, none of them empty; a parameter belongs to the first part whose prefix its name has."""
    members: dict[str, dict[str, nn.Parameter]] = {part: {} for part in (REST, *reversed(own))}
    for name, parameter in parameters.items():
        members[next(part for part in (*own, REST) if name.startswith(part))][name] = parameter
    found: list[dict[str, Any]] = []
    for part, owned in members.items():
        if part == BACKBONE:
            found += _backbone_groups(owned, config)
        elif owned:
            found.append({"params": list(owned.values()), "part": part})
    return found


_BLOCK = re.compile(rf"{re.escape(BACKBONE)}blocks\.(\d+)\.")


def _backbone_groups(parameters: Mapping[str, nn.Parameter], config: OptimConfig) -> list[dict[str, Any]]:
    """Of a vision transformer: for each block, the last first, what decays and what does not."""
    blocks = {name: int(found[1]) if (found := _BLOCK.match(name)) else 0 for name in parameters}
    last = max(blocks.values(), default=0)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        plain = parameter.ndim < 2 or not name.endswith("weight")
        groups.setdefault((last - blocks[name], plain), []).append(parameter)
    return [
        {
            "params": owned,
            "part": BACKBONE,
            "factor": config.backbone_layer_decay**depth,
            "weight_decay": 0.0 if plain else config.backbone_weight_decay,
        }
        for (depth, plain), owned in sorted(groups.items())
    ]


def clip_gradients(
    parameters: Iterable[nn.Parameter],
    max_norm: float | None,
    kind: Literal["l2", "inf"] = "l2",
    epsilon: float = 1e-6,
) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + epsilon)); returns the norm before, on the gradients' device.

    A norm that is not finite makes the gradients useless: the caller must check it before the update.

    Args:
        epsilon: torch's own is 1e-6; optax has none.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients, _NORMS[kind], foreach=True)
    if max_norm is not None and gradients:
        factor = (max_norm / (norm + epsilon)).clamp(max=1.0)
        torch._foreach_mul_(gradients, factor.to(gradients[0].device))
    return norm


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

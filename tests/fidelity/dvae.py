"""The discrete VAE's recorded cases: scores, tokens, pictures, losses, gradients and training steps beside the
original's, with the recorded draws."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from fidelity import training as torch_training
from fidelity.cases import (
    LOSS_TOLERANCE,
    OUTPUT_TOLERANCE,
    Case,
    Check,
    compare,
    compare_absolute,
    compare_integers,
)
from torchslots.convert.layouts import Arrays, to_ours, to_theirs
from torchslots.convert.originals import dvae as dvae_torch
from torchslots.convert.readers import torch as torch_checkpoint
from torchslots.models.layers.ranges import from_signed
from torchslots.models.tokenizers.dvae import DVAE, cosine_temperature, gumbel_softmax
from torchslots.models.types import Batch
from torchslots.recipes.tokenizers import DvaeConfig, build_dvae


def checks(case: Case) -> Iterator[Check]:
    """Every recorded tensor of the case, its temperatures, its gradients and its training."""
    config, model = load(case)
    with torch.no_grad():
        ours = forward(model, case.inputs, config.temperature_end)
    for name, recorded in case.outputs.items():
        if name == "token_id":
            yield compare_integers(name, ours[name], recorded, _margins(case.outputs["logits"]))
        elif name in ours:
            tolerance = LOSS_TOLERANCE if "loss" in name else OUTPUT_TOLERANCE
            yield compare(name, ours[name], recorded, tolerance)
        else:
            yield Check(name, recorded.shape, 0.0, 0.0, 0.0, False, "recorded, but not computed here")
    yield from _temperature_checks(case)
    theirs = partial(to_theirs, dvae_torch.leaves(config))
    yield from torch_training.gradient_checks(case, model, to_batch(case.inputs), theirs)
    yield from torch_training.training_checks(case, model, partial(_training_batch, case.inputs), theirs)


def load(case: Case) -> tuple[DvaeConfig, DVAE]:
    """Our numbers, and our model with the case's weights, in eval mode."""
    checkpoint = torch_checkpoint.read(case.folder / "model.pth")
    config = dvae_torch.from_reference(case.config["config"])
    model, leaves = build_dvae(config), dvae_torch.leaves(config)
    model.load_state_dict(to_ours(leaves, checkpoint.params, str(checkpoint.path)))
    return config, model.eval()


def to_batch(inputs: Arrays) -> Batch:
    """Recorded frames in [-1, 1] and exponential draws as a batch."""
    video = from_signed(torch.from_numpy(inputs["img"]))
    return {"video": video, "exponential": torch.from_numpy(inputs["exponential"])}


def _training_batch(inputs: Arrays, step: int) -> Batch:
    return to_batch({"img": inputs["img"], "exponential": inputs["train_exponential"][step]})


def _margins(logits: np.ndarray) -> np.ndarray:
    """By how much the likeliest token of each place leads."""
    top = np.sort(logits, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]


def forward(model: DVAE, inputs: Arrays, temperature: float) -> Arrays:
    """Every output that the recordings name."""
    pictures = torch.from_numpy(inputs["img"]).flatten(0, 1)
    logits, draws = model.logits(pictures), torch.from_numpy(inputs["exponential"])
    soft, hard = (model.decode(gumbel_softmax(logits, temperature, draws, hard)) for hard in (False, True))
    found = {
        "token_id": logits.argmax(1),
        "recon_argmax": model.reconstruct(pictures),
        "recon_soft": soft,
        "recon_hard": hard,
        "z_logits": logits.log_softmax(1),
    }
    arrays = {name: value.unflatten(0, inputs["img"].shape[:2]).numpy() for name, value in found.items()}
    return {
        **arrays,
        "logits": logits.numpy(),
        "recon_loss_soft": F.mse_loss(soft, pictures).numpy(),
        "recon_loss_hard": F.mse_loss(hard, pictures).numpy(),
    }


def _temperature_checks(case: Case) -> Iterator[Check]:
    """The recorded temperatures of a schedule, from its first to its last value."""
    recorded: dict[str, Any] | None = case.config.get("tau_sched")
    if recorded is None:
        return
    values = np.array(recorded["values"])
    schedule = partial(
        cosine_temperature, start=values.max(), end=values.min(), num_steps=recorded["decay_steps"]
    )
    ours = np.array([schedule(step) for step in recorded["steps"]])
    yield compare_absolute("tau_sched", ours, values, LOSS_TOLERANCE)

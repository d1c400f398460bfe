"""The discrete VAE's recordings: scores, tokens, images, losses, gradients and training steps, with the recorded
noise."""

from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

from fidelity.cases import LOSS_TOLERANCE, Case, Row, Rows, System, absolute, integers
from fidelity.loading import load
from fidelity.training import num_steps, torch_rows, torch_training
from torchslots.convert.layouts import Arrays
from torchslots.models.layers.ranges import from_signed
from torchslots.models.tokenizers.dvae import DVAE, cosine_temperature, gumbel_softmax
from torchslots.models.types import Batch
from torchslots.models.weights import shapes


def rows(case: Case) -> Rows:
    """Tolerance of each recorded tensor."""
    found = {
        name: Row(recorded, LOSS_TOLERANCE if "loss" in name else Row.tolerance)
        for name, recorded in case.outputs.items()
    }
    top = np.sort(case.outputs["logits"], axis=1)[:, -2:]
    found["token_id"] = integers(case.outputs["token_id"], top[:, 1] - top[:, 0])
    if "tau_sched" in case.config:
        found["tau_sched"] = absolute(np.array(case.config["tau_sched"]["values"]))
    return {**found, **torch_rows(case, shapes(load(case).read.params))}


def ours(case: Case) -> Arrays:
    """Our model's result for every recorded tensor."""
    loaded = load(case)
    with torch.no_grad():
        found = forward(loaded.model, case.inputs, loaded.config.temperature_end)
    batches = (_training_batch(case.inputs, step) for step in range(num_steps(case)))
    return {
        **found,
        **_temperatures(case),
        **torch_training(case, loaded, to_batch(case.inputs), batches),
    }


def to_batch(inputs: Arrays) -> Batch:
    """Recorded frames in [-1, 1] and exponential noise as a batch."""
    video = from_signed(torch.from_numpy(inputs["img"]))
    return {"video": video, "exponential": torch.from_numpy(inputs["exponential"])}


def _training_batch(inputs: Arrays, step: int) -> Batch:
    return to_batch({"img": inputs["img"], "exponential": inputs["train_exponential"][step]})


def forward(model: DVAE, inputs: Arrays, temperature: float) -> Arrays:
    """Every output that the recordings name."""
    images = torch.from_numpy(inputs["img"]).flatten(0, 1)
    logits, noise = model.logits(images), torch.from_numpy(inputs["exponential"])
    soft, hard = (model.decode(gumbel_softmax(logits, temperature, noise, hard)) for hard in (False, True))
    found = {
        "token_id": logits.argmax(1),
        "recon_argmax": model.reconstruct(images),
        "recon_soft": soft,
        "recon_hard": hard,
        "z_logits": logits.log_softmax(1),
    }
    arrays = {name: value.unflatten(0, inputs["img"].shape[:2]).numpy() for name, value in found.items()}
    return {
        **arrays,
        "logits": logits.numpy(),
        "recon_loss_soft": F.mse_loss(soft, images).numpy(),
        "recon_loss_hard": F.mse_loss(hard, images).numpy(),
    }


def _temperatures(case: Case) -> Arrays:
    """The recorded schedule of temperatures, from its first to its last value."""
    recorded = case.config.get("tau_sched")
    if recorded is None:
        return {}
    start, end = max(recorded["values"]), min(recorded["values"])
    schedule = partial(cosine_temperature, start=start, end=end, num_steps=recorded["decay_steps"])
    return {"tau_sched": np.array([schedule(step) for step in recorded["steps"]])}


SYSTEM = System(rows, ours)

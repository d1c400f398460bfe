"""The VQ-VAE's recordings: latents, codes, images, losses, gradients and training steps."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fidelity.cases import LOSS_TOLERANCE, MARGIN, Case, Row, Rows, System, integers
from fidelity.loading import Loaded
from fidelity.loading import load as load_checkpoint
from fidelity.lpips_state import lpips_from_state
from fidelity.training import num_steps, torch_rows, torch_training
from torchslots.convert.layouts import Arrays
from torchslots.models.layers.ranges import from_signed
from torchslots.models.tokenizers.vqvae import VQVAE
from torchslots.models.types import Batch
from torchslots.models.weights import shapes


def rows(case: Case) -> Rows:
    """Tolerance of each recorded tensor."""
    loaded = load(case)
    found = {name: _row(name, recorded) for name, recorded in case.outputs.items()}
    found["quant_idx"] = integers(case.outputs["quant_idx"], _recorded_margins(case, loaded.model))
    return {**found, **torch_rows(case, shapes(loaded.read.params))}


def _row(name: str, recorded: np.ndarray) -> Row:
    return Row(recorded, LOSS_TOLERANCE if name.endswith(("_loss", "_mse")) else Row.tolerance)


def load(case: Case) -> Loaded:
    """The case's model with its weights, those of LPIPS among them."""
    loaded = load_checkpoint(case)
    if loaded.config.perceptual:
        known = set(loaded.to_theirs(loaded.model.state_dict()))
        saved = {n: torch.from_numpy(a) for n, a in loaded.read.params.items() if n not in known}
        loaded.model.perceptual = case.prepared(lpips_from_state(saved)).forward
    return loaded


def ours(case: Case) -> Arrays:
    """Our model's result for every recorded tensor."""
    loaded, batch = load(case), to_batch(case.inputs)
    margins = _recorded_margins(case, loaded.model)
    with torch.no_grad():
        found = forward(loaded.model, case.inputs, case.outputs["quant_idx"], margins)
    return found | torch_training(case, loaded, batch, [batch] * num_steps(case))


def to_batch(inputs: Arrays) -> Batch:
    """Recorded frames in [-1, 1] as a batch."""
    return {"video": from_signed(torch.from_numpy(inputs["img"]))}


@torch.no_grad()
def _recorded_margins(case: Case, model: VQVAE) -> np.ndarray:
    return code_margins(model, torch.from_numpy(case.outputs["latent"]).flatten(0, 1))


def code_margins(model: VQVAE, latent: Tensor) -> np.ndarray:
    """By how much the nearest code of each place leads, in squared distance; [n, h, w]."""
    rows = latent.movedim(1, -1).double().flatten(0, 2)
    best = torch.cdist(rows, model.codebook.weight.double()).square().topk(2, largest=False).values
    return (best[:, 1] - best[:, 0]).view(latent[:, 0].shape).numpy()


def forward(model: VQVAE, inputs: Arrays, codes: np.ndarray, margins: np.ndarray) -> Arrays:
    """Every output that the recordings name.

    Args:
        codes: as recorded; taken for ours where they differ within the margin, so that a tie which rounding decided
            does not spoil what is decoded.
        margins: of the recorded codes.
    """
    images = torch.from_numpy(inputs["img"]).flatten(0, 1)
    latent = model.encode(images)
    snapped = model.quantize(latent)
    recorded = torch.from_numpy(codes).view(snapped.codes.shape)
    used = torch.where(torch.from_numpy(margins <= MARGIN), recorded, snapped.codes)
    entries = model.codebook.look_up(used)
    recon = model.decode(entries, quantize=False)
    found = {
        "latent": latent,
        "quant": entries,
        "quant_idx": snapped.codes,
        "recon": recon,
        "recon_from_latent": model.decode(latent),
        "codebook_entry": entries,
    }
    quant_loss = (1 + model.codebook.codebook_weight) * F.mse_loss(entries, latent)
    losses = {
        "quant_loss": quant_loss,
        "eval_quant_loss": quant_loss,
        "eval_recon_loss": (F.l1_loss if model.perceptual else F.mse_loss)(recon, images),
        "eval_percept_loss": model.perceptual(images, recon).mean() if model.perceptual else torch.zeros(()),
        "eval_recon_mse": F.mse_loss(recon, images),
        "l1_loss": F.l1_loss(recon, images),
    }
    arrays = {name: value.unflatten(0, inputs["img"].shape[:2]).numpy() for name, value in found.items()}
    arrays["codebook_entry"] = entries.numpy()
    return arrays | {name: value.numpy() for name, value in losses.items()}


SYSTEM = System(rows, ours)

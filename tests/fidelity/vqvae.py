"""The VQ-VAE's recorded cases: latents, codes, pictures, losses, gradients and training steps beside the original's."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fidelity import training as torch_training
from fidelity.cases import LOSS_TOLERANCE, MARGIN, OUTPUT_TOLERANCE, Case, Check, compare, compare_integers
from torchslots.convert.layouts import Arrays, to_ours, to_theirs
from torchslots.convert.originals import vqvae as vqvae_torch
from torchslots.convert.readers import torch as torch_checkpoint
from torchslots.metrics.lpips import lpips_from_state
from torchslots.models.layers.ranges import from_signed
from torchslots.models.tokenizers.vqvae import VQVAE
from torchslots.models.types import Batch
from torchslots.recipes.tokenizers import VqvaeConfig, build_vqvae


def checks(case: Case) -> Iterator[Check]:
    """Every recorded tensor of the case, its gradients and its training."""
    config, model = load(case)
    with torch.no_grad():
        margins = code_margins(model, torch.from_numpy(case.outputs["latent"]).flatten(0, 1))
        ours = forward(model, case.inputs, case.outputs["quant_idx"], margins)
    for name, recorded in case.outputs.items():
        if name == "quant_idx":
            yield compare_integers(name, ours[name], recorded, margins)
        elif name in ours:
            tolerance = LOSS_TOLERANCE if name.endswith(("_loss", "_mse")) else OUTPUT_TOLERANCE
            yield compare(name, ours[name], recorded, tolerance)
        else:
            yield Check(name, recorded.shape, 0.0, 0.0, 0.0, False, "recorded, but not computed here")
    theirs = partial(to_theirs, vqvae_torch.leaves(config))
    batch = to_batch(case.inputs)
    yield from torch_training.gradient_checks(case, model, batch, theirs)
    yield from torch_training.training_checks(case, model, lambda _: batch, theirs)


def load(case: Case) -> tuple[VqvaeConfig, VQVAE]:
    """Our numbers, and our model with the case's weights, those of LPIPS among them, in eval mode."""
    config = vqvae_torch.from_reference(case.config["config"])
    checkpoint = torch_checkpoint.read(case.folder / "model.pth")
    model, params = build_vqvae(config), vqvae_torch.without_loss(checkpoint.params)
    model.load_state_dict(to_ours(vqvae_torch.leaves(config), params, str(checkpoint.path)))
    if config.perceptual:
        saved = {n: torch.from_numpy(a) for n, a in checkpoint.params.items() if n not in params}
        model.perceptual = lpips_from_state(saved).forward
    return config, model.eval()


def to_batch(inputs: Arrays) -> Batch:
    """Recorded frames in [-1, 1] as a batch."""
    return {"video": from_signed(torch.from_numpy(inputs["img"]))}


def code_margins(model: VQVAE, latent: Tensor) -> np.ndarray:
    """By how much the nearest code of each place leads, in squared distance; [n, h, w]."""
    rows = latent.movedim(1, -1).double().flatten(0, 2)
    best = torch.cdist(rows, model.codebook.weight.double()).square().topk(2, largest=False).values
    return (best[:, 1] - best[:, 0]).view(latent[:, 0].shape).numpy()


def forward(model: VQVAE, inputs: Arrays, codes: np.ndarray, margins: np.ndarray) -> Arrays:
    """Every output that the recordings name.

    Args:
        codes: as recorded; taken for ours where they differ within the margin, so that a tie which rounding decided
            does not spoil what is drawn.
        margins: of the recorded codes.
    """
    pictures = torch.from_numpy(inputs["img"]).flatten(0, 1)
    latent = model.encode(pictures)
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
    losses = {
        "quant_loss": (1 + model.codebook.codebook_weight) * F.mse_loss(entries, latent),
        "eval_recon_loss": (F.l1_loss if model.perceptual else F.mse_loss)(recon, pictures),
        "eval_percept_loss": model.perceptual(pictures, recon).mean()
        if model.perceptual
        else torch.zeros(()),
        "eval_recon_mse": F.mse_loss(recon, pictures),
        "l1_loss": F.l1_loss(recon, pictures),
    }
    lead = inputs["img"].shape[:2]
    arrays = {name: value.unflatten(0, lead).numpy() for name, value in found.items()}
    arrays["codebook_entry"] = entries.numpy()
    return {**arrays, **{name: value.numpy() for name, value in losses.items()}} | {
        "eval_quant_loss": losses["quant_loss"].numpy()
    }

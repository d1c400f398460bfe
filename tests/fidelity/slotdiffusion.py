"""SlotDiffusion's recordings: slots, latents, U-Net, losses, samplers, gradients and five steps of training.

`config.json` holds the original's configuration, the seeds and what training gave; `grads.json` the norm of every
parameter's gradient, and of every parameter after training.

Samplers move to the nearest code after each estimate. Near a tie rounding decides which, and all that follows is
another image: the comparison finds such rows open.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from fidelity.cases import LOSS_TOLERANCE, Case, Row, Rows, System, holds
from fidelity.loading import Loaded, load
from fidelity.training import num_steps, torch_rows, torch_training
from torchslots.convert.layouts import Arrays
from torchslots.convert.originals import slotdiffusion as slotdiffusion_torch
from torchslots.models.decoders.diffusion import DiffusionDecoder
from torchslots.models.diffusion.samplers import (
    Estimate,
    Estimator,
    SampleNoise,
    Sampler,
    ddim,
    ddim_steps,
    ddpm,
    dpm_solver,
)
from torchslots.models.diffusion.schedule import Diffusion, Point
from torchslots.models.layers.ranges import from_signed
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Batch, Clip
from torchslots.models.weights import shapes
from torchslots.recipes.slotdiffusion import SlotDiffusionConfig, build

_COUNTED = 1000
"""What the original's DPM-Solver counts the network's time to, however many steps the schedule has."""
_TARGETS = {"denoise_loss_target_v": "velocity", "denoise_loss_target_x0": "latent"}
_SAMPLED = ("_latent", "_intermediate_norms", "_img", "_traj", "_timesteps", "log_images_samples")


# -------------------------------------------------------------------------------------------------- recorded


def rows(case: Case) -> Rows:
    """How near ours must be to each recorded tensor."""
    loaded = load(case)
    tables = {
        f"{name}, computed": Row(loaded.read.params[name], LOSS_TOLERANCE)
        for name in slotdiffusion_torch.schedule(loaded.config.diffusion)
    }
    return {
        "weights": holds("read and written back"),
        "frozen": holds("the tokenizer, and nothing else"),
        "slots, clip by clip": Row(case.outputs["slots"]),
        **tables,
        **{name: _row(name, recorded) for name, recorded in case.outputs.items()},
        **torch_rows(case, shapes(loaded.read.params)),
    }


def _row(name: str, recorded: np.ndarray) -> Row:
    if name.endswith("_timesteps"):
        return Row(recorded, 0.0)
    return Row(recorded, LOSS_TOLERANCE if name.startswith("denoise_loss") else Row.tolerance)


# ------------------------------------------------------------------------------------------------------ ours


def ours(case: Case) -> Arrays:
    """Every recorded tensor."""
    loaded = load(case)
    model, config = cast(ObjectCentricModel, loaded.model), loaded.config
    with torch.no_grad():
        clip = model.encode(to_batch(case.inputs))
        found = _weights(loaded) | _latents(case, model, clip) | _denoised(case, config, model, clip)
        found |= sampled(case, cast(DiffusionDecoder, model.decoder), clip)
    batches = (_training_batch(case.inputs, step) for step in range(num_steps(case)))
    return found | torch_training(case, loaded, to_batch(case.inputs), batches)


def to_batch(inputs: Arrays) -> Batch:
    """The recorded clip, and the noise of its loss."""
    video = from_signed(torch.from_numpy(inputs["img"]))
    noise = torch.from_numpy(inputs["noise"])
    return {"video": video, "timesteps": torch.from_numpy(inputs["t"]), "latent_noise": noise}


def _training_batch(inputs: Arrays, step: int) -> Batch:
    """The recorded clip with the noise of a step of training."""
    return to_batch(
        {"img": inputs["img"], "t": inputs["train_t"][step], "noise": inputs["train_noise"][step]}
    )


def _weights(loaded: Loaded) -> Arrays:
    """Whether what was read is written back the same, the schedule's tables among it, and what is frozen."""
    params, model = loaded.read.params, loaded.model
    written = loaded.to_theirs(model.state_dict())
    tables = slotdiffusion_torch.schedule(loaded.config.diffusion)
    same = set(written) | set(tables) == set(params)
    same = same and all(np.array_equal(value, params[name]) for name, value in written.items())
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    only = bool(frozen) and all(name.startswith("decoder.tokenizer.") for name in frozen)
    computed = {f"{name}, computed": table for name, table in tables.items()}
    return {"weights": np.array(same), "frozen": np.array(only), **computed}


def _latents(case: Case, model: ObjectCentricModel, clip: Clip) -> Arrays:
    decoder, video = cast(DiffusionDecoder, model.decoder), to_batch(case.inputs)["video"]
    latent = decoder.latents(video)
    scaled = latent * decoder.latent_scale
    parts = [model.predict({"video": part}, None, recon=False) for part in video.split(1)]
    found = {
        "slots": clip.slots,
        "slots, clip by clip": torch.cat([part.slots for part in parts]),
        "masks": decoder.decode(clip, recon=False).masks,
        "masks_lowres": clip.attn.unflatten(-1, decoder.grid),
        "latent": latent,
        "latent_quant": decoder.tokenizer.quantize(scaled).latent / decoder.latent_scale,
        "vae_decode": decoder.tokenizer.decode(scaled),
    }
    return {name: value.numpy() for name, value in found.items()}


def _denoised(case: Case, config: SlotDiffusionConfig, model: ObjectCentricModel, clip: Clip) -> Arrays:
    decoder, batch = cast(DiffusionDecoder, model.decoder), to_batch(case.inputs)
    latent = decoder.latents(batch["video"])
    noised = decoder.diffusion.noised(latent, batch["latent_noise"], batch["timesteps"])
    found, context = {"x_noisy": noised}, clip.slots.flatten(0, 1)
    for name, times in {"eps_pred": "t", "eps_pred_tfrac": "t_frac"}.items():
        if name in case.outputs:
            found[name] = decoder.unet(noised, torch.from_numpy(case.inputs[times]), context)
    for name, prediction in {"denoise_loss": config.diffusion.prediction_type, **_TARGETS}.items():
        if name in case.outputs:
            diffusion = replace(config.diffusion, prediction_type=prediction)
            other = build(replace(config, diffusion=diffusion)).eval().to(latent.dtype)
            other.load_state_dict(model.state_dict())
            found[name] = other.loss(batch)["denoise"]
    return {name: value.numpy() for name, value in found.items()}


# ------------------------------------------------------------------------------------------------ samplers


def sampler_rows(case: Case) -> Rows:
    """Those of the samplers alone."""
    return {name: _row(name, value) for name, value in case.outputs.items() if _is_sampled(name)}


def _is_sampled(name: str) -> bool:
    return name.endswith(_SAMPLED) and not name.startswith(("latent", "vae"))


def sampled(case: Case, decoder: DiffusionDecoder, clip: Clip) -> Arrays:
    """Every sampler that was recorded, from the recorded noise: the last latent, its image, and the norm of every
    latent on the way."""
    slots, start = clip.slots.flatten(0, 1), torch.from_numpy(case.inputs["xT"])
    found: Arrays = {}
    for name in case.outputs:
        kind, _, what = name.partition("_")
        number = kind.removeprefix("dpm").removeprefix("ddim")
        if what == "latent" and number != kind:
            sampler = partial(_dpm_solver if kind.startswith("dpm") else _ddim, num_steps=int(number))
            steps = _steps(case, decoder, slots, start, sampler)
            found |= {f"{kind}_{what}": value for what, value in steps.items()}
        if what == "timesteps":
            found[name] = np.array(ddim_steps(decoder.diffusion.num_steps, int(number)))
    return found | _logged(case, decoder, slots) | _ancestral(case, decoder, slots)


def _steps(case: Case, decoder: DiffusionDecoder, slots: Tensor, start: Tensor, sampler: Sampler) -> Arrays:
    estimate = _estimator(case, decoder, slots)
    steps = list(sampler(estimate, start, decoder.diffusion, torch.randn_like))
    images = decoder.tokenizer.decode(steps[-1] * decoder.latent_scale)
    norms = np.stack([step.double().flatten(1).norm(dim=1).numpy() for step in steps])
    return {"latent": steps[-1].numpy(), "intermediate_norms": norms, "img": images.numpy()}


def _estimator(case: Case, decoder: DiffusionDecoder, slots: Tensor) -> Estimator:
    """Ours; where rounding is tried, with latents found by the noise that is predicted, as the original's DPM-Solver
    finds them whatever the network predicts."""
    plain, scale = decoder.estimator(slots), decoder.latent_scale
    if case.moved is None:
        return plain

    def estimate(noised: Tensor, point: Point) -> Estimate:
        noise = plain(noised, point).noise
        latent = (noised - point.sigma * noise) / point.alpha
        snapped = decoder.tokenizer.quantize(latent * scale).latent / scale if decoder.snap else latent
        return Estimate(snapped, noise)

    return estimate


def _dpm_solver(
    estimate: Estimator, noise: Tensor, diffusion: Diffusion, sample_noise: SampleNoise, *, num_steps: int
) -> Iterator[Tensor]:
    """DPM-Solver as the original runs it: the network's time counts to 1000 whatever the schedule's length."""

    def counted(noised: Tensor, point: Point) -> Estimate:
        timestep = (point.time - 1 / diffusion.num_steps) * _COUNTED
        return estimate(noised, point._replace(timestep=timestep))

    return dpm_solver(counted, noise, diffusion, sample_noise, num_steps=num_steps)


def _ddim(
    estimate: Estimator, noise: Tensor, diffusion: Diffusion, sample_noise: SampleNoise, *, num_steps: int
) -> Iterator[Tensor]:
    """DDIM as the original runs it: from the schedule's table in float32, whose rounding shows in the first of the
    deviations, which are small differences from one."""
    rounded = copy(diffusion)
    rounded.alphas_cumprod = diffusion.alphas_cumprod.astype(np.float32).astype(np.float64)
    return ddim(estimate, noise, rounded, sample_noise, num_steps=num_steps)


def _logged(case: Case, decoder: DiffusionDecoder, slots: Tensor) -> Arrays:
    """What the original samples for its log: one noise for all frames."""
    if "log_images_samples" not in case.outputs:
        return {}
    noise = torch.from_numpy(case.inputs["log_images_xT_one"]).expand(len(slots), -1, -1, -1)
    count = slotdiffusion_torch.sampling(decoder.diffusion.num_steps).num_steps
    images = _steps(case, decoder, slots, noise, partial(_dpm_solver, num_steps=count))["img"]
    return {"log_images_samples": images.reshape(case.outputs["log_images_samples"].shape)}


def _ancestral(case: Case, decoder: DiffusionDecoder, slots: Tensor) -> Arrays:
    """The first steps of ancestral sampling from noise, and the last from the images' own latents, with the recorded
    noise of each step."""
    starts = {"ddpm_first": case.inputs["xT"], "ddpm_last": case.outputs.get("latent")}
    found: Arrays = {}
    for name, start in starts.items():
        recorded = case.outputs.get(f"{name}_traj")
        if recorded is None or start is None:
            continue
        recorded_noise = iter(torch.from_numpy(case.inputs[f"{name}_noise"]))
        top = decoder.diffusion.num_steps if name == "ddpm_first" else len(recorded)
        steps = range(top - 1, top - 1 - len(recorded), -1)
        noise = torch.from_numpy(start).to(slots.dtype)
        estimate = _estimator(case, decoder, slots)
        samples = ddpm(estimate, noise, decoder.diffusion, partial(_next_of, recorded_noise), steps=steps)
        found[f"{name}_traj"] = torch.stack(list(samples)).numpy()
    return found


def _next_of(noise: Iterator[Tensor], like: Tensor) -> Tensor:
    return next(noise)


SYSTEM = System(rows, ours)

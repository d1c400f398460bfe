"""SlotDiffusion's recorded cases: slots, latents, U-Net, losses, samplers, gradients and five steps of training.

`config.json` holds the original's configuration, the seeds and what training gave; `grads.json` the norm of every
parameter's gradient, and of every parameter after training.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cache, partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from fidelity import training as torch_training
from fidelity.cases import LOSS_TOLERANCE, OUTPUT_TOLERANCE, Case, Check, compare
from fidelity.vqvae import code_margins
from torchslots.convert.layouts import Arrays, to_ours, to_theirs
from torchslots.convert.originals import slotdiffusion as slotdiffusion_torch
from torchslots.convert.readers import torch as torch_checkpoint
from torchslots.models.decoders.diffusion import DiffusionDecoder
from torchslots.models.diffusion.samplers import (
    Draw,
    Estimate,
    Estimator,
    Sampler,
    ddim,
    ddim_steps,
    ddpm,
    dpm_solver,
    estimator,
)
from torchslots.models.diffusion.schedule import Diffusion, Point
from torchslots.models.layers.ranges import from_signed
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Batch, Clip
from torchslots.recipes.slotdiffusion import DiffusionConfig, SlotDiffusionConfig, build

CODEBOOK_MARGIN = 1e-5
"""Where some estimate of a sampler lies nearer than this to the border between two codes, float32 of another program
may take the other, and all that follows is another picture."""
_ROUNDING = 5e-7
"""By how much two float32 programs' outputs of one network differ, as a part of each."""
_PROGRAMS = 4
"""How many other programs are imagined where one disagrees."""
_COUNTED = 1000
"""What the original's DPM-Solver counts the network's time to, however many steps the schedule has."""
_TARGETS = {"denoise_loss_target_v": "velocity", "denoise_loss_target_x0": "latent"}


def checks(case: Case) -> Iterator[Check]:
    """Every recorded number."""
    seen = set()
    for check in _known_checks(case):
        seen.add(check.name)
        yield check
    yield from unknown_checks(case, seen)


def unknown_checks(case: Case, seen: set[str]) -> Iterator[Check]:
    """What was recorded and is not among the names that were compared fails."""
    for name in sorted(set(case.outputs) - seen):
        shape = case.outputs[name].shape
        yield Check(name, shape, 0.0, 0.0, 0.0, False, "recorded, but not computed here")


def _known_checks(case: Case) -> Iterator[Check]:
    params, config, model = load(case)
    yield from _weight_checks(params, config, model)
    with torch.no_grad():
        clip = model.encode(to_batch(case.inputs))
        yield from _clip_checks(case, model, clip)
        yield from _denoise_checks(case, config, model, clip)
        yield from sampler_checks(case, cast(DiffusionDecoder, model.decoder), clip)
    yield from _training_checks(case, config, model)


def load(case: Case) -> tuple[Arrays, SlotDiffusionConfig, ObjectCentricModel]:
    """The case's checkpoint, our numbers, and our model with its weights, without dropout."""
    config = slotdiffusion_torch.from_reference(case.config["config"])
    checkpoint = torch_checkpoint.read(case.folder / "model.pth")
    where = str(checkpoint.path)
    weights = slotdiffusion_torch.without_schedule(checkpoint.params, config.diffusion, where)
    model = build(config)
    model.load_state_dict(to_ours(slotdiffusion_torch.leaves(config), weights, where))
    return checkpoint.params, config, model.eval()


def to_batch(inputs: Arrays) -> Batch:
    """The recorded clip, and the draws of its loss."""
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items() if name in ("t", "noise")}
    video = from_signed(torch.from_numpy(inputs["img"]))
    return {"video": video, "timesteps": tensors["t"], "latent_noise": tensors["noise"]}


def _weight_checks(params: Arrays, config: SlotDiffusionConfig, model: ObjectCentricModel) -> Iterator[Check]:
    """What was read is written back the same, the schedule's tables among it."""
    written = to_theirs(slotdiffusion_torch.leaves(config), dict(model.state_dict()))
    same = set(written) | set(slotdiffusion_torch.schedule(config.diffusion)) == set(params)
    same = same and all(np.array_equal(value, params[name]) for name, value in written.items())
    yield Check("weights", (len(params),), 0.0, 0.0, 0.0, same, "read and written back")
    for name, table in slotdiffusion_torch.schedule(config.diffusion).items():
        yield compare(name, table, params[name], LOSS_TOLERANCE)


# --------------------------------------------------------------------------------------- slots and latents


def _clip_checks(case: Case, model: ObjectCentricModel, clip: Clip) -> Iterator[Check]:
    decoder, batch = cast(DiffusionDecoder, model.decoder), to_batch(case.inputs)
    latent = decoder.latents(batch["video"])
    snapped = decoder.tokenizer.quantize(latent * decoder.latent_scale).latent / decoder.latent_scale
    ours = {
        "slots": clip.slots,
        "masks": decoder.decode(clip, recon=False).masks,
        "masks_lowres": clip.attn.unflatten(-1, decoder.grid),
        "latent": latent,
        "latent_quant": snapped,
        "vae_decode": decoder.tokenizer.decode(latent * decoder.latent_scale),
    }
    margin = float(code_margins(decoder.tokenizer, latent * decoder.latent_scale).min())
    for name, value in ours.items():
        if name in case.outputs:
            check = compare(name, value.numpy(), case.outputs[name], OUTPUT_TOLERANCE)
            yield _judged(margin, check) if name in ("latent_quant", "vae_decode") else check
    parts = [model.predict({"video": part}, None, recon=False) for part in batch["video"].split(1)]
    slots = torch.cat([part.slots for part in parts])
    yield compare("slots, clip by clip", slots.numpy(), case.outputs["slots"], OUTPUT_TOLERANCE)


def _denoise_checks(
    case: Case, config: SlotDiffusionConfig, model: ObjectCentricModel, clip: Clip
) -> Iterator[Check]:
    decoder, batch = cast(DiffusionDecoder, model.decoder), to_batch(case.inputs)
    latent = decoder.latents(batch["video"])
    noised = decoder.diffusion.noised(latent, batch["latent_noise"], batch["timesteps"])
    ours, context = {"x_noisy": noised}, clip.slots.flatten(0, 1)
    for name, times in {"eps_pred": "t", "eps_pred_tfrac": "t_frac"}.items():
        if name in case.outputs:
            ours[name] = decoder.unet(noised, torch.from_numpy(case.inputs[times]), context)
    for name, value in ours.items():
        if name in case.outputs:
            yield compare(name, value.numpy(), case.outputs[name], OUTPUT_TOLERANCE)
    for name, prediction in {"denoise_loss": config.diffusion.prediction_type, **_TARGETS}.items():
        if name in case.outputs:
            other = _predicting(config, model, replace(config.diffusion, prediction_type=prediction))
            loss = other.loss(batch)["denoise"]
            yield compare(name, loss.numpy(), case.outputs[name], LOSS_TOLERANCE)


def _predicting(
    config: SlotDiffusionConfig, model: ObjectCentricModel, diffusion: DiffusionConfig
) -> ObjectCentricModel:
    """The same weights, read as predicting something else."""
    other = build(replace(config, diffusion=diffusion)).eval()
    other.load_state_dict(model.state_dict())
    return other


# ------------------------------------------------------------------------------------------------ samplers


def sampler_checks(case: Case, decoder: DiffusionDecoder, clip: Clip) -> Iterator[Check]:
    """Every sampler that was recorded, from the recorded noise."""
    slots, start = clip.slots.flatten(0, 1), torch.from_numpy(case.inputs["xT"])
    for name in case.outputs:
        kind, _, what = name.partition("_")
        if what == "latent":
            number = int(kind.removeprefix("dpm").removeprefix("ddim"))
            sampler = partial(_dpm_solver if kind.startswith("dpm") else _ddim, num_steps=number)
            yield from _sampled_checks(case, decoder, slots, start, kind, sampler)
        if what == "timesteps":
            steps = np.array(ddim_steps(decoder.diffusion.num_steps, int(kind.removeprefix("ddim"))))
            yield compare(name, steps, case.outputs[name], 0.0)
    yield from _logged_checks(case, decoder, slots)
    yield from _ancestral_checks(case, decoder, slots)


def _sampled_checks(
    case: Case, decoder: DiffusionDecoder, slots: Tensor, start: Tensor, kind: str, sampler: Sampler
) -> Iterator[Check]:
    """The last latent, its picture, and the norm of every latent on the way."""
    with _watched_margins(decoder) as margins:
        found = _sampled(decoder, decoder.estimator(slots), start, sampler)
    shaken = cache(partial(_shaken, decoder, slots, start, sampler))
    for what, ours in found.items():
        name = f"{kind}_{what}"
        if name in case.outputs:
            check = compare(name, ours, case.outputs[name], OUTPUT_TOLERANCE)
            run_pass = _judged(_recorded_margin(case, kind, margins), check)
            yield (
                run_pass
                if run_pass.passed
                else _explained(run_pass, ours, [again[what] for again in shaken()])
            )


def _sampled(decoder: DiffusionDecoder, estimate: Estimator, start: Tensor, sampler: Sampler) -> Arrays:
    steps = list(sampler(estimate, start, decoder.diffusion, torch.randn_like))
    pictures = decoder.tokenizer.decode(steps[-1] * decoder.latent_scale)
    norms = np.stack([step.double().flatten(1).norm(dim=1).numpy() for step in steps])
    return {"latent": steps[-1].numpy(), "intermediate_norms": norms, "img": pictures.numpy()}


def _dpm_solver(
    estimate: Estimator, noise: Tensor, diffusion: Diffusion, draw: Draw, *, num_steps: int
) -> Iterator[Tensor]:
    """DPM-Solver as the original runs it: the network's time counts to 1000 whatever the schedule's length."""

    def counted(noised: Tensor, point: Point) -> Estimate:
        timestep = (point.time - 1 / diffusion.num_steps) * _COUNTED
        return estimate(noised, point._replace(timestep=timestep))

    return dpm_solver(counted, noise, diffusion, draw, num_steps=num_steps)


def _ddim(
    estimate: Estimator, noise: Tensor, diffusion: Diffusion, draw: Draw, *, num_steps: int
) -> Iterator[Tensor]:
    """DDIM as the original runs it: from the schedule's table in float32, whose rounding shows in the first of the
    deviations, which are small differences from one."""
    rounded = copy(diffusion)
    rounded.alphas_cumprod = diffusion.alphas_cumprod.astype(np.float32).astype(np.float64)
    return ddim(estimate, noise, rounded, draw, num_steps=num_steps)


def _shaken(decoder: DiffusionDecoder, slots: Tensor, start: Tensor, sampler: Sampler) -> list[Arrays]:
    """What other float32 programs might come to from the same noise."""
    return [_sampled(decoder, _rounding(decoder, slots, seed), start, sampler) for seed in range(_PROGRAMS)]


def _rounding(decoder: DiffusionDecoder, slots: Tensor, seed: int) -> Estimator:
    """Ours with outputs rounded otherwise, and latents found by the noise that is predicted, as the original's
    DPM-Solver does whatever the network predicts."""
    generator = torch.Generator().manual_seed(seed)

    def network(noised: Tensor, timesteps: Tensor) -> Tensor:
        output = decoder.unet(noised, timesteps, slots)
        return output * (1 + _ROUNDING * torch.randn(output.shape, generator=generator))

    plain, scale = estimator(network, decoder.prediction_type), decoder.latent_scale

    def estimate(noised: Tensor, point: Point) -> Estimate:
        noise = plain(noised, point).noise
        latent = (noised - point.sigma * noise) / point.alpha
        snapped = decoder.tokenizer.quantize(latent * scale).latent / scale if decoder.snap else latent
        return Estimate(snapped, noise)

    return estimate


def _explained(check: Check, ours: np.ndarray, shaken: list[np.ndarray]) -> Check:
    """A sampler's outcome that disagrees, with how far rounding alone moves it: early estimates can be so large that
    float32 cannot tell their nearest code, whatever lead was recorded."""
    moved = max(compare(check.name, again, ours, check.tolerance).relative for again in shaken)
    return replace(check, note=f"rounding alone moves it by {moved:.1e}")


def _recorded_margin(case: Case, name: str, ours: list[float]) -> float:
    """The original's smallest margin on the way; ours where it was not recorded."""
    return case.config.get("vq_margins", {}).get(name, min(ours))


def _judged(margin: float, check: Check) -> Check:
    """What hangs on a choice of codes whose smallest margin was too small is reported, not judged."""
    if margin >= CODEBOOK_MARGIN or check.passed:
        return check
    return replace(check, passed=True, note=f"codes {margin:.1e} from a tie: not judged")


def _logged_checks(case: Case, decoder: DiffusionDecoder, slots: Tensor) -> Iterator[Check]:
    """What the original draws for its log: one noise for all frames."""
    if "log_images_samples" not in case.outputs:
        return
    recorded = case.outputs["log_images_samples"]
    noise = torch.from_numpy(case.inputs["log_images_xT_one"]).expand(len(slots), -1, -1, -1)
    sampler = partial(
        _dpm_solver, num_steps=slotdiffusion_torch.sampling(decoder.diffusion.num_steps).num_steps
    )
    with _watched_margins(decoder) as margins:
        pictures = decoder.generate(slots, noise, sampler).numpy().reshape(recorded.shape)
    check = _judged(min(margins), compare("log_images_samples", pictures, recorded, OUTPUT_TOLERANCE))
    if not check.passed:
        shaken = [again["img"].reshape(recorded.shape) for again in _shaken(decoder, slots, noise, sampler)]
        check = _explained(check, pictures, shaken)
    yield check


@contextmanager
def _watched_margins(decoder: DiffusionDecoder) -> Iterator[list[float]]:
    """The smallest margin of each look into the codebook meanwhile, for where the recording has none."""
    found: list[float] = []

    def watch(codebook: nn.Module, args: tuple[Tensor]) -> None:
        found.append(float(code_margins(decoder.tokenizer, args[0]).min()))

    handle = decoder.tokenizer.codebook.register_forward_pre_hook(watch)
    try:
        yield found
    finally:
        handle.remove()


def _ancestral_checks(case: Case, decoder: DiffusionDecoder, slots: Tensor) -> Iterator[Check]:
    """The first steps of ancestral sampling from noise, and the last from the pictures' own latents, with the recorded
    noise of each step."""
    total = decoder.diffusion.num_steps
    for name, start in {"ddpm_first": case.inputs["xT"], "ddpm_last": case.outputs.get("latent")}.items():
        if f"{name}_traj" not in case.outputs or start is None:
            continue
        recorded, draws = case.outputs[f"{name}_traj"], iter(torch.from_numpy(case.inputs[f"{name}_noise"]))
        top = total if name == "ddpm_first" else len(recorded)
        steps = range(top - 1, top - 1 - len(recorded), -1)
        draw = partial(_next_of, draws)
        noise = torch.from_numpy(start)
        with _watched_margins(decoder) as margins:
            found = list(ddpm(decoder.estimator(slots), noise, decoder.diffusion, draw, steps=steps))
        check = compare(f"{name}_traj", torch.stack(found).numpy(), recorded, OUTPUT_TOLERANCE)
        yield _judged(_recorded_margin(case, name, margins), check)


def _next_of(draws: Iterator[Tensor], like: Tensor) -> Tensor:
    return next(draws)


# ------------------------------------------------------------------------------------------------ training


def _training_checks(case: Case, config: SlotDiffusionConfig, model: ObjectCentricModel) -> Iterator[Check]:
    """Gradients of the loss with the recorded draws, of trained parameters alone, and the original trainer's steps."""
    leaves = slotdiffusion_torch.leaves(config)
    yield from torch_training.gradient_checks(case, model, to_batch(case.inputs), partial(to_theirs, leaves))
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    same = all(name.startswith("decoder.tokenizer.") for name in frozen) and bool(frozen)
    yield Check("frozen", (len(frozen),), 0.0, 0.0, 0.0, same, "the image code, and nothing else")
    yield from torch_training.training_checks(
        case, model, partial(_training_batch, case.inputs), partial(to_theirs, leaves)
    )


def _training_batch(inputs: Arrays, step: int) -> Batch:
    """The recorded clip with the draws of a step of training."""
    return to_batch(
        {"img": inputs["img"], "t": inputs["train_t"][step], "noise": inputs["train_noise"][step]}
    )

"""How a model that generates draws its pictures, chosen after it was trained: sampler, steps, noise, codes."""

from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.models.adjust import sharing_weights
from torchslots.models.clips import frames_of, moved_to
from torchslots.models.decoders.autoregressive import AutoregressiveDecoder
from torchslots.models.decoders.broadcast import BroadcastDecoder
from torchslots.models.decoders.code_transformer import drawn
from torchslots.models.decoders.diffusion import DiffusionDecoder
from torchslots.models.layers.ranges import to_bytes
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Clip
from torchslots.recipes.slotdiffusion import SamplingConfig, SlotDiffusionConfig

_DIFFUSION = {"sampler", "steps", "snap", "one_noise", "seed"}
_CODES = {"temperature", "top_k", "seed"}
_PUBLISHED_STEPS = {"dpm_solver": 20, "ddim": 200, "ddpm": 1000}


@dataclass(frozen=True)
class SamplingOptions:
    """How models that generate draw; None: as the model was built."""

    sampler: Literal["dpm_solver", "ddim", "ddpm"] | None = None
    """Diffusion: from noise to a picture."""
    steps: int | None = None
    """Diffusion: evaluations of the U-Net; None: 20 for dpm_solver, 200 for ddim. ddpm makes all of the schedule's."""
    snap: bool | None = None
    """Diffusion: move every estimate to the codebook's nearest vectors."""
    one_noise: bool | None = None
    """Diffusion: start all frames from the same noise; False: each from its own."""
    seed: int | None = None
    """Of the noise, or of drawn codes."""
    temperature: float | None = None
    """Codes written one by one: draw each by its probability, the scores divided by this; below 1 the likely become
    likelier. None: the likeliest codes."""
    top_k: int | None = None
    """Draw among so many of the likeliest codes; None: among all."""

    def __post_init__(self) -> None:
        for name in ("steps", "temperature", "top_k"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} should be more than 0, got {value}.")
        if self.sampler == "ddpm" and self.steps is not None:
            raise UserError(
                "ddpm makes all steps of the schedule: leave the number of steps out, or take ddim."
            )

    def given(self) -> dict[str, object]:
        """What is not left to the model."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def with_sampling(model: ObjectCentricModel, options: SamplingOptions) -> ObjectCentricModel:
    """The same weights in a model that draws as the options say; the model handed in stays as it is.

    Raises:
        UserError: an option that means nothing to this model.
    """
    if not options.given():
        return model
    model = sharing_weights(model)
    decoder = model.decoder
    if isinstance(decoder, DiffusionDecoder):
        _check(options, _DIFFUSION, "draws by diffusion")
        _set_sampler(decoder, _sampling(model), options)
    elif isinstance(decoder, AutoregressiveDecoder):
        _check(options, _CODES, "writes codes one by one")
        _set_choice(decoder, options)
    else:
        _check(options, set(), "paints each slot at once")
    return model


def _check(options: SamplingOptions, known: set[str], what: str) -> None:
    wrong = [name for name in options.given() if name not in known]
    if wrong:
        choices = f"It takes {', '.join(sorted(known))}." if known else "It takes none of these."
        raise UserError(f"This model {what}: `{wrong[0]}` means nothing to it. {choices} Leave it out.")


def _sampling(model: ObjectCentricModel) -> SamplingConfig:
    """What the model was built to do."""
    return model.config.sampling if isinstance(model.config, SlotDiffusionConfig) else SamplingConfig()


def _set_sampler(decoder: DiffusionDecoder, built: SamplingConfig, options: SamplingOptions) -> None:
    sampler = options.sampler or built.sampler
    steps = built.num_steps if sampler == built.sampler else _PUBLISHED_STEPS[sampler]
    if options.sampler is not None or options.steps is not None:
        decoder.sampler = replace(built, sampler=sampler, num_steps=options.steps or steps).build()
    decoder.snap = decoder.snap if options.snap is None else options.snap
    decoder.one_noise = decoder.one_noise if options.one_noise is None else options.one_noise
    decoder.seed = decoder.seed if options.seed is None else options.seed


def _set_choice(decoder: AutoregressiveDecoder, options: SamplingOptions) -> None:
    if options.temperature is None:
        if options.given():
            raise UserError(
                f"`{next(iter(options.given()))}` is about codes that are drawn: give a temperature too, such as 1."
            )
        return
    generator = torch.Generator().manual_seed(options.seed or 0)
    decoder.choose = drawn(options.temperature, options.top_k, generator=generator)


# ------------------------------------------------------------------------------------------------------ frames


def require_frames(model: ObjectCentricModel) -> None:
    """Raises UserError where a model paints no frames."""
    decoder = model.decoder
    if isinstance(decoder, DiffusionDecoder | AutoregressiveDecoder):
        return
    paints = list(decoder.targets) if isinstance(decoder, BroadcastDecoder) else []
    if "video" not in paints:
        raise UserError(
            f"This model paints {' and '.join(paints) or 'no pictures'}, not frames. Give one that was trained to "
            "paint `video`."
        )


@torch.no_grad()
def paint(model: ObjectCentricModel, clip: Clip, chunk: int = 24) -> UInt8[Tensor, "B T 3 H W"]:
    """The frames that a model paints of slots alone, on the CPU, `chunk` at once: fewer need less memory."""
    place = next(model.parameters()).device
    count, length = clip.slots.shape[:2]
    step = max(chunk // count, 1)
    parts = [
        model.decoder.decode(moved_to(frames_of(clip, slice(start, start + step)), place)).recon["video"]
        for start in range(0, length, step)
    ]
    return to_bytes(torch.cat(parts, 1)).cpu()

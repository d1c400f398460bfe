"""Time SlotDiffusion's training step and sampling, ours and the plain form of the same network; prints one JSON object.

    python benchmarks/slotdiffusion.py --threads 1

The step is the one that `torchslots train` takes, on one clip. Sampling takes the slots of a clip, 20 evaluations of
the U-Net with DPM-Solver++, each estimate moved to the codebook, and decodes the images. `plain` is the same network as
the original runs it: channels before pixels in memory, attention as two matrix products with a softmax between them,
full precision. CPU seconds are those of the process, which are steadier on a shared machine. `unet_alone` repeats the
calls of the U-Net that sampling made, nothing else; `latents_over_unet` (bar: 1.1) is the sampling of latents over
them, `sampling_over_unet` with slots and images too, whose encoder and decoder are no part of the U-Net. With
--sampled-clips several clips are sampled in one batch, as `evaluate` does.

The original's figures are quoted, not measured here: CPU seconds of two threads on two shared cores, for the default
sizes alone.
"""

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, cast

import torch
import tyro
from torch import Tensor, nn

from torchslots.io.errors import UserError
from torchslots.models.decoders.diffusion import DiffusionDecoder
from torchslots.models.layers.unet import ConditionedUNet
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Batch
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe
from torchslots.recipes.slotdiffusion import SlotDiffusionConfig
from torchslots.training.accelerator import seed_step
from torchslots.training.step import TrainStep
from train_step import Times, machine, repeat

Precision = Literal["fp32", "bf16"]
RECORDED = {
    "original_train_step_cpu_seconds": 15.2,
    "original_sampling_cpu_seconds": 100.0,
    "conditions": "slotdiffusion_movi_e, float32; 3 frames trained, 6 sampled with 20 evaluations in one cold run",
}
"""7.6 and 50 seconds of two threads (recorded with the original at torch 2.13.0)."""


class PlainUNet(nn.Module):
    """The U-Net without this library's memory layout and without fused attention."""

    def __init__(self, unet: ConditionedUNet):
        from diffusers.models.attention_processor import AttnProcessor

        super().__init__()
        self.network = unet.network.to(memory_format=torch.contiguous_format)  # pyright: ignore
        self.network.set_attn_processor(AttnProcessor())

    def forward(self, noised: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        return self.network(noised.contiguous(), timesteps, context, return_dict=False)[0]


def main(
    recipe: str = "slotdiffusion_movi_e",
    trained_frames: int = 3,
    sampled_frames: int = 6,
    sampled_clips: int = 1,
    precision: tuple[Precision, ...] = ("fp32", "bf16"),
    compile: bool = False,
    sampling: bool = True,
    plain_form: bool = True,
    device: Literal["cpu", "cuda"] | None = None,
    samples: int = 2,
    threads: int | None = None,
) -> None:
    """Time both forms and print one JSON object.

    Args:
        recipe: Name in `torchslots recipes`, of the family slotdiffusion.
        trained_frames: Frames of the clip of a step.
        sampled_frames: Frames to sample, of each clip.
        sampled_clips: Clips in one batch of sampling.
        precision: Precisions of our matrix products; the plain form has fp32.
        compile: Compile our model.
        sampling: Also time sampling, which takes ten times as long as a step.
        plain_form: Also time the plain form, the slowest part.
        device: None: CUDA where there is one.
        samples: Timed repetitions, after one warm-up.
        threads: CPU threads; None: torch's choice.
    """
    if threads:
        torch.set_num_threads(threads)
    chosen = catalog.recipe(recipe)
    if not isinstance(chosen.model, SlotDiffusionConfig):
        raise UserError(f"{recipe} is no recipe of SlotDiffusion; slotdiffusion_movi_e is one.")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    size = (chosen.data.resolution, chosen.data.resolution)
    shapes = [(1, trained_frames), *([(sampled_clips, sampled_frames)] if sampling else [])]
    clips = [torch.rand(*shape, 3, *size, device=place) for shape in shapes]
    report: dict[str, Any] = {}
    if plain_form:
        report["plain_fp32"] = measure(chosen, clips, "fp32", samples, place, plain)
    for each in precision:
        prepare = compiled if compile else lambda model: None
        report[f"ours_{each}"] = measure(chosen, clips, each, samples, place, prepare)
    if plain_form:
        report |= {
            f"plain_over_ours_{each}": ratios(report["plain_fp32"], report[f"ours_{each}"])
            for each in precision
        }
    settings = {"recipe": recipe, "trained_frames": trained_frames, "sampled_frames": sampled_frames}
    settings |= {"sampled_clips": sampled_clips, "compile": compile, "samples": samples}
    print(
        json.dumps(
            {"settings": settings, **report, "recorded": RECORDED, "machine": machine(place)}, indent=2
        )
    )


def measure(
    recipe: Recipe,
    clips: list[Tensor],
    precision: Precision,
    samples: int,
    device: torch.device,
    prepare: Callable[[ObjectCentricModel], None],
) -> dict[str, Any]:
    """Seconds of a step and, where there is a second clip, of sampling it, with a fresh model."""
    seed_step(0)
    train = replace(recipe.train, batch_size=1, accumulation=1, precision=precision, compile=False)
    model = catalog.build(recipe.model)
    assert isinstance(model, ObjectCentricModel)
    prepare(model)
    step = TrainStep(model, recipe.optim, train, device.type)
    done = iter(range(1, 10**9))
    trained = timed(lambda: step(next(done), {"video": clips[0]}), samples, device)
    model.eval()
    found: dict[str, Any] = {"train_step": trained}
    if len(clips) > 1:
        work = lambda: predict(model, {"video": clips[1]}, precision)  # noqa: E731
        alone = calls_of(cast(DiffusionDecoder, model.decoder).unet, work)
        found["sampling"] = timed(work, samples, device)
        found["unet_alone"] = timed(lambda: replay(model, alone, precision), samples, device)
        kind = "seconds" if device.type == "cuda" else "cpu_seconds"
        slots = model.predict({"video": clips[1]}, recon=False).slots.flatten(0, 1)
        found["latents"] = timed(lambda: sample_latents(model, slots, precision), samples, device)
        for name in ("sampling", "latents"):
            found[f"{name}_over_unet"] = found[name][kind] / found["unet_alone"][kind]
    return found


def calls_of(unet: nn.Module, work: Callable[[], object]) -> list[tuple[Any, ...]]:
    """Arguments of every call of the U-Net in `work`."""
    calls: list[tuple[Any, ...]] = []
    hook = unet.register_forward_pre_hook(lambda _, given: calls.append(given))
    try:
        work()
    finally:
        hook.remove()
    return calls


@torch.no_grad()
def replay(model: ObjectCentricModel, calls: list[tuple[Any, ...]], precision: Precision) -> None:
    """The same calls of the U-Net alone."""
    unet = cast(DiffusionDecoder, model.decoder).unet
    with torch.autocast(calls[0][0].device.type, torch.bfloat16, enabled=precision == "bf16"):
        for given in calls:
            unet(*given)


def timed(work: Callable[[], object], samples: int, device: torch.device) -> dict[str, float]:
    """Median seconds, after one warm-up."""
    repeat(work, 1, 1, device)
    times: Times = repeat(work, samples, 1, device)
    return {"seconds": statistics.median(times.wall), "cpu_seconds": statistics.median(times.cpu)}


def predict(model: ObjectCentricModel, batch: Batch, precision: Precision) -> None:
    """Slots, masks and sampled images of a clip."""
    with torch.autocast(batch["video"].device.type, torch.bfloat16, enabled=precision == "bf16"):
        model.predict(batch)


def sample_latents(model: ObjectCentricModel, slots: Tensor, precision: Precision) -> None:
    """What `predict` samples, without the slots' encoder and the tokenizer's decoder."""
    with torch.autocast(slots.device.type, torch.bfloat16, enabled=precision == "bf16"):
        cast(DiffusionDecoder, model.decoder).sample_latents(slots)


def plain(model: ObjectCentricModel) -> None:
    """Replace the U-Net by its plain form."""
    decoder = cast(DiffusionDecoder, model.decoder)
    decoder.unet = PlainUNet(cast(ConditionedUNet, decoder.unet))


def compiled(model: ObjectCentricModel) -> None:
    """Compile the U-Net."""
    cast(DiffusionDecoder, model.decoder).unet.compile()


def ratios(plain: dict[str, Any], ours: dict[str, Any]) -> dict[str, float]:
    """Seconds of the plain form over ours: CPU seconds, on CUDA wall seconds."""
    kind = "seconds" if torch.cuda.is_available() else "cpu_seconds"
    both = [work for work in ("train_step", "sampling") if work in plain]
    return {work: plain[work][kind] / ours[work][kind] for work in both}


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"slotdiffusion.py: {error}")

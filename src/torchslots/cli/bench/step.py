"""Time a recipe's training step and its inference."""

import statistics
from dataclasses import asdict, dataclass, replace
from itertools import count, cycle, islice
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from torchslots.cli.bench.floor import beside_floor
from torchslots.cli.bench.memory import require_memory, step_bytes
from torchslots.cli.bench.sizes import random_batch, scale
from torchslots.cli.bench.timing import Times, machine, peak_memory, repeat
from torchslots.io.errors import UserError
from torchslots.models.tokenizers.base import Tokenizer
from torchslots.models.types import Batch
from torchslots.recipes import catalog
from torchslots.recipes.tokenizers import without_public_weights
from torchslots.training.accelerator import seed_step
from torchslots.training.step import TrainStep
from torchslots.training.warm_start import add_teacher

INFERENCE_FRAMES = 24
INFERENCE_RUNS = 5
CUDA_GROUP = 10
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class BenchOptions:
    """What to measure; None: the recipe's own value."""

    batch: int | None = None
    """Clips in a step."""
    frames: int | None = None
    """Frames in a clip."""
    slots: int | None = None
    """Slots, background included; all others have distinct boxes, unless `objects` is given."""
    resolution: int | None = None
    """Height and width in pixels."""
    objects: tuple[int, ...] | None = None
    """Objects in each clip, repeated over the batch; the other slots are copies of the background. None: no copies."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Precision of the matrix products; tf32, on CUDA, is fp32 with short mantissas."""
    compile: bool = False
    """Use torch.compile."""
    device: str | None = None
    """cpu, cuda, cuda:N or mps; None: cuda or mps where there is one, else cpu."""
    steps: int = 5
    """Timed samples after the first step; on CUDA each is ten steps without synchronization."""
    threads: int | None = None
    """CPU threads; None: torch's choice."""
    recompute: bool = False
    """Recompute activations in the backward pass to save memory."""
    distinct: bool = True
    """Decode each distinct slot once; otherwise decode copies too."""
    inference: bool = True
    """Also time inference: masks of one clip of 24 frames, or of one image where the recipe is one of images."""
    tensors: bool = False
    """Also measure the memory of the tensors of a step."""
    floor: bool = False
    """Also time the step's convolutions, matrix products and attention alone, forward and backward, in turns with the
    step (not when compiled), and print the ratio."""
    flops: bool = False
    """Count the floating point operations of one step (not when compiled)."""


def bench(recipe: str, options: BenchOptions = BenchOptions()) -> dict[str, Any]:
    """Seconds, memory and settings of a recipe's training step and inference, on random clips.

    The step is that of `torchslots train`: forward, backward, clipping, Adam. Times are wall clock unless their name
    says CPU, which is steadier on a shared machine. All weights are random, those of a perceptual distance too.

    Raises:
        UserError: a floor of a compiled step; on the CPU, a step that this machine has no memory for.
    """
    if options.floor and options.compile:
        raise UserError("The products of a compiled step cannot be recorded: leave --floor or --compile out.")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high" if options.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = options.precision == "tf32"
    size = (options.batch, options.frames, options.slots, options.resolution)
    scaled = scale(catalog.recipe(recipe), *size, options.recompute)
    precision = "fp32" if options.precision == "tf32" else options.precision
    training = replace(scaled.train, precision=precision, compile=options.compile)
    seed_step(0)
    model = catalog.build(scaled.model)
    add_teacher(model)
    without_public_weights(model)
    step = TrainStep(
        model if options.distinct else AllDistinct(model), scaled.optim, training, options.device
    )
    counts = None if options.objects is None else list(islice(cycle(options.objects), training.batch_size))
    one = random_batch(scaled, 1, scaled.data.num_frames, counts and counts[:1])
    require_memory(step, one, training.batch_size)
    data = random_batch(scaled, training.batch_size, scaled.data.num_frames, counts)
    report = measure(step, data, options.steps)
    if options.floor:
        done = count(10_000)
        report["floor"] = beside_floor(lambda: step(next(done), data), options.steps, step.accelerator.device)
    if options.tensors:
        report["tensor_bytes"] = step_bytes(step, data)
    if options.inference:
        frames = 1 if scaled.data.num_frames == 1 else INFERENCE_FRAMES
        clip = random_batch(scaled, 1, frames, counts and counts[:1])
        report |= measure_inference(step, clip, _AUTOCAST.get(options.precision))
    if options.flops and not options.compile:
        report |= count_flops(step, data, report["seconds_per_step"])
    settings = asdict(options) | {
        "recipe": recipe,
        "batch": training.batch_size,
        "frames": scaled.data.num_frames,
        "slots": scaled.data.max_instances + 1,
        "resolution": scaled.data.resolution,
    }
    return {"settings": settings, **report, "machine": machine(step.accelerator.device)}


class AllDistinct(nn.Module):
    """A model that decodes copies of slots too, to measure their cost."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The model's losses."""
        clip = self.model.encode(batch, attn=False)
        return self.model.decoder.loss(clip._replace(state=clip.state._replace(source=None)), batch)

    def predict(self, batch: Batch, **asked: Any) -> Any:
        """The model's prediction."""
        return self.model.predict(batch, **asked)


def measure(step: TrainStep, batch: Batch, samples: int) -> dict[str, Any]:
    """Time training steps."""
    device = step.accelerator.device
    done = count(1)
    group = CUDA_GROUP if device.type == "cuda" else 1
    first = repeat(lambda: step(next(done), batch), 1, 1, device)
    repeat(lambda: step(next(done), batch), 1, group, device)
    train = repeat(lambda: step(next(done), batch), samples, group, device)
    return {
        "seconds_per_step": _summary(train.wall),
        "cpu_seconds_per_step": _summary(train.cpu),
        "first_step_seconds": first.wall[0],
        "peak_memory_bytes": peak_memory(device),
        "parameters": sum(parameter.numel() for parameter in step.model.parameters()),
    }


def measure_inference(step: TrainStep, clip: Batch, autocast: torch.dtype | None) -> dict[str, Any]:
    """Time inference: masks without reconstructions, or images through a tokenizer."""
    device = step.accelerator.device
    tensors = {key: value.to(device) for key, value in clip.items()}
    repeat(lambda: predict(step.model, tensors, autocast), 1, 1, device)
    infer: Times = repeat(lambda: predict(step.model, tensors, autocast), INFERENCE_RUNS, 1, device)
    return {"inference_seconds": _summary(infer.wall), "cpu_seconds_inference": _summary(infer.cpu)}


def _summary(seconds: list[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "min": min(seconds)}


def predict(model: nn.Module, clip: Batch, autocast: torch.dtype | None) -> None:
    """Masks of one clip, without reconstructions; a tokenizer's decoded frames."""
    kind = clip["video"].device.type
    with torch.no_grad(), torch.autocast(kind, autocast or torch.bfloat16, enabled=autocast is not None):
        if isinstance(model, Tokenizer):
            model.reconstruct(clip["video"].flatten(0, 1) * 2 - 1)
        else:
            model.predict(clip, recon=False, attn=False)  # pyright: ignore[reportCallIssue]


def count_flops(step: TrainStep, batch: Batch, seconds: dict[str, float]) -> dict[str, Any]:
    """Floating point operations of the convolutions and matrix products of a step, and their rate."""
    with FlopCounterMode(display=False) as counter:
        step(1, batch)
    total = counter.get_total_flops()
    found: dict[str, Any] = {"flops_per_step": total, "flops_per_second": total / seconds["median"]}
    if step.accelerator.device.type == "cuda":
        found["bf16_matrix_flops_per_second"] = matrix_rate(step.accelerator.device)
    return found


def matrix_rate(device: torch.device, size: int = 8192) -> float:
    """Operations per second of a large bf16 matrix product, for comparison."""
    factor = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    repeat(lambda: factor @ factor, 1, 5, device)
    return 2 * size**3 / min(repeat(lambda: factor @ factor, 5, 10, device).wall)

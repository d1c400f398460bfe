"""Start accelerate for a run (device, precision, processes), and seed a step."""

import random
import sys
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed

from torchslots.io.devices import choose_device
from torchslots.io.errors import UserError
from torchslots.io.processes import is_first_process
from torchslots.recipes.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

_PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_NAMES = {theirs: ours for ours, theirs in _PRECISIONS.items()}


def precision_of(accelerator: "Accelerator") -> str:
    """The precision in which a run's products are computed: fp32, bf16 or fp16."""
    return _NAMES[accelerator.mixed_precision]


def start_accelerator(
    train: TrainConfig, device: str | None, partial_gradients: bool = False
) -> "Accelerator":
    """accelerate's handle of device, precision and processes (started by `torchrun` or `accelerate launch`).

    Half precision (fp16) scales the loss so that small gradients remain, on a GPU alone; on the CPU fp32 takes its
    place, said in a line.

    Args:
        partial_gradients: some weights get no gradient in some steps, which several processes have to look for.

    Raises:
        UserError: the device does not exist, or lacks the precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    cpu = chosen.type == "cpu"
    precision = "fp32" if cpu and train.precision == "fp16" else train.precision
    if precision != train.precision and is_first_process():
        print("fp16 needs a GPU: on the CPU this runs in fp32.", file=sys.stderr, flush=True)
    # accelerate has one state for the whole process; a second run may differ in device and precision.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(
        mixed_precision=_PRECISIONS[precision],
        cpu=cpu,
        gradient_accumulation_steps=train.accumulation,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=partial_gradients)],
    )


def check_split(train: TrainConfig, processes: int) -> None:
    """Check counts and seed, and that the global batch splits into equal parts, so that the mean over it is exact.

    Raises:
        UserError: the batch does not divide, a count is not positive, or the seed is negative.
    """
    parts = processes * train.accumulation
    if min(train.batch_size, train.accumulation, train.keep, train.log_every, train.checkpoint_every) < 1:
        raise UserError(
            "batch_size, accumulation, keep, log_every and checkpoint_every should be at least 1."
        )
    if train.batch_size % parts:
        raise UserError(
            f"A batch of {train.batch_size} clips cannot be split evenly over {processes} processes x "
            f"{train.accumulation} accumulation steps. Choose a batch size divisible by {parts}."
        )
    if train.seed < 0:
        raise UserError(f"train.seed should be 0 or more, got {train.seed}.")


def seed_step(*numbers: int) -> None:
    """Seed python, numpy and torch (all devices) from a tuple of numbers such as (seed, step, process)."""
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def torch_seed(*numbers: int) -> int:
    """The seed that `seed_step` gives torch."""
    return int(np.random.SeedSequence(numbers).generate_state(3)[2])

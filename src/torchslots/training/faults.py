"""What can go wrong inside a step, told with a remedy and kept as evidence."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from torchslots.errors import UserError
from torchslots.training.checkpoint import to_bytes
from torchslots.training.files import write_file
from torchslots.training.recipe import TrainConfig
from torchslots.training.step import NonFinite


@contextmanager
def explained(run: Path, train: TrainConfig, rank: int) -> Iterator[None]:
    """Turn what can go wrong in a step into a message with a remedy."""
    try:
        yield
    except NonFinite as error:
        raise UserError(_keep_evidence(run, error, rank)) from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The device has no memory for {train.batch_size} clips in {train.accumulation} "
            f"parts. Raise train.accumulation, lower train.batch_size or the resolution, or use bf16 (in a "
            f"new run folder)."
        ) from error


def _keep_evidence(run: Path, error: NonFinite, rank: int) -> str:
    step = error.step + 1
    file = run / f"nonfinite_batch_step_{step}{f'_process_{rank}' if rank else ''}.safetensors"
    tensors = {key: value for key, value in error.batch.items() if isinstance(value, Tensor)}
    write_file(file, to_bytes(tensors, {"names": json.dumps(error.batch.get("name", []))}))
    what = (
        ", ".join(f"`{name}` is {value}" for name, value in error.culprits.items())
        or "another process's loss is bad"
    )
    return (
        f"Step {step} stopped before the update: {what}, at learning rate {error.learning_rate:.3g}. The "
        f"batch is in {file}. Look at it for bad values; else lower optim.learning_rate or "
        f"optim.max_grad_norm, or use fp32."
    )

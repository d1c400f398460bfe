"""Ranks of the processes of one job, and values exchanged among them; a single process is rank 0 of 1."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed

from torchslots.io.devices import choose_device
from torchslots.io.errors import UserError


def is_first_process() -> bool:
    """Whether this process is of rank 0."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def gather(value: Any) -> list[Any]:
    """The value of every process."""
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


@contextmanager
def processes(device: str | None) -> Iterator[tuple[int, int]]:
    """Rank and number of processes started by `torchrun` or `accelerate launch`; joined while the block runs."""
    join = not torch.distributed.is_initialized() and _started() > 1
    if join:
        chosen = choose_device(device)
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        joined = torch.distributed.is_initialized()
        rank, size = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if joined else (0, 1)
        with errors_of(rank):
            yield rank, size
    finally:
        if join:
            torch.distributed.destroy_process_group()


@contextmanager
def errors_of(rank: int) -> Iterator[None]:
    """Mark the errors of a block as those of one process, whose message the others do not have."""
    try:
        yield
    except UserError as error:
        error.process = rank
        raise


def demand_one_process(what: str) -> None:
    """Refuse to run under `torchrun` with several processes.

    Raises:
        UserError: there are several; the message begins with `what`.
    """
    if _started() > 1:
        raise UserError(f"{what} by one process: run it without torchrun.")


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))

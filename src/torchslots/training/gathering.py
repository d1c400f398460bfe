"""What the processes of an evaluation tell each other; alone, a process tells itself."""

from typing import Any

import torch.distributed


def is_first_process() -> bool:
    """Whether this process speaks for all."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def gather(value: Any) -> list[Any]:
    """The value of every process."""
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values

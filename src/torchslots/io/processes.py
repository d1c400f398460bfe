"""What the processes of an evaluation tell each other; alone, a process tells itself."""

from typing import TYPE_CHECKING, Any

from torchslots.io.errors import UserError

if TYPE_CHECKING:
    pass


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


class processes:
    """This process' rank among those that `torchrun` or `accelerate launch` started; alone, 0 of 1."""

    def __init__(self, device: str):
        self.device, self.joined = device, False

    def __enter__(self) -> tuple[int, int]:
        import os

        import torch

        if torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return 0, 1
        torch.distributed.init_process_group("nccl" if self.device.startswith("cuda") else "gloo")
        self.joined = True
        return torch.distributed.get_rank(), torch.distributed.get_world_size()

    def __exit__(self, *error: object) -> None:
        import torch

        if self.joined:
            torch.distributed.destroy_process_group()


def demand_one_process(what: str) -> None:
    """Raises UserError under `torchrun` with several processes."""
    import os

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"{what} by one process: run it without torchrun.")

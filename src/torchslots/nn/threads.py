"""How many threads share the work."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On the CPU do the block's work with one of torch's threads; nothing changes elsewhere.

    For long rows of small steps: to share each of them costs more than to do it, and threads that wait for each other
    on a busy machine take twenty times as long as one alone.
    """
    before = torch.get_num_threads()
    if device.type != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

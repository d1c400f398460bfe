"""Random numbers for initial slots: from one generator for a batch, or one for each clip."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from torchslots.models.types import Batch, Conditioning


def sample_noise(
    hint: Conditioning, shape: tuple[int, ...], sample: Callable[..., Tensor] = torch.randn
) -> Tensor:
    """Random numbers of `shape`, the batch first, on the device of `hint`.

    With one generator for each clip, a clip's numbers do not depend on the batch. A generator samples on its own
    device, so that one on the CPU gives the same numbers on every machine.

    Args:
        sample: `torch.randn` or `torch.rand`.
    """
    given = hint.generator
    if given is None:
        return sample(shape, device=hint.device)
    if isinstance(given, torch.Generator):
        return sample(shape, device=given.device, generator=given).to(hint.device)
    clips = [sample(shape[1:], device=one.device, generator=one) for one in given]
    return torch.stack(clips).to(hint.device)


def seeded(batch: Batch, seed: int, first: int = 0) -> Batch:
    """The batch with a generator for each clip, unless it has one.

    A clip's random numbers depend on `seed` and on its name alone, whatever batch, process or device it is in.

    Args:
        first: index of the first clip, used where the batch has no names.
    """
    names = batch.get("name") or [f"clip {first + row}" for row in range(len(batch["video"]))]
    return {"generator": [_generator(seed, name) for name in names]} | batch


def _generator(seed: int, name: str) -> torch.Generator:
    """A generator on the CPU, so that samples are the same for every device."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))

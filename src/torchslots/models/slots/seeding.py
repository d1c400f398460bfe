"""Random numbers for initial slots, from one generator for a batch or one for each clip."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from torchslots.models.types import Batch, Conditioning


def sample_noise(
    hint: Conditioning, shape: tuple[int, ...], sample: Callable[..., Tensor] = torch.randn
) -> Tensor:
    """Random numbers of `shape`, the batch first, on the device of `hint`.

    With one generator for each clip, a clip's random numbers do not depend on the batch. A generator samples on its own
    device: one on the CPU gives the same on every machine.

    Args:
        sample: `torch.randn` or `torch.rand`.
    """
    source = hint.generator
    if source is None:
        return sample(shape, device=hint.device)
    if isinstance(source, torch.Generator):
        return sample(shape, device=source.device, generator=source).to(hint.device)
    clips = [sample(shape[1:], device=each.device, generator=each) for each in source]
    return torch.stack(clips).to(hint.device)


def seeded(batch: Batch, seed: int, first: int = 0) -> Batch:
    """The batch with a generator for each clip, unless it has generators.

    A clip's random numbers depend only on `seed` and on its name, not on its batch, process or device.

    Args:
        first: index of the first clip, its name where the batch has none.
    """
    names = batch.get("name") or [f"clip {first + row}" for row in range(len(batch["video"]))]
    return {"generator": [_generator(seed, name) for name in names]} | batch


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))

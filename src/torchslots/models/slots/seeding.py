"""Random numbers that a model starts from: for a whole batch, or for each clip from a source of its own."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from torchslots.models.types import Batch, Conditioning


def sample_noise(
    hint: Conditioning, shape: tuple[int, ...], sample: Callable[..., Tensor] = torch.randn
) -> Tensor:
    """Numbers of `shape`, the batch first, on the device of `hint`.

    With one generator for each clip a clip's numbers depend on its generator alone, not on the batch that it is in. A
    generator on another device draws there, so that one on the CPU gives the same numbers to every machine.

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
    """The batch with a source of random numbers for each clip, unless it brings one.

    A clip's numbers depend on `seed` and on its name alone, whatever batch, process or device it is in.

    Args:
        first: number of the first clip, its name where the batch has none.
    """
    names = batch.get("name") or [f"clip {first + row}" for row in range(len(batch["video"]))]
    return {"generator": [_generator(seed, name) for name in names]} | batch


def _generator(seed: int, name: str) -> torch.Generator:
    """On the CPU, so that every device sees the same draws."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))

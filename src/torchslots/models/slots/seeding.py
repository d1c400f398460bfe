"""Random numbers of a batch: from torch's generator, one for the batch, one for each clip, or of a larger batch."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from torchslots.models.types import Batch, Conditioning, Generators, Source


@dataclass(frozen=True)
class Share(Source):
    """The random numbers of one part of a larger batch: those that the part gets where the whole is sampled at once.

    The parts of a batch on several processes, or in several accumulation steps, get what one process would sample.

    Args:
        generator: in the same state for every part.
        index: number of the part, from 0.
        count: parts of the batch, of equal size.
    """

    generator: torch.Generator
    index: int
    count: int

    def rows(self, sample: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        whole = sample(
            (self.count * shape[0], *shape[1:]), device=self.generator.device, generator=self.generator
        )
        return whole[self.index * shape[0] :][: shape[0]]


def sample_noise(
    hint: Conditioning, shape: tuple[int, ...], sample: Callable[..., Tensor] = torch.randn
) -> Tensor:
    """Random numbers of `shape`, the batch first, on the device of `hint`; see `sample_rows`.

    Args:
        sample: `torch.randn` or `torch.rand`.
    """
    return sample_rows(hint.generator, shape, hint.device, sample)


def sample_rows(
    source: Generators | None, shape: tuple[int, ...], device: torch.device, sample: Callable[..., Tensor]
) -> Tensor:
    """Random numbers of `shape`, clips (or their frames) first.

    With one generator for each clip, a clip's random numbers do not depend on the batch. A generator samples on its own
    device: one on the CPU gives the same on every machine.

    Args:
        source: None: torch's own generator.
        sample: `torch.randn`, `torch.rand` or a like function.
    """
    return sample(shape, device=device) if source is None else _from_source(source, shape, sample).to(device)


def _sampled(source: Generators, shape: tuple[int, ...], sample: Callable[..., Tensor]) -> Tensor:
    if isinstance(source, Source):
        return source.rows(sample, shape)
    if isinstance(source, torch.Generator):
        return sample(shape, device=source.device, generator=source)
    rows = shape[0] // len(source)
    clips = [sample((rows, *shape[1:]), device=each.device, generator=each) for each in source]
    return torch.cat(clips)


_from_source: Callable[..., Tensor] = _sampled


def leave_generators_uncompiled() -> None:
    """Keep sampling from generators out of compiled code: it would be compiled again in every step.

    To be called before a model is compiled, and not before: it imports torch's compiler, which takes seconds.
    """
    global _from_source
    _from_source = cast(Callable[..., Tensor], torch.compiler.disable(_sampled))


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

"""Random numbers that a model starts from: for a whole batch, or for each clip from a source of its own."""

from collections.abc import Callable

import torch
from torch import Tensor

from torchslots.shapes import Conditioning


def draw(hint: Conditioning, shape: tuple[int, ...], sample: Callable[..., Tensor] = torch.randn) -> Tensor:
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

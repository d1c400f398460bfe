"""Dropout and other noise of one part of a batch, as it is where the whole batch is sampled at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from torchslots.models.slots.seeding import Share

_FILLED = (torch.ops.aten.bernoulli_.float, torch.ops.aten.exponential_.default)
"""What dropout and Gumbel noise come to on the CPU."""


class SharedNoise(TorchDispatchMode):
    """While it is entered, what torch's own generator would give comes from a part's share of the batch's numbers.

    The first axis of random numbers is that of clips or of their frames. On the CPU a model then learns the same on any
    number of processes and in any number of parts. GPUs have kernels of their own for dropout.
    """

    def __init__(self, share: Share) -> None:
        super().__init__()
        self._share = share

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLED and kwargs.get("generator") is None:
            return args[0].copy_(
                self._like(args[0], lambda whole, source: func(whole, *args[1:], generator=source))
            )
        if func is torch.ops.aten.rand.default:
            dtype = kwargs.get("dtype")
            return self._rows(args[0], lambda size, source: torch.rand(size, dtype=dtype, generator=source))
        return func(*args, **kwargs)

    def _rows(
        self, shape: tuple[int, ...], make: Callable[[tuple[int, ...], torch.Generator], Tensor]
    ) -> Tensor:
        def sample(whole: tuple[int, ...], *, device: Any, generator: torch.Generator) -> Tensor:
            return make(whole, generator)

        return self._share.rows(sample, tuple(shape))

    def _like(self, part: Tensor, fill: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        """The part's rows of a whole batch's tensor, with the strides that torch gives it, after `fill`."""
        # An axis of one that torch has put inside another has that one's stride.
        layout = sorted(range(part.ndim), key=lambda axis: (-part.stride(axis), part.shape[axis] == 1))
        return self._rows(
            tuple(part.shape),
            lambda shape, source: fill(torch.empty_permuted(shape, layout, dtype=part.dtype), source),
        )

"""Dropout and other noise of one part of a batch, as it is where the whole batch is sampled at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from torchslots.models.slots.seeding import Share


class SharedNoise(TorchFunctionMode):
    """While it is entered, what torch's own generator would give comes from a part's share of the batch's numbers.

    It replaces dropout, `torch.rand`, and `Tensor.exponential_` (Gumbel noise), whose first axis is that of clips or of
    their frames. A model then learns the same on any number of processes and in any number of parts; on a GPU, where
    torch's dropout has a kernel of its own, the same but for the masks that one process in one part would sample.
    """

    def __init__(self, share: Share) -> None:
        super().__init__()
        self._share = share

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention and kwargs.get("dropout_p"):
            return self._attention(*args, **kwargs)
        if func is torch.rand and kwargs.get("generator") is None:
            return self._rand(*args, **kwargs)
        if func is Tensor.exponential_ and kwargs.get("generator") is None:
            return args[0].copy_(
                self._like(args[0], lambda whole, source: whole.exponential_(generator=source))
            )
        return func(*args, **kwargs)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or not 0 < p < 1:
            return F.dropout(input, p, training, inplace)
        kept = self._like(input, lambda whole, source: whole.bernoulli_(1 - p, generator=source).div_(1 - p))
        return input.mul_(kept) if inplace else input * kept

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
    ) -> Tensor:
        """As torch's attention with dropout of weights, which it computes without a fused kernel too."""
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~seen, -torch.inf)
        if attn_mask is not None:
            keeps = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if keeps else scores + attn_mask
        return self._dropout(scores.softmax(-1), dropout_p) @ value

    def _rand(self, *size: Any, generator: None = None, device: Any = None, **how: Any) -> Tensor:
        shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size

        def sample(whole: tuple[int, ...], *, device: Any, generator: torch.Generator) -> Tensor:
            return torch.rand(whole, device=device, generator=generator, **how)

        return self._share.rows(sample, shape).to(device or "cpu")

    def _like(self, part: Tensor, fill: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        """The part's rows of a whole batch's tensor, with the strides that torch gives it, after `fill`."""
        layout = sorted(range(part.ndim), key=lambda axis: -part.stride(axis))

        def sample(shape: tuple[int, ...], *, device: Any, generator: torch.Generator) -> Tensor:
            return fill(torch.empty_permuted(shape, layout, dtype=part.dtype, device=device), generator)

        return self._share.rows(sample, tuple(part.shape))

"""Build a model without memory for its tensors: names, types and shapes of what it would hold."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def sketching() -> Iterator[None]:
    """Build models on the meta device, in which tensors have no values."""
    with torch.device("meta"), ShapesAlone():
        yield


class ShapesAlone(TorchFunctionMode):
    """Answer what constructors compute on the meta device by the result's shape.

    There torch would import its compiler for these functions, which takes two seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        compute: Any = _SHAPES[func] if func in _SHAPES and _without_values(args) else func
        return compute(*args, **kwargs or {})


def _without_values(args: tuple[Any, ...]) -> bool:
    """Whether a function of these gives a tensor on the meta device."""
    values = args[0] if args and isinstance(args[0], list | tuple) else args
    tensors = [value for value in values if isinstance(value, Tensor)]
    devices = [tensor.device for tensor in tensors] or [torch.get_default_device()]
    return any(device.type == "meta" for device in devices)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    shape = list(tensors[0].shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return tensors[0].new_empty(shape)


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    shape = list(tensors[0].shape)
    shape.insert(dim % (len(shape) + 1), len(tensors))
    return tensors[0].new_empty(shape)


def _meshgrid(*axes: Tensor, indexing: str) -> list[Tensor]:
    assert indexing == "ij"
    return [axis.new_empty([len(each) for each in axes]) for axis in axes]


def _linspace(start: float, end: float, steps: int) -> Tensor:
    return torch.empty(steps)


def _arange(*bounds: float) -> Tensor:
    start, end = (0, *bounds)[-2:]
    kind = torch.int64 if all(isinstance(bound, int) for bound in bounds) else None
    return torch.empty(math.ceil(end - start), dtype=kind)


def _randn(*size: Any) -> Tensor:
    return torch.empty(*size)


def _elementwise(*values: Any) -> Tensor:
    tensors = [value for value in values if isinstance(value, Tensor)]
    shape = np.broadcast_shapes(*(tensor.shape for tensor in tensors))
    return torch.empty(shape, dtype=tensors[0].dtype, device="meta")


def _mean(values: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    return values.narrow(dim, 0, 1) if keepdim else values.select(dim, 0)


def _itself(values: Tensor, *others: Any, **options: Any) -> Tensor:
    return values


def _initialized(tensor: Tensor, **options: Any) -> Tensor:
    return tensor


def _like(values: Tensor) -> Tensor:
    return values.new_empty(values.shape)


_SHAPES: dict[Any, Callable[..., Any]] = {
    torch.cat: _cat,
    torch.stack: _stack,
    torch.meshgrid: _meshgrid,
    torch.linspace: _linspace,
    torch.arange: _arange,
    torch.randn: _randn,
    Tensor.mean: _mean,
    torch.ones_like: _like,
    nn.init.normal_: _initialized,
    **dict.fromkeys((Tensor.mul_, Tensor.sub_, Tensor.normal_), _itself),
    **dict.fromkeys(
        (Tensor.add, Tensor.mul, Tensor.div, Tensor.__rsub__, torch.sin, torch.cos), _elementwise
    ),
}
"""Of the functions that constructors call; others run as they are."""

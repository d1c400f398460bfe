"""Time a training step beside its own convolutions, matrix products and attention alone, which it cannot leave out.

The operators of one step, forward and backward, are recorded with the shapes, strides and types of their tensors, then
replayed on random numbers without anything between them. Step and replay are measured in turns, since a shared machine
changes its speed.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from torchslots.cli.bench.timing import Times, repeat

_ATEN = torch.ops.aten
_PRODUCTS = (
    _ATEN.convolution,
    _ATEN.convolution_backward,
    _ATEN.mm,
    _ATEN.addmm,
    _ATEN.bmm,
    _ATEN.baddbmm,
    _ATEN._scaled_dot_product_flash_attention_for_cpu,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward,
)


_KERNELS = {
    f"aten::{name}"
    for name in (
        "mkldnn_convolution",
        "_slow_conv2d_forward",
        "slow_conv_transpose2d",
        "cudnn_convolution",
        "cudnn_convolution_transpose",
        "convolution_backward",
        "_slow_conv2d_backward",
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    )
}
"""What the products are called where they are computed."""
_SHOWN = 5
"""Other operators that are named."""


class _Shape:
    """A tensor's size, strides and type."""

    def __init__(self, tensor: Tensor) -> None:
        self.size, self.strides = tuple(tensor.shape), tensor.stride()
        self.dtype, self.device = tensor.dtype, tensor.device

    def __repr__(self) -> str:
        return f"{list(self.size)} {list(self.strides)} {self.dtype} {self.device}"

    def fill(self, pool: dict[str, Tensor]) -> Tensor:
        """Random numbers of this shape; one tensor serves all calls that ask for it."""
        if repr(self) not in pool:
            last = sum((size - 1) * stride for size, stride in zip(self.size, self.strides))
            space = torch.zeros(last + 1 if 0 not in self.size else 0, dtype=self.dtype, device=self.device)
            numbers = space.normal_() if self.dtype.is_floating_point else space
            pool[repr(self)] = numbers.as_strided(self.size, self.strides)
        return pool[repr(self)]


class Products(TorchDispatchMode):
    """Records the products that run in the block."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and note it if it is a product."""
        if func.overloadpacket in _PRODUCTS:
            self.calls.append((func, tree_map(_shape, args), tree_map(_shape, kwargs or {})))
        return func(*args, **(kwargs or {}))

    def replay(self) -> Callable[[], None]:
        """What runs the recorded products again, on numbers that are there before."""
        pool: dict[str, Tensor] = {}
        filled = [
            (func, *tree_map(lambda part: _fill(part, pool), (args, more))) for func, args, more in self.calls
        ]

        def run() -> None:
            for func, args, more in filled:
                func(*args, **more)

        return run

    def counts(self) -> dict[str, int]:
        """How often each operator ran."""
        return dict(Counter(str(func.overloadpacket).removeprefix("aten.") for func, _, _ in self.calls))


def _shape(part: Any) -> Any:
    return _Shape(part) if isinstance(part, Tensor) else part


def _fill(part: Any, pool: dict[str, Tensor]) -> Any:
    return part.fill(pool) if isinstance(part, _Shape) else part


def beside_floor(step: Callable[[], object], samples: int, device: torch.device) -> dict[str, Any]:
    """Seconds of a step, of its products alone, and their ratio: the least of `samples` of each, measured in turns."""
    repeat(step, 1, 1, device)
    with Products() as products:
        step()
    with torch.no_grad():
        floor = products.replay()
        found: dict[str, Times] = {"step": Times([], []), "floor": Times([], [])}
        for number in range(samples + 1):
            for name, work in (("step", step), ("floor", floor)):
                with torch.set_grad_enabled(name == "step"):
                    once = repeat(work, 1, 1, device)
                if number:
                    found[name].wall.extend(once.wall)
                    found[name].cpu.extend(once.cpu)
    least = {
        f"{name}_{clock}_seconds": min(getattr(times, clock))
        for name, times in found.items()
        for clock in ("wall", "cpu")
    }
    ratios = {
        f"{clock}_ratio": least[f"step_{clock}_seconds"] / max(least[f"floor_{clock}_seconds"], 1e-9)
        for clock in ("wall", "cpu")
    }
    return {**ratios, **least, "products": products.counts(), "beside": _beside(step)}


def _beside(step: Callable[[], object]) -> dict[str, float]:
    """Parts of a step's time that the dearest operators besides its products take."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    own = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    total = max(sum(own.values()), 1e-9)
    dearest = sorted(
        ((name, time / total) for name, time in own.items() if name not in _KERNELS), key=lambda o: -o[1]
    )
    return {name.removeprefix("aten::"): round(part, 4) for name, part in dearest[:_SHOWN]}

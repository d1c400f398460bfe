"""STATM's predictor, which attends over slots and over all frames so far (Li et al. 2025).

The fusions of space and time and their names in the original, whose released configurations all use the second:

| here | original | space and time |
|---|---|---|
| `SpaceThenTime` | TimeSpaceTransformerBlock | slots attend to each other, then each to its own past |
| `ParallelFusion` | TimeSpaceTransformerBlock2 | side by side, each with its residual, and added |
| `TimeThenSpace` | TimeSpaceTransformerBlock3 | each slot attends to its own past, then to the others |
| `SharedResidual` | TimeSpaceTransformerBlock4 | side by side, with one residual for both |
| `all_slots` | TimeSpaceTransformerBlock5 | as `ParallelFusion`, but each slot attends to all slots of the past |
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchslots.models.layers.attention import Context, MultiHeadAttention
from torchslots.models.layers.blocks import layer_norm, mlp
from torchslots.models.types import Grouping, State


class Memory(NamedTuple):
    """Keys and values of the corrected slots of t frames."""

    keys: Float[Tensor, "B K h t d"]
    values: Float[Tensor, "B K h t d"]

    @property
    def num_frames(self) -> int:
        return self.keys.shape[-2]


def remembering(memory: Memory | None, entry: Memory, max_frames: int | None = None) -> Memory:
    """The memory with one more frame, at most the last `max_frames`; None: all."""
    if memory is None:
        return entry
    first = 0 if max_frames is None else max(memory.num_frames + 1 - max_frames, 0)
    keys, values = (torch.cat([old[..., first:, :], new], -2) for old, new in zip(memory, entry))
    return Memory(keys, values)


def forget(state: State) -> State:
    """The state without its memory; the published evaluation code starts every slice so."""
    return state._replace(memory=None)


class History(nn.Module, ABC):
    """Attention from a frame's slots to remembered ones.

    Args:
        attention: between slots and memory.
        norm: applied to slots before they are remembered.
    """

    def __init__(self, attention: MultiHeadAttention, norm: nn.Module):
        super().__init__()
        self.attention, self.norm = attention, norm

    def entry(self, slots: Float[Tensor, "B K D"]) -> Memory:
        """The memory of one frame."""
        return Memory(*self.attention.project(self.norm(slots)[:, :, None]))

    def forward(self, x: Float[Tensor, "B K D"], memory: Memory) -> Float[Tensor, "B K D"]:
        return self.attention.attend(*self.arrange(x, memory)).reshape(x.shape)

    @abstractmethod
    def arrange(self, x: Float[Tensor, "B K D"], memory: Memory) -> tuple[Float[Tensor, "n q D"], Context]:
        """Queries, and the context they attend to."""


class OwnHistory(History):
    """Each slot attends to its own past."""

    def arrange(self, x: Float[Tensor, "B K D"], memory: Memory) -> tuple[Float[Tensor, "B*K 1 D"], Context]:
        return x.flatten(0, 1)[:, None], Context(memory.keys.flatten(0, 1), memory.values.flatten(0, 1))


class EveryHistory(History):
    """Each slot attends to the past of all slots."""

    def arrange(self, x: Float[Tensor, "B K D"], memory: Memory) -> tuple[Float[Tensor, "B K D"], Context]:
        keys, values = (part.permute(0, 2, 3, 1, 4).flatten(2, 3) for part in memory)
        return x, Context(keys, values)


class Residual(nn.Module):
    """Parallel layers in one residual sum; normalised after the sum or, with `pre_norm`, before each layer."""

    def __init__(self, size: int, pre_norm: bool, num_layers: int = 1):
        super().__init__()
        self.before = nn.ModuleList(
            layer_norm(size) if pre_norm else nn.Identity() for _ in range(num_layers)
        )
        self.after: nn.Module = nn.Identity() if pre_norm else layer_norm(size)

    def forward(
        self, x: Float[Tensor, "B K D"], *layers: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "B K D"]:
        total = x
        for norm, layer in zip(self.before, layers):
            total = total + layer(norm(x))
        return self.after(total)


class Fusion(nn.Module, ABC):
    """Attention over space and over time, and a perceptron; subclasses combine them.

    Args:
        norm_memory: normalise slots before they are remembered.
        history: the past that a slot attends to.
    """

    def __init__(
        self,
        size: int,
        *,
        num_heads: int,
        qkv_size: int,
        mlp_size: int,
        norm_memory: bool,
        history: type[History] = OwnHistory,
    ):
        super().__init__()
        attention = partial(MultiHeadAttention, size, qkv_size=qkv_size, num_heads=num_heads)
        self.space = attention()
        self.time = history(attention(), layer_norm(size) if norm_memory else nn.Identity())
        self.mlp = mlp(size, [mlp_size], size)

    @abstractmethod
    def forward(self, slots: Float[Tensor, "B K D"], memory: Memory) -> Float[Tensor, "B K D"]:
        """The slots one frame ahead; `memory` includes the frame of `slots`."""


class SpaceThenTime(Fusion):
    """Slots attend to each other, then each to its own past, which is never normalised."""

    def __init__(self, size: int, *, num_heads: int, qkv_size: int, mlp_size: int, pre_norm: bool = False):
        super().__init__(size, num_heads=num_heads, qkv_size=qkv_size, mlp_size=mlp_size, norm_memory=False)
        self.around_space, self.around_time, self.around_mlp = (Residual(size, pre_norm) for _ in range(3))

    def forward(self, slots: Float[Tensor, "B K D"], memory: Memory) -> Float[Tensor, "B K D"]:
        x = self.around_space(slots, self.space)
        x = self.around_time(x, partial(self.time, memory=memory))
        return self.around_mlp(x, self.mlp)


class ParallelFusion(Fusion):
    """Space and time in parallel, each with its own residual, so that their sum contains the slots twice."""

    def __init__(
        self,
        size: int,
        *,
        num_heads: int,
        qkv_size: int,
        mlp_size: int,
        pre_norm: bool = False,
        history: type[History] = OwnHistory,
    ):
        super().__init__(
            size,
            num_heads=num_heads,
            qkv_size=qkv_size,
            mlp_size=mlp_size,
            norm_memory=pre_norm,
            history=history,
        )
        self.around_space, self.around_time, self.around_mlp = (Residual(size, pre_norm) for _ in range(3))

    def forward(self, slots: Float[Tensor, "B K D"], memory: Memory) -> Float[Tensor, "B K D"]:
        in_space = self.around_space(slots, self.space)
        in_time = self.around_time(slots, partial(self.time, memory=memory))
        return self.around_mlp(in_space + in_time, self.mlp)


class TimeThenSpace(Fusion):
    """Each slot attends to its own past, then slots attend to each other."""

    def __init__(self, size: int, *, num_heads: int, qkv_size: int, mlp_size: int, pre_norm: bool = False):
        super().__init__(
            size, num_heads=num_heads, qkv_size=qkv_size, mlp_size=mlp_size, norm_memory=pre_norm
        )
        self.around_space, self.around_time, self.around_mlp = (Residual(size, pre_norm) for _ in range(3))

    def forward(self, slots: Float[Tensor, "B K D"], memory: Memory) -> Float[Tensor, "B K D"]:
        x = self.around_time(slots, partial(self.time, memory=memory))
        x = self.around_space(x, self.space)
        return self.around_mlp(x, self.mlp)


class SharedResidual(Fusion):
    """Space and time in parallel in one residual sum."""

    def __init__(self, size: int, *, num_heads: int, qkv_size: int, mlp_size: int, pre_norm: bool = False):
        super().__init__(
            size, num_heads=num_heads, qkv_size=qkv_size, mlp_size=mlp_size, norm_memory=pre_norm
        )
        self.around_both = Residual(size, pre_norm, num_layers=2)
        self.around_mlp = Residual(size, pre_norm)

    def forward(self, slots: Float[Tensor, "B K D"], memory: Memory) -> Float[Tensor, "B K D"]:
        x = self.around_both(slots, self.space, partial(self.time, memory=memory))
        return self.around_mlp(x, self.mlp)


all_slots = partial(ParallelFusion, history=EveryHistory)
"""`ParallelFusion` with attention to the past of all slots; the original does so only without `pre_norm`."""


class MemoryPredictor(nn.Module):
    """Predict from all frames so far (STATM).

    Args:
        max_frames: frames that are remembered, the current one included; None: all, as in the original.

    Raises:
        ValueError: `max_frames` below 1.
    """

    def __init__(self, fusion: Fusion, *, max_frames: int | None = None):
        super().__init__()
        self.fusion = fusion
        self.bound(max_frames)

    def bound(self, max_frames: int | None) -> None:
        """Change how many frames are remembered; no weight depends on it.

        Raises:
            ValueError: `max_frames` below 1.
        """
        if max_frames is not None and max_frames < 1:
            raise ValueError(f"max_frames should be at least 1, the current frame, got {max_frames}.")
        self.max_frames = max_frames

    def forward(self, group: Grouping, state: State) -> State:
        memory = remembering(state.memory, self.fusion.time.entry(group.slots), self.max_frames)
        return State(self.fusion(group.slots, memory), group.pose, memory, state.source)

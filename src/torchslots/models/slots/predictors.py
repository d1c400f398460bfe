"""Predictors map a frame's grouping and the state before it to the state of the next frame."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from torchslots.models.layers.blocks import PostNormBlock
from torchslots.models.types import Grouping, State


class IdentityPredictor(nn.Module):
    """Leave slots unchanged: images, and video without dynamics."""

    def forward(self, group: Grouping, state: State) -> State:
        return State(group.slots, group.pose, source=state.source)


class TransformerPredictor(nn.Module):
    """Slots of one frame attend to each other (SAVi, section 3.2)."""

    def __init__(
        self, slot_size: int, *, num_heads: int = 4, qkv_size: int | None = None, mlp_size: int = 256
    ):
        super().__init__()
        self.block = PostNormBlock(
            slot_size, num_heads=num_heads, qkv_size=qkv_size or slot_size, mlp_size=mlp_size
        )

    def forward(self, group: Grouping, state: State) -> State:
        return State(self.block(group.slots), group.pose, source=state.source)


class ModulePredictor(nn.Module):
    """Any module that maps a frame's slots [B, K, D] to the next frame's."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, group: Grouping, state: State) -> State:
        return State(self.block(group.slots), group.pose, source=state.source)


class Recurrence(NamedTuple):
    """Memory of `LSTMPredictor`: each slot's hidden and cell state, and the number of frames so far."""

    hidden: Float[Tensor, "B K M"]
    cell: Float[Tensor, "B K M"]
    num_frames: int


class LSTMPredictor(nn.Module):
    """A block over the slots of a frame, then an LSTM over time for each slot.

    Args:
        block: maps a frame's slots [B, K, D] to [B, K, D].
        hidden_size: width of the recurrent unit.
        truncate_every: frames after which slots and memory are detached; None: gradients flow through the whole clip.
    """

    def __init__(
        self, block: nn.Module, slot_size: int, hidden_size: int, *, truncate_every: int | None = None
    ):
        super().__init__()
        self.block = block
        self.cell = nn.LSTMCell(slot_size, hidden_size)
        self.out = nn.Linear(hidden_size, slot_size)
        self.truncate_every = truncate_every

    def forward(self, group: Grouping, state: State) -> State:
        slots = group.slots
        empty = slots.new_zeros(*slots.shape[:2], self.cell.hidden_size)
        hidden, cell, done = state.memory or Recurrence(empty, empty, 0)
        if self.truncate_every and done and done % self.truncate_every == 0:
            slots, hidden, cell = slots.detach(), hidden.detach(), cell.detach()
        found = self.cell(self.block(slots).flatten(0, 1), (hidden.flatten(0, 1), cell.flatten(0, 1)))
        hidden, cell = (part.unflatten(0, slots.shape[:2]) for part in found)
        return State(self.out(hidden), group.pose, Recurrence(hidden, cell, done + 1), state.source)

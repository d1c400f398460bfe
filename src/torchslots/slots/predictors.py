"""What slots do between two frames. A predictor maps a frame's grouping and the state before it to the state that
starts the next frame."""

from torch import nn

from torchslots.nn.blocks import PostNormBlock
from torchslots.shapes import Grouping, State


class Stay(nn.Module):
    """Slots stay what they are: images, and video without dynamics."""

    def forward(self, group: Grouping, state: State) -> State:
        return State(group.slots, group.pose, source=state.source)


class Interact(nn.Module):
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

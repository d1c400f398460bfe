"""Slot Attention: slots compete for tokens, then each is updated from those it attends to (Locatello et al. 2020)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from torchslots.io.errors import UserError
from torchslots.models.layers.blocks import NORM_EPS, GRUCell, layer_norm, mlp
from torchslots.models.layers.init import dense
from torchslots.models.types import Grouping, State

Normalizer = Callable[[Float[Tensor, "*b K N"]], Float[Tensor, "*b K N"]]


class Projected(NamedTuple):
    """Keys and values of one frame's tokens, or of all frames' with T behind B."""

    keys: Float[Tensor, "*b h N d"]
    values: Float[Tensor, "*b h N d"]

    def frames(self) -> "list[Projected]":
        return [Projected(keys, values) for keys, values in zip(self.keys.unbind(1), self.values.unbind(1))]


def eps_on_sum(eps: float = 1e-8) -> Normalizer:
    """Weights of a mean over tokens with epsilon on their sum: SAVi and Invariant Slot Attention."""
    return partial(_mean_over_tokens, eps=eps)


def _mean_over_tokens(attn: Float[Tensor, "*b K N"], eps: float) -> Float[Tensor, "*b K N"]:
    return attn / (attn.sum(-1, keepdim=True) + eps)


def eps_on_weights(eps: float = 1e-8) -> Normalizer:
    """Weights of a mean over tokens with epsilon on each: Slot Attention (1e-8), STEVE and SlotDiffusion (1e-6)."""
    return partial(_mean_of_shifted, eps=eps)


def _mean_of_shifted(attn: Float[Tensor, "*b K N"], eps: float) -> Float[Tensor, "*b K N"]:
    shifted = attn + eps
    return shifted / shifted.sum(-1, keepdim=True)


class Corrector(nn.Module, ABC):
    """Correct the slots that were predicted for a frame from its tokens."""

    @abstractmethod
    def project(self, tokens: Float[Tensor, "*b N C"]) -> Projected:
        """The part that does not depend on slots, for all frames at once."""

    @abstractmethod
    def forward(self, state: State, inputs: Projected) -> Grouping:
        """The slots of one frame."""


class SlotAttention(Corrector):
    """Slot Attention (Locatello et al. 2020, algorithm 1) in the form of SAVi (Kipf et al. 2022, section 3.1).

    Three steps: `project` tokens once for a whole clip, `attend` for one round, `update`.

    Args:
        qkv_size: width of queries, keys and values; None: `slot_size`.
        num_iterations: rounds of attention and update.
        num_heads: heads that compete separately; the values of several are projected to the width of one head, as in
            the reference.
        mlp_size: hidden width of the residual perceptron after the recurrent unit; None (SAVi): none.
        normalizer: turns the softmax over slots into weights over tokens.
        norm_eps: epsilon of the layer norms: flax's by default, 1e-3 in the Keras original.
        full_bias: give the recurrent unit all hidden biases, as in Keras and torch.
        mlp_in_last: use the perceptron in the last round too; STEVE's original does not.
        first_iterations: rounds in a video's first frame; None: as in the others.
        normed_memory: the recurrent unit's hidden state is the normalised slots, as in VideoSAUR's code, not the slots
            themselves, as in the paper.

    Raises:
        UserError: heads that do not divide `qkv_size`.
    """

    def __init__(
        self,
        input_size: int,
        slot_size: int,
        *,
        qkv_size: int | None = None,
        num_iterations: int = 1,
        num_heads: int = 1,
        mlp_size: int | None = None,
        normalizer: Normalizer | None = None,
        norm_eps: float = NORM_EPS,
        full_bias: bool = False,
        mlp_in_last: bool = True,
        first_iterations: int | None = None,
        normed_memory: bool = False,
    ):
        super().__init__()
        qkv_size = qkv_size or slot_size
        if qkv_size % num_heads:
            raise UserError(
                f"qkv_size {qkv_size} is not divisible by num_heads {num_heads}. Choose a multiple of the heads."
            )
        self.num_iterations, self.num_heads = num_iterations, num_heads
        self.first_iterations = num_iterations if first_iterations is None else first_iterations
        self.mlp_in_last, self.normed_memory = mlp_in_last, normed_memory
        self.normalizer = normalizer or eps_on_sum()
        head_size = qkv_size // num_heads
        self.norm_inputs = layer_norm(input_size, norm_eps)
        self.norm_slots = layer_norm(slot_size, norm_eps)
        self.query = dense(slot_size, qkv_size, bias=False)
        self.key = dense(input_size, qkv_size, bias=False)
        self.value = dense(input_size, qkv_size, bias=False)
        self.merge: nn.Module = dense(qkv_size, head_size) if num_heads > 1 else nn.Identity()
        self.gru = GRUCell(head_size, slot_size, full_bias)
        self.mlp = (
            mlp(slot_size, [mlp_size], slot_size, pre_norm=True, norm_eps=norm_eps) if mlp_size else None
        )

    def _heads(self, x: Float[Tensor, "*b n c"]) -> Float[Tensor, "*b h n d"]:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)

    def project(self, tokens: Float[Tensor, "*b N C"]) -> Projected:
        """Keys and values."""
        tokens = self.norm_inputs(tokens)
        return Projected(self._heads(self.key(tokens)), self._heads(self.value(tokens)))

    def queries(self, slots: Float[Tensor, "B K D"]) -> Float[Tensor, "B h K d"]:
        """Queries of slots, scaled for the softmax."""
        queries = self._heads(self.query(self.norm_slots(slots)))
        return queries * queries.shape[-1] ** -0.5

    def attend(
        self, slots: Float[Tensor, "B K D"], inputs: Projected
    ) -> tuple[Float[Tensor, "B K d"], Float[Tensor, "B h K N"]]:
        """One round: each slot's weighted mean of values, and the softmax over slots."""
        attn = (self.queries(slots) @ inputs.keys.transpose(-1, -2)).softmax(dim=-2)
        gathered = self.normalizer(attn) @ inputs.values
        return self.merge(gathered.transpose(1, 2).flatten(2)), attn

    def remember(
        self, slots: Float[Tensor, "B K D"], gathered: Float[Tensor, "B K d"]
    ) -> Float[Tensor, "B K D"]:
        """The recurrent unit."""
        return self.gru(gathered, self.norm_slots(slots) if self.normed_memory else slots)

    def update(
        self, slots: Float[Tensor, "B K D"], gathered: Float[Tensor, "B K d"]
    ) -> Float[Tensor, "B K D"]:
        """Recurrent unit, then the residual perceptron where there is one."""
        slots = self.remember(slots, gathered)
        return slots if self.mlp is None else slots + self.mlp(slots)

    def forward(self, state: State, inputs: Projected) -> Grouping:
        """All rounds on one frame. `attn` is the last round's."""
        slots = attn = state.slots
        for left in reversed(range(self.first_iterations if state.is_first else self.num_iterations)):
            gathered, attn = self.attend(slots, inputs)
            with_mlp = left > 0 or self.mlp_in_last
            slots = (self.update if with_mlp else self.remember)(slots, gathered)
        return Grouping(slots, attn.squeeze(1) if self.num_heads == 1 else attn.mean(1), state.pose)

"""Causal transformer decoder: all positions at once in training, one by one in decoding."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchslots.models.layers.attention import Context, MultiHeadAttention
from torchslots.models.layers.blocks import TORCH_NORM_EPS, layer_norm, mlp


class KVCache(NamedTuple):
    """Keys and values of one block: of the context, and of the positions so far, allocated for all positions."""

    context: Context
    keys: Float[Tensor, "b h L d"]
    values: Float[Tensor, "b h L d"]

    def add(self, new: Context, position: int) -> Context:
        """Store one more position, in place, and return all up to it."""
        self.keys[:, :, position : position + 1] = new.keys
        self.values[:, :, position : position + 1] = new.values
        return Context(self.keys[:, :, : position + 1], self.values[:, :, : position + 1])


class CausalBlock(nn.Module):
    """Causal self-attention, cross-attention and perceptron: three residual branches with pre-norm.

    Args:
        dropout: probability, in training, to drop an attention weight or an output of a branch.
        residual_from_norm: the first branch adds to its normalised input, as in STEVE's first block.
        bias: of the attention's projections.
    """

    def __init__(
        self,
        size: int,
        *,
        num_heads: int,
        mlp_size: int,
        dropout: float = 0.0,
        norm_eps: float = TORCH_NORM_EPS,
        residual_from_norm: bool = False,
        bias: bool = False,
    ):
        super().__init__()
        self.residual_from_norm = residual_from_norm
        self.norm_self = layer_norm(size, norm_eps)
        options: dict[str, Any] = {"num_heads": num_heads, "dropout": dropout, "bias": bias}
        self.self_attention = MultiHeadAttention(size, qkv_size=size, **options)
        self.norm_cross = layer_norm(size, norm_eps)
        self.cross_attention = MultiHeadAttention(size, qkv_size=size, **options)
        self.norm_mlp = layer_norm(size, norm_eps)
        self.mlp = mlp(size, [mlp_size], size)
        self.dropout = nn.Dropout(dropout)

    def look_at(self, context: Float[Tensor, "b K D"]) -> Context:
        """The context's keys and values, the same for all positions."""
        return self.cross_attention.project(context)

    def forward(self, x: Float[Tensor, "b n D"], context: Context) -> Float[Tensor, "b n D"]:
        """All positions at once; each attends to itself and those before it."""
        return self._read(self.look_back(x), context)

    def with_weights(
        self, x: Float[Tensor, "b n D"], context: Context
    ) -> tuple[Float[Tensor, "b n D"], Float[Tensor, "b h n K"]]:
        """`forward`, and the weights of its attention to the context."""
        x = self.look_back(x)
        return self._read(x, context), self._weights(x, context)

    def weights(self, x: Float[Tensor, "b n D"], context: Context) -> Float[Tensor, "b h n K"]:
        """The weights of its attention to the context alone."""
        return self._weights(self.look_back(x), context)

    def _weights(self, x: Float[Tensor, "b n D"], context: Context) -> Float[Tensor, "b h n K"]:
        return self.cross_attention.weights(self.norm_cross(x), context)

    def look_back(self, x: Float[Tensor, "b n D"]) -> Float[Tensor, "b n D"]:
        """The first branch: causal self-attention."""
        normed = self.norm_self(x)
        return self._look(x, normed, self.self_attention.project(normed), causal=True)

    def step(self, x: Float[Tensor, "b 1 D"], cache: KVCache, position: int) -> Float[Tensor, "b 1 D"]:
        """One position: it attends to those in the cache, to which it is added."""
        normed = self.norm_self(x)
        seen = cache.add(self.self_attention.project(normed), position)
        return self._read(self._look(x, normed, seen, causal=False), cache.context)

    def _look(
        self, x: Float[Tensor, "b n D"], normed: Float[Tensor, "b n D"], seen: Context, causal: bool
    ) -> Float[Tensor, "b n D"]:
        start = normed if self.residual_from_norm else x
        return start + self.dropout(self.self_attention.attend(normed, seen, causal))

    def _read(self, x: Float[Tensor, "b n D"], context: Context) -> Float[Tensor, "b n D"]:
        """The other branches: attention to the context, and the perceptron."""
        x = x + self.dropout(self.cross_attention.attend(self.norm_cross(x), context))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class CausalDecoder(nn.Module):
    """Blocks and a final layer norm (Singh et al. 2022, appendix; Vaswani et al. 2017).

    The first block adds to its normalised input.
    """

    def __init__(
        self,
        size: int,
        *,
        num_layers: int,
        num_heads: int,
        mlp_size: int,
        dropout: float = 0.0,
        norm_eps: float = TORCH_NORM_EPS,
    ):
        super().__init__()
        options = {"num_heads": num_heads, "mlp_size": mlp_size, "dropout": dropout, "norm_eps": norm_eps}
        self.blocks = nn.ModuleList(
            CausalBlock(size, residual_from_norm=index == 0, **options) for index in range(num_layers)
        )
        self.norm = layer_norm(size, norm_eps)
        self.num_heads = num_heads
        start_small(self._blocks())

    def _blocks(self) -> list[CausalBlock]:
        return [block for block in self.blocks if isinstance(block, CausalBlock)]

    def forward(self, x: Float[Tensor, "b n D"], context: Float[Tensor, "b K D"]) -> Float[Tensor, "b n D"]:
        """All positions at once; each attends to itself, those before it and the whole context."""
        for block in self._blocks():
            x = block(x, block.look_at(context))
        return self.norm(x)

    def start(self, context: Float[Tensor, "b K D"], length: int) -> list[KVCache]:
        """A cache for each block, with room for `length` positions."""
        caches = []
        for block in self._blocks():
            projected = block.look_at(context)
            batch, heads, _, width = projected.keys.shape
            keys, values = (projected.keys.new_empty(batch, heads, length, width) for _ in "kv")
            caches.append(KVCache(projected, keys, values))
        return caches

    def step(
        self, x: Float[Tensor, "b 1 D"], caches: Sequence[KVCache], position: int
    ) -> Float[Tensor, "b 1 D"]:
        """`forward` at one position, from the caches of those before; it is added to them."""
        for block, cache in zip(self._blocks(), caches):
            x = block.step(x, cache, position)
        return self.norm(x)


@torch.no_grad()
def start_small(blocks: Sequence[CausalBlock]) -> None:
    """Initialise as STEVE's original: Xavier, in last layers divided by sqrt(branches); Kaiming before the ReLU."""
    gain = (3 * max(len(blocks), 1)) ** -0.5
    for block in blocks:
        for attention in (block.self_attention, block.cross_attention):
            for part in (attention.query, attention.key, attention.value):
                nn.init.xavier_uniform_(part.weight)
            nn.init.xavier_uniform_(attention.out.weight, gain)
        inner, outer = (layer for layer in block.mlp if isinstance(layer, nn.Linear))
        nn.init.kaiming_uniform_(inner.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(outer.weight, gain)

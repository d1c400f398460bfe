"""Multi-head dot-product attention in steps: project keys and values, attend, or both at once."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.io.errors import UserError
from torchslots.models.layers.init import dense


class Context(NamedTuple):
    """Keys and values of what is attended to."""

    keys: Float[Tensor, "*b h m d"]
    values: Float[Tensor, "*b h m d"]


class MultiHeadAttention(nn.Module):
    """Attention (Vaswani et al. 2017, section 3.2) whose inner width `qkv_size` may differ from its outer `size`.

    Queries, keys and values are projected; the result is projected back to `size`.

    Args:
        context_size: width of what is attended to; None: `size`.
        bias: of all four projections.
        dropout: probability, in training, to drop an attention weight.
        scale: factor of the logits; None: the inverse root of a head's width.

    Raises:
        UserError: heads that do not divide `qkv_size`.
    """

    def __init__(
        self,
        size: int,
        *,
        qkv_size: int,
        num_heads: int,
        context_size: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        scale: float | None = None,
    ):
        super().__init__()
        if qkv_size % num_heads:
            raise UserError(
                f"Attention of width {qkv_size} does not divide into {num_heads} heads: qkv_size {qkv_size} is not "
                f"divisible by num_heads {num_heads}. Choose another number of heads."
            )
        self.num_heads, self.dropout, self.scale = num_heads, dropout, scale
        self.query = dense(size, qkv_size, bias)
        self.key = dense(context_size or size, qkv_size, bias)
        self.value = dense(context_size or size, qkv_size, bias)
        self.out = dense(qkv_size, size, bias)

    def _heads(self, x: Float[Tensor, "*b n c"]) -> Float[Tensor, "*b h n d"]:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)

    def project(self, context: Float[Tensor, "*b m c"]) -> Context:
        """Keys and values of `context`."""
        return Context(self._heads(self.key(context)), self._heads(self.value(context)))

    def attend(
        self, x: Float[Tensor, "*b n c"], context: Context, causal: bool = False
    ) -> Float[Tensor, "*b n c"]:
        """Attention from `x` to projected keys and values.

        Args:
            causal: each position attends to itself and those before it; `x` and `context` are the same positions.
        """
        mixed = F.scaled_dot_product_attention(
            self._heads(self.query(x)),
            context.keys,
            context.values,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
            scale=self.scale,
        )
        return self.out(mixed.transpose(-2, -3).flatten(-2))

    def weights(self, x: Float[Tensor, "*b n c"], context: Context) -> Float[Tensor, "*b h n m"]:
        """The attention weights, for plots and checks."""
        queries = self._heads(self.query(x))
        logits = queries @ context.keys.transpose(-1, -2)
        logits = logits * (queries.shape[-1] ** -0.5 if self.scale is None else self.scale)
        return logits.softmax(-1)

    def forward(self, x: Float[Tensor, "*b n c"]) -> Float[Tensor, "*b n c"]:
        """Self-attention."""
        return self.attend(x, self.project(x))

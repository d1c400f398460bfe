"""Perceptrons, the gated recurrent unit and transformer blocks."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.models.layers.attention import MultiHeadAttention
from torchslots.models.layers.init import dense

NORM_EPS = 1e-6
"""Epsilon of layer and group norms in flax (torch's default is 1e-5)."""
KERAS_NORM_EPS = 1e-3
"""Epsilon of layer norms in Keras."""
TORCH_NORM_EPS = 1e-5
"""Epsilon of layer and group norms in torch."""


def layer_norm(size: int, eps: float = NORM_EPS) -> nn.LayerNorm:
    """Layer norm over the last axis, by default with flax's epsilon."""
    return nn.LayerNorm(size, eps=eps)


def mlp(
    input_size: int,
    hidden: Sequence[int],
    output_size: int,
    *,
    pre_norm: bool = False,
    norm_eps: float = NORM_EPS,
) -> nn.Sequential:
    """Linear layers with ReLU between them; optionally a layer norm in front."""
    layers: list[nn.Module] = [layer_norm(input_size, norm_eps)] if pre_norm else []
    sizes = [input_size, *hidden]
    for wide, narrow in zip(sizes, sizes[1:]):
        layers += [dense(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers, dense(sizes[-1], output_size))


class GRUCell(nn.Module):
    """Gated recurrent unit (Cho et al. 2014) whose hidden side has a bias on the candidate only, as in flax.

    `torch.nn.GRUCell` has two more hidden biases, equivalent to the input's, which double Adam's step in that
    direction; `full_bias` adds them, for systems that were trained with them.
    """

    def __init__(self, input_size: int, hidden_size: int, full_bias: bool = False):
        super().__init__()
        self.hidden_size = hidden_size
        gates = [dense(input_size, hidden_size).weight for _ in range(3)]
        self.weight_ih = nn.Parameter(torch.cat([gate.detach() for gate in gates]))
        self.weight_hh = nn.Parameter(
            torch.cat([nn.init.orthogonal_(torch.empty(hidden_size, hidden_size)) for _ in gates])
        )
        self.bias_ih = nn.Parameter(torch.zeros(3 * hidden_size))
        self.bias_hh = nn.Parameter(torch.zeros(3 * hidden_size if full_bias else hidden_size))

    def forward(self, inputs: Float[Tensor, "*n I"], hidden: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        bias_hh = F.pad(self.bias_hh, (3 * self.hidden_size - self.bias_hh.numel(), 0))
        flat = torch.gru_cell(
            inputs.flatten(0, -2),
            hidden.flatten(0, -2),
            self.weight_ih,
            self.weight_hh,
            self.bias_ih,
            bias_hh,
        )
        return flat.view(hidden.shape)


class PostNormBlock(nn.Module):
    """Transformer block that normalises after each residual sum (Vaswani et al. 2017); SAVi's predictor."""

    def __init__(self, size: int, *, num_heads: int, qkv_size: int, mlp_size: int):
        super().__init__()
        self.attention = MultiHeadAttention(size, qkv_size=qkv_size, num_heads=num_heads)
        self.norm_attention = layer_norm(size)
        self.mlp = mlp(size, [mlp_size], size)
        self.norm_mlp = layer_norm(size)

    def forward(self, x: Float[Tensor, "*b n D"]) -> Float[Tensor, "*b n D"]:
        x = self.norm_attention(x + self.attention(x))
        return self.norm_mlp(x + self.mlp(x))


class PreNormBlock(nn.Module):
    """Transformer block that normalises inside each residual branch; SAVi++'s encoder, STEVE's predictor.

    Args:
        bias: of the attention's projections.
        residual_from_norm: attention adds to the normalised input, as in STEVE's first block.
        scale: factor of the attention's logits; None: the inverse root of a head's width.
    """

    def __init__(
        self,
        size: int,
        *,
        num_heads: int,
        qkv_size: int,
        mlp_size: int,
        norm_eps: float = NORM_EPS,
        bias: bool = True,
        residual_from_norm: bool = False,
        scale: float | None = None,
    ):
        super().__init__()
        self.residual_from_norm = residual_from_norm
        self.norm_attention = layer_norm(size, norm_eps)
        self.attention = MultiHeadAttention(
            size, qkv_size=qkv_size, num_heads=num_heads, bias=bias, scale=scale
        )
        self.norm_mlp = layer_norm(size, norm_eps)
        self.mlp = mlp(size, [mlp_size], size)

    def forward(self, x: Float[Tensor, "*b n D"]) -> Float[Tensor, "*b n D"]:
        normed = self.norm_attention(x)
        x = (normed if self.residual_from_norm else x) + self.attention(normed)
        return x + self.mlp(self.norm_mlp(x))


class ResidualMlp(nn.Module):
    """Layer norm and a perceptron of one hidden layer, added to its input.

    Args:
        from_norm: add to the normalised input, not to the input itself.
    """

    def __init__(self, size: int, hidden_size: int, *, from_norm: bool, norm_eps: float = NORM_EPS):
        super().__init__()
        self.norm, self.mlp = layer_norm(size, norm_eps), mlp(size, [hidden_size], size)
        self.from_norm = from_norm

    def forward(self, x: Float[Tensor, "*b D"]) -> Float[Tensor, "*b D"]:
        normed = self.norm(x)
        return (normed if self.from_norm else x) + self.mlp(normed)


def transformer(
    size: int, *, num_layers: int, num_heads: int, mlp_size: int, dropout: float, norm_first: bool
) -> nn.TransformerEncoder:
    """Torch's transformer layers with ReLU, on [B, n, size], without a final norm; all start with the same weights.

    Args:
        dropout: of the attention's weights and of the outputs of both branches.
        norm_first: normalise inside the residual branches, not after their sums.
    """
    layer = nn.TransformerEncoderLayer(
        size, num_heads, mlp_size, dropout, batch_first=True, norm_first=norm_first
    )
    return nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)

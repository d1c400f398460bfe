"""Renderers decode slots to the features of patches, and to masks over the patches."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.io.errors import UserError
from torchslots.models.layers.attention import MultiHeadAttention
from torchslots.models.layers.blocks import TORCH_NORM_EPS, layer_norm, mlp
from torchslots.models.layers.init import dense
from torchslots.models.layers.position import LearnedPositions
from torchslots.models.layers.transformer import CausalBlock

_CACHED_VECTORS = 1024
"""Hidden vectors of a slot at a patch that are computed at once on a processor without gradients."""


class Seen(NamedTuple):
    """What a renderer may use of n frames, besides their slots.

    `attn` is slot attention's, `features` are the backbone's; `grid` has the rows and columns of the patches, None:
    those that the renderer was built for.
    """

    attn: Float[Tensor, "n K N"] | None = None
    features: Float[Tensor, "n N C"] | None = None
    grid: tuple[int, int] | None = None


class Rendered(NamedTuple):
    """Masks that sum to one over K, and predicted channels of each patch; None: not asked for."""

    masks: Float[Tensor, "n K N"]
    output: Float[Tensor, "n N P"] | None


class Renderer(nn.Module, ABC):
    """Slots to masks over patches, and to channels of each patch."""

    needs_attn: bool = False
    """Whether `Seen.attn` is used."""
    needs_features: bool = False
    """Whether `Seen.features` are used."""
    grid: tuple[int, int]
    """Rows and columns of the patches that it was built for."""

    @abstractmethod
    def forward(self, slots: Float[Tensor, "n K D"], seen: Seen, output: bool = True) -> Rendered:
        """Masks, and the output unless `output` is False."""


class PerceptronRenderer(Renderer):
    """A perceptron on each slot at each position; masks are a softmax over slots (DINOSAUR, section 3.2).

    The last layer is linear and masks sum to one: hidden features are blended first, then read out once for each patch.

    Args:
        grid: rows and columns of the patches.
        hidden: widths of the hidden layers, ReLU behind each.
        output_size: channels of each patch.
        top_k: decode at each patch only the slots of the largest attention; 0 or None: all of them. The others' masks
            are zero there (FT-DINOSAUR).
    """

    def __init__(
        self,
        grid: tuple[int, int],
        slot_size: int,
        hidden: Sequence[int],
        output_size: int,
        *,
        top_k: int | None = None,
    ):
        super().__init__()
        self.grid, self.top_k, self.needs_attn = grid, top_k or None, bool(top_k)
        self.cached_vectors: int | None = _CACHED_VECTORS
        self.positions = LearnedPositions(grid, slot_size)
        sizes = list(hidden)
        inner = [layer for pair in zip(sizes, sizes[1:]) for layer in (dense(*pair), nn.ReLU())]
        self.first = dense(slot_size, sizes[0])
        self.middle = nn.Sequential(nn.ReLU(), *inner)
        self.last = dense(sizes[-1], output_size + 1)

    def forward(self, slots: Float[Tensor, "n K D"], seen: Seen, output: bool = True) -> Rendered:
        """Raise UserError where there are fewer slots than `top_k`, or no attention to choose them by."""
        of_slots, chosen = F.linear(slots, self.first.weight), self.chosen(slots.shape[1], seen)
        of_positions = self.first(self.positions(seen.grid))
        parts = [
            self._rendered(
                of_slots, of_positions[part], None if chosen is None else chosen[..., part], output
            )
            for part in self._parts(len(of_positions), slots)
        ]
        shares = torch.cat([part.masks for part in parts], -1)
        outputs = [part.output for part in parts if part.output is not None]
        if chosen is not None:
            shares = shares.new_zeros(*slots.shape[:2], shares.shape[-1]).scatter(1, chosen, shares)
        return Rendered(shares, torch.cat(outputs, 1) if outputs else None)

    def _parts(self, num_patches: int, slots: Float[Tensor, "n K D"]) -> list[slice]:
        """Patches that are decoded at once: all with gradients, otherwise so many that a processor's cache holds their
        hidden features."""
        if self.cached_vectors is None or torch.is_grad_enabled() or slots.device.type != "cpu":
            return [slice(None)]
        size = max(1, self.cached_vectors // (len(slots) * (self.top_k or slots.shape[1])))
        return [slice(start, start + size) for start in range(0, num_patches, size)]

    def _rendered(
        self,
        of_slots: Float[Tensor, "n K h"],
        of_positions: Float[Tensor, "N h"],
        chosen: Int[Tensor, "n k N"] | None,
        output: bool,
    ) -> Rendered:
        """Masks of the chosen slots, and the output, at some patches; what the first layer makes of slots and of
        positions is added."""
        hidden = of_slots[:, :, None] if chosen is None else _at_patches(of_slots, chosen)
        hidden = self._hidden(hidden + of_positions)
        weight, bias = self.last.weight, self.last.bias
        shares = F.linear(hidden, weight[-1:], bias[-1:]).squeeze(-1).softmax(1)
        if not output:
            return Rendered(shares, None)
        return Rendered(
            shares, F.linear(torch.einsum("nkp,nkpc->npc", shares, hidden), weight[:-1], bias[:-1])
        )

    def _hidden(self, x: Float[Tensor, "*n h"]) -> Float[Tensor, "*n i"]:
        """The hidden layers; without gradients each ReLU takes the place of its input."""
        in_place = not torch.is_grad_enabled()
        for layer in self.middle:
            x = F.relu(x, in_place) if isinstance(layer, nn.ReLU) else layer(x)
        return x

    def chosen(self, num_slots: int, seen: Seen) -> Int[Tensor, "n k N"] | None:
        """The slots to decode at each patch; None: all."""
        if self.top_k is None:
            return None
        if num_slots < self.top_k:
            raise UserError(
                f"This decoder decodes the {self.top_k} slots of the largest attention, got {num_slots} slots. "
                f"Use at least {self.top_k} slots, or a model with a smaller decoder.top_k."
            )
        if seen.attn is None or seen.attn.shape[-1] == 0:
            raise UserError(
                "This decoder chooses slots by their attention, and these slots come without any (predicted or edited "
                "slots do). Decode slots of observed frames, or set decoder.top_k to none."
            )
        return seen.attn.detach().topk(self.top_k, dim=1, sorted=False).indices


def _at_patches(values: Float[Tensor, "n K h"], chosen: Int[Tensor, "n k N"]) -> Float[Tensor, "n k N h"]:
    """Each chosen slot's vector."""
    which = torch.arange(len(values), device=values.device)[:, None, None]
    return values[which, chosen]


class CrossBlock(nn.Module):
    """Pre-norm block of cross-attention and perceptron, without self-attention.

    Args:
        context_size: width of what is attended to.
        scale: factor of the logits; None: the inverse root of a head's width.
    """

    def __init__(
        self, size: int, *, context_size: int, num_heads: int, mlp_size: int, scale: float | None = None
    ):
        super().__init__()
        self.norm_attention = layer_norm(size, TORCH_NORM_EPS)
        self.attention = MultiHeadAttention(
            size, qkv_size=size, num_heads=num_heads, context_size=context_size, scale=scale
        )
        self.norm_mlp = layer_norm(size, TORCH_NORM_EPS)
        self.mlp = mlp(size, [mlp_size], size)

    def forward(self, x: Float[Tensor, "n N E"], context: Float[Tensor, "n K D"]) -> Float[Tensor, "n N E"]:
        x = x + self.attention.attend(self.norm_attention(x), self.attention.project(context))
        return x + self.mlp(self.norm_mlp(x))


class MixerRenderer(Renderer):
    """Mix slots at each position, then decode the mixture once (VideoSAUR, section 3.2; Sajjadi et al. 2022).

    Args:
        grid: rows and columns of the patches.
        hidden: widths of the layers on the mixture, ReLU behind each, the last one too.
        output_size: channels of each patch.
        position_size: width of the position queries; None: `slot_size`.
        num_blocks: blocks in which the queries attend to slots.
        scale: factor of those blocks' logits; None: the inverse root of a head's width.
        use_positions: add position embeddings to the mixture, which needs `position_size` equal to `slot_size`; or
            put them beside it (`concat`).
    """

    def __init__(
        self,
        grid: tuple[int, int],
        slot_size: int,
        hidden: Sequence[int],
        output_size: int,
        *,
        position_size: int | None = None,
        num_blocks: int = 2,
        num_heads: int = 4,
        mlp_size: int | None = None,
        scale: float | None = None,
        use_positions: Literal["add", "concat", "none"] = "add",
    ):
        super().__init__()
        size = position_size or slot_size
        inner = max(size, slot_size)
        self.grid, self.use_positions = grid, use_positions
        self.positions = LearnedPositions(grid, size)
        self.norm_memory = layer_norm(slot_size, TORCH_NORM_EPS)
        self.blocks = nn.ModuleList(
            CrossBlock(
                size, context_size=slot_size, num_heads=num_heads, mlp_size=mlp_size or 4 * size, scale=scale
            )
            for _ in range(num_blocks)
        )
        self.norm_query, self.query = layer_norm(size, TORCH_NORM_EPS), dense(size, inner, bias=False)
        self.norm_key, self.key = layer_norm(slot_size, TORCH_NORM_EPS), dense(slot_size, inner, bias=False)
        mixed = slot_size + size if use_positions == "concat" else slot_size
        self.mlp = mlp(mixed, hidden, output_size)

    def masks(self, slots: Float[Tensor, "n K D"], positions: Float[Tensor, "N E"]) -> Float[Tensor, "n N K"]:
        """Each patch's shares of the slots."""
        queries, memory = positions.expand(len(slots), -1, -1), self.norm_memory(slots)
        for block in self.blocks:
            queries = block(queries, memory)
        queries, keys = self.query(self.norm_query(queries)), self.key(self.norm_key(slots))
        return (queries * queries.shape[-1] ** -0.5 @ keys.transpose(-1, -2)).softmax(-1)

    def forward(self, slots: Float[Tensor, "n K D"], seen: Seen, output: bool = True) -> Rendered:
        positions = self.positions(seen.grid)
        masks = self.masks(slots, positions)
        if not output:
            return Rendered(masks.transpose(1, 2), None)
        return Rendered(masks.transpose(1, 2), self.mlp(self._placed(masks @ slots, positions)))

    def _placed(
        self, mixed: Float[Tensor, "n N D"], positions: Float[Tensor, "N E"]
    ) -> Float[Tensor, "n N _"]:
        if self.use_positions == "concat":
            return torch.cat([mixed, positions.expand(len(mixed), -1, -1)], -1)
        return mixed + positions if self.use_positions == "add" else mixed


class AutoregressiveRenderer(Renderer):
    """A causal transformer predicts each patch's features from the slots and the true features of the patches before it
    (DINOSAUR, section 3.2, "Transformer"). Nothing is sampled: it needs the features in use, too.

    Its output is what the last block gives: there is no position embedding, no final norm and no output layer.

    Args:
        grid: rows and columns of the patches.
        size: width of the features.
        own_masks: masks are the last block's attention to the slots, averaged over heads, as on COCO and VOC; otherwise
            slot attention's, as on MOVi.
    """

    needs_features = True

    def __init__(
        self,
        grid: tuple[int, int],
        slot_size: int,
        size: int,
        *,
        num_layers: int,
        num_heads: int,
        mlp_size: int,
        own_masks: bool = True,
    ):
        super().__init__()
        self.grid, self.own_masks, self.needs_attn = grid, own_masks, not own_masks
        self.first = nn.Parameter(torch.randn(size) * size**-0.5)
        self.read_slots = nn.Sequential(dense(slot_size, size, bias=False), layer_norm(size, TORCH_NORM_EPS))
        self.read_features = nn.Sequential(dense(size, size, bias=False), layer_norm(size, TORCH_NORM_EPS))
        blocks = [
            CausalBlock(size, num_heads=num_heads, mlp_size=mlp_size, bias=True) for _ in range(num_layers)
        ]
        self.blocks, self.last = nn.ModuleList(blocks[:-1]), blocks[-1]

    def forward(self, slots: Float[Tensor, "n K D"], seen: Seen, output: bool = True) -> Rendered:
        """Raise UserError where masks are slot attention's and the slots come without it."""
        if not (output or self.own_masks):
            return Rendered(self._slot_masks(seen), None)
        memory, x = self.read_slots(slots), self._inputs(seen)
        for block in self.blocks:
            assert isinstance(block, CausalBlock)
            x = block(x, block.look_at(memory))
        context = self.last.look_at(memory)
        if not output:
            return Rendered(self.last.weights(x, context).mean(1).transpose(1, 2), None)
        x, weights = self.last.with_weights(x, context)
        return Rendered(weights.mean(1).transpose(1, 2) if self.own_masks else self._slot_masks(seen), x)

    def _inputs(self, seen: Seen) -> Float[Tensor, "n N C"]:
        """A learned start, and the features of all patches but the last."""
        assert seen.features is not None
        before = seen.features[:, :-1].detach()
        start = self.first.to(before.dtype).expand(len(before), 1, -1)
        return self.read_features(torch.cat([start, before], 1))

    def _slot_masks(self, seen: Seen) -> Float[Tensor, "n K N"]:
        if seen.attn is None or seen.attn.shape[-1] == 0:
            raise UserError(
                "The masks of this decoder are those of slot attention, and these slots come without any (predicted "
                "slots do). Decode slots of observed frames, or set decoder.masks to cross_attention."
            )
        return seen.attn

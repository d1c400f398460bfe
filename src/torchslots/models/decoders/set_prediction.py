"""Set prediction decoder: each slot predicts one object's properties, matched to the true ones at least cost
(Locatello et al. 2020, section 3.2)."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from torchslots.io.errors import UserError
from torchslots.models.decoders.base import Decoder, attention_masks
from torchslots.models.layers.blocks import mlp
from torchslots.models.types import Batch, Clip, Decoded


def pairwise_cost(
    predicted: Float[Tensor, "M K P"], true: Float[Tensor, "M n P"], delta: float = 1.0
) -> Float[Tensor, "M n K"]:
    """Huber loss of every true object and every prediction, averaged over properties."""
    shape = (*true.shape[:2], *predicted.shape[1:])
    left, right = predicted[:, None].to(true.dtype).expand(shape), true[:, :, None].expand(shape)
    return F.huber_loss(left, right, reduction="none", delta=delta).mean(-1)


def assign(cost: Float[Tensor, "M n K"]) -> Int[Tensor, "2 M p"]:
    """Rows and columns of the cheapest one-to-one assignment of each matrix, p = min(n, K) pairs by ascending row.

    Costs that are not finite count as zero: the training loop stops a run that diverged by its loss.
    """
    matrices = torch.nan_to_num(cost.detach().float(), nan=0.0, posinf=0.0, neginf=0.0).cpu().numpy()
    from scipy.optimize import linear_sum_assignment  # takes half a second, which prediction does without

    pairs = np.array([linear_sum_assignment(matrix) for matrix in matrices], dtype=np.int64)
    return torch.from_numpy(pairs.transpose(1, 0, 2)).to(cost.device)


def set_loss(predicted: Float[Tensor, "M K P"], true: Float[Tensor, "M n P"]) -> Float[Tensor, ""]:
    """Cost of the best assignment, summed over its pairs and averaged over the sets; no gradient through the choice."""
    cost = pairwise_cost(predicted, true)
    rows, columns = assign(cost)
    sets = torch.arange(len(cost), device=cost.device)[:, None]
    return cost[sets, rows, columns].sum(-1).mean()


class SetPredictionDecoder(Decoder):
    """Two-layer perceptron on every slot, all of its outputs in (0, 1).

    Masks are the attention of the last round, enlarged to the frame.

    Args:
        slot_size, hidden_size: widths of slots and of the hidden layer.
        num_properties: values that describe an object; the last is the probability that there is one.
        grid: height and width of the encoder's token map.
        resolution: height and width of the frames.
    """

    monitor = "ap_inf"
    labels = ("properties",)
    method = "predicts properties, no images"

    def __init__(
        self,
        slot_size: int,
        hidden_size: int,
        num_properties: int,
        *,
        grid: tuple[int, int],
        resolution: tuple[int, int],
    ):
        super().__init__()
        self.mlp = mlp(slot_size, [hidden_size], num_properties)
        self.num_properties, self.grid, self.resolution = num_properties, grid, resolution

    def forward(self, slots: Float[Tensor, "*b K D"]) -> Float[Tensor, "*b K P"]:
        return self.mlp(slots).sigmoid()

    def loss(self, clip: Clip, batch: Batch) -> dict[str, Tensor]:
        """Matched Huber loss of every frame's set.

        Raises:
            UserError: no `properties` [B, T, n, P] in the batch.
        """
        true = batch.get("properties")
        if true is None or true.ndim != 4 or true.shape[-1] != self.num_properties:
            found = "nothing" if true is None else list(true.shape)
            raise UserError(
                f"Set prediction needs `properties` [B, T, n, {self.num_properties}] in the batch, got {found}. "
                "Choose data that describe their objects (CLEVR), and add `properties` to data.keys."
            )
        predicted = self(clip.slots)
        return {"properties": set_loss(predicted.flatten(0, 1), true.flatten(0, 1))}

    def decode(self, clip: Clip, slot_recon: bool = False, recon: bool = True) -> Decoded:
        """Properties of every slot, and its attention as a mask; there are no images."""
        masks, logits = attention_masks(clip.attn, self.grid, self.resolution)
        return Decoded(recon={}, masks=masks, logits=logits, properties=self(clip.slots))

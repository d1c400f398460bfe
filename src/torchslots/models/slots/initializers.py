"""Initial slots: from the first frame's hint, learned, or sampled."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.io.errors import UserError
from torchslots.models.layers.blocks import mlp
from torchslots.models.layers.position import waves
from torchslots.models.slots.seeding import sample_noise
from torchslots.models.types import Conditioning, State


class FromBoxes(nn.Module):
    """Encode each first-frame box; one background slot, a box of zeros, comes first (SAVi, section 3.3).

    Absent objects have boxes of zeros too: their slots are copies of the background's.

    Args:
        centers: encode the boxes' centres (y, x) in place of their corners.
        frequencies: of sines and cosines of the coordinates beside them, see `waves`; 0: none, as in the paper.

    Raises:
        UserError: called without boxes.
    """

    def __init__(
        self, slot_size: int, *, hidden_size: int = 256, centers: bool = False, frequencies: int = 0
    ):
        super().__init__()
        self.centers, self.frequencies = centers, frequencies
        self.mlp = mlp((2 if centers else 4) * (1 + 2 * frequencies), [hidden_size], slot_size)

    def forward(self, hint: Conditioning) -> State:
        if hint.boxes is None:
            raise UserError(
                "This model starts from boxes in the first frame and got none. Give `boxes` [B, n, 4] as (ymin, xmin, "
                "ymax, xmax) in [0, 1] (on the command line: --boxes or --masks), or use an unconditional recipe."
            )
        boxes = F.pad(hint.boxes, (0, 0, 1, 0))
        if self.centers:
            boxes = (boxes[..., :2] + boxes[..., 2:]) / 2
        coded = waves(2 * boxes - 1, self.frequencies) if self.frequencies else boxes
        return State(self.mlp(coded), source=first_equal(boxes))

    def most_distinct(self, hint: Conditioning) -> int:
        """Upper bound of a batch's distinct slots: one for each box that is not empty and each background."""
        return 0 if hint.boxes is None else int(hint.boxes.any(-1).sum()) + hint.batch_size


def first_equal(hints: Float[Tensor, "B K C"]) -> Int[Tensor, "B K"]:
    """For each slot the lowest slot with the same hint."""
    return (hints[:, :, None] == hints[:, None]).all(-1).int().argmax(-1)


class FromMasks(nn.Module):
    """Encode each first-frame mask as a one-channel image (SAVi, section 3.3; the authors' recipe for masks).

    Args:
        encoder: maps [B, 1, H, W] to tokens [B, N, C]; their mean is taken.
        head: maps the mean to a slot.
        num_slots: masks 0 (background) to num_slots - 1; the background's is left empty.

    Raises:
        UserError: called without a segmentation.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, *, num_slots: int):
        super().__init__()
        self.encoder, self.head, self.num_slots = encoder, head, num_slots

    def forward(self, hint: Conditioning) -> State:
        if hint.segmentation is None:
            raise UserError(
                "This model starts from masks of the first frame and got none. Give `segmentations` (on the command "
                "line: --masks), or use an unconditional recipe."
            )
        num_slots = hint.num_slots or self.num_slots
        ids = torch.arange(num_slots, device=hint.segmentation.device)
        masks = (hint.segmentation[:, None] == ids[:, None, None]) & (ids[:, None, None] > 0)
        tokens = self.encoder(masks.flatten(0, 1)[:, None].float())
        slots = self.head(tokens.mean(-2)).unflatten(0, (-1, num_slots))
        own = torch.arange(num_slots, device=masks.device)
        return State(slots, source=own * masks.any((-1, -2)))

    def most_distinct(self, hint: Conditioning) -> int:
        """Upper bound of a batch's distinct slots: one for each id in its frame and each background."""
        frames = () if hint.segmentation is None else hint.segmentation
        return sum(len(frame.unique()) for frame in frames) + hint.batch_size


class Learned(nn.Module):
    """One learned vector for each slot, the same for every clip.

    Raises:
        UserError: called for another number of slots than was learned.
    """

    def __init__(self, num_slots: int, slot_size: int):
        super().__init__()
        self.slots = nn.Parameter(torch.randn(num_slots, slot_size))

    def forward(self, hint: Conditioning) -> State:
        if hint.num_slots not in (None, self.slots.shape[0]):
            raise UserError(
                f"This model has {self.slots.shape[0]} learned slots and cannot start with {hint.num_slots}. "
                "Use a recipe with Gaussian slots, or leave num_slots out."
            )
        return State(self.slots.expand(hint.batch_size, -1, -1))


class Gaussian(nn.Module):
    """Slots sampled from one normal distribution in every call (Locatello et al. 2020, section 2.1).

    Args:
        learned: learn the mean and the log standard deviation, shared by all slots; otherwise a standard normal
            distribution (SAVi's unconditional variant).
    """

    def __init__(self, num_slots: int, slot_size: int, *, learned: bool = True):
        super().__init__()
        self.num_slots = num_slots
        bound = (6 / (1 + slot_size)) ** 0.5
        start = [
            torch.empty(slot_size).uniform_(-bound, bound) if learned else torch.zeros(slot_size)
            for _ in "ms"
        ]
        if learned:
            self.mean, self.log_sigma = (nn.Parameter(value) for value in start)
        else:
            for name, value in zip(("mean", "log_sigma"), start):
                self.register_buffer(name, value, persistent=False)

    def forward(self, hint: Conditioning) -> State:
        shape = (hint.batch_size, hint.num_slots or self.num_slots, self.mean.shape[0])
        noise = sample_noise(hint, shape) if hint.noise is None else hint.noise
        return State(self.mean + self.log_sigma.exp() * noise)

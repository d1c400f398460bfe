"""Baselines without training."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from torchslots.data.transforms import mask_boxes
from torchslots.io.errors import UserError
from torchslots.metrics.segmentation import Numbering
from torchslots.models.types import Batch, Prediction, State


class BoxCopy(nn.Module):
    """The first frame's boxes, filled, as the segmentation of every frame; smaller boxes cover larger ones.

    Slot i + 1 is box i, slot 0 the background. The slots of the state are the boxes.
    """

    def predict(self, batch: Batch, state: State | None = None, **decoding: bool) -> Prediction:
        """Segment a slice as a model would; nothing is decoded, and `decoding` is ignored.

        Raises:
            UserError: the first slice has neither boxes nor segmentations.
        """
        video: Tensor = batch["video"]
        boxes = _first_boxes(batch) if state is None else state.slots
        ids = fill_boxes(boxes, video.shape[-2], video.shape[-1])[:, None].expand(-1, video.shape[1], -1, -1)
        masks = F.one_hot(ids.long(), boxes.shape[1] + 1).movedim(-1, 2).float()
        slots = F.pad(boxes, (0, 0, 1, 0))[:, None].expand(-1, video.shape[1], -1, -1)
        return Prediction(ids, masks, slots, masks.flatten(3), {}, None, State(boxes))


def _first_boxes(batch: Batch) -> Float[Tensor, "B n 4"]:
    if "boxes" in batch:
        return batch["boxes"][:, 0]
    if "segmentations" in batch:
        number = Numbering((0,))
        ids = number(batch["segmentations"][:, 0])
        return mask_boxes(ids, max(len(number) - 1, 1)).to(ids.device)
    raise UserError(
        "Copying the first frame's boxes needs `boxes` or `segmentations`, and the data have neither. Add one to "
        "data.keys, or leave the baseline out."
    )


def fill_boxes(boxes: Float[Tensor, "B n 4"], height: int, width: int) -> Int[Tensor, "B H W"]:
    """Ids of filled boxes, i + 1 for box i, 0 elsewhere; a pixel is in a box when its centre is.

    Args:
        boxes: (ymin, xmin, ymax, xmax) in [0, 1]; all zeros: no box.
    """
    y = (torch.arange(height, device=boxes.device) + 0.5).view(1, 1, -1, 1) / height
    x = (torch.arange(width, device=boxes.device) + 0.5).view(1, 1, 1, -1) / width
    top, left, bottom, right = boxes[..., None, None].unbind(2)
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    area = ((bottom - top) * (right - left)).expand_as(inside)
    smallest = area.masked_fill(~inside, torch.inf).min(1).indices + 1
    return torch.where(inside.any(1), smallest, 0).int()

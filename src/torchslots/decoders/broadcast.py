"""Spatial broadcast decoder: each slot paints the whole picture, masks choose who is seen (Watters et al. 2019)."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torchslots.errors import UserError
from torchslots.losses import sum_squared_error
from torchslots.nn.init import dense
from torchslots.shapes import Batch, Clip, Decoded

Features = Float[Tensor, "M K H W C"]
Masks = Float[Tensor, "M K H W 1"]
Fusion = Callable[[Features, Masks, nn.Linear], Float[Tensor, "M H W R"]]


def fuse_late(features: Features, masks: Masks, head: nn.Linear) -> Float[Tensor, "M H W R"]:
    """Each slot reads out its own picture; the masks blend the pictures (SAVi)."""
    return (masks * head(features)).sum(1)


def fuse_early(features: Features, masks: Masks, head: nn.Linear) -> Float[Tensor, "M H W R"]:
    """The masks blend features; one picture is read out (SAVi++, section 3.2)."""
    return head((masks * features).sum(1))


class Broadcast(nn.Module):
    """Decode slots into pictures and masks.

    Args:
        position: adds positions to slots tiled over its grid.
        backbone: convolutions from the grid to the full resolution.
        grid: height and width over which a slot is tiled.
        features: channels of the backbone's output.
        targets: name of each picture to its channels: `video`, `flow`, `depth`.
        fuse: `fuse_late` or `fuse_early`.
        chunk: frames decoded at once, to bound memory; None: all.
        recompute: keep no activations for the backward pass but compute them again, chunk by chunk.
    """

    def __init__(
        self,
        position: nn.Module,
        backbone: nn.Module,
        *,
        grid: tuple[int, int],
        features: int,
        targets: dict[str, int],
        fuse: Fusion = fuse_late,
        chunk: int | None = None,
        recompute: bool = False,
    ):
        super().__init__()
        self.position, self.backbone, self.grid = position, backbone, grid
        self.mask_head = dense(features, 1)
        self.heads = nn.ModuleDict({name: dense(features, channels) for name, channels in targets.items()})
        self.fuse, self.chunk, self.recompute = fuse, chunk, recompute

    def paint(self, slots: Float[Tensor, "M K D"]) -> Features:
        """Every slot's feature map."""
        tiled = slots.flatten(0, 1)[:, :, None, None].expand(-1, -1, *self.grid)
        maps = self.backbone(self.position(tiled).contiguous(memory_format=torch.channels_last))
        return maps.permute(0, 2, 3, 1).unflatten(0, slots.shape[:2])

    def _frames(self, slots: Float[Tensor, "M K D"], keep_slots: bool) -> dict[str, Tensor]:
        features = self.paint(slots)
        logits = self.mask_head(features)
        masks = logits.softmax(dim=1)
        drawn = {f"recon/{name}": self.fuse(features, masks, head) for name, head in self._named_heads()}
        if keep_slots:
            drawn |= {f"slots/{name}": head(features) for name, head in self._named_heads()}
        return {"logits": logits.squeeze(-1), "masks": masks.squeeze(-1), **drawn}

    def _named_heads(self) -> list[tuple[str, nn.Linear]]:
        return [(name, head) for name, head in self.heads.items() if isinstance(head, nn.Linear)]

    def _all_frames(self, slots: Float[Tensor, "M K D"], keep_slots: bool) -> dict[str, Tensor]:
        draw = partial(self._frames, keep_slots=keep_slots)
        if self.recompute and torch.is_grad_enabled():
            draw = partial(checkpoint, draw, use_reentrant=False)
        parts = [draw(part) for part in slots.split(self.chunk or len(slots))]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def decode(self, clip: Clip, slot_recon: bool = False) -> Decoded:
        """Pictures and masks of every frame; each slot's own pictures too with `slot_recon`."""
        drawn = self._all_frames(clip.slots.flatten(0, 1), slot_recon)
        lead = clip.slots.shape[:2]
        pictures = {name: value.unflatten(0, lead).movedim(-1, -3) for name, value in drawn.items() if "/" in name}
        return Decoded(
            recon={name: pictures[f"recon/{name}"] for name in self.heads},
            masks=drawn["masks"].unflatten(0, lead),
            logits=drawn["logits"].unflatten(0, lead),
            slot_recon={name: pictures[f"slots/{name}"] for name in self.heads} if slot_recon else None,
        )

    def loss(self, clip: Clip, batch: Batch) -> dict[str, Tensor]:
        """Squared error of each target, summed over a clip."""
        recon = self.decode(clip).recon
        for name, picture in recon.items():
            if name not in batch or batch[name].shape != picture.shape:
                found = list(batch[name].shape) if name in batch else "nothing"
                raise UserError(
                    f"The decoder's target `{name}` should be {list(picture.shape)} in the batch, got {found}. Choose "
                    "data that has it, add it to data.keys, or fit data.resolution to the model's."
                )
        return {f"recon_{name}": sum_squared_error(picture, batch[name]) for name, picture in recon.items()}


def lowest_argmax(logits: Float[Tensor, "*b K H W"], tolerance: float = 1e-5) -> Tensor:
    """Index of the largest score over K; among equals, the lowest.

    Slots of absent objects are copies of the background slot, so ties are common; `tolerance` (relative to the largest
    score) absorbs the rounding between copies.
    """
    best = logits.amax(-3, keepdim=True)
    ties = logits >= best - tolerance * (1 + best.abs())
    order = torch.arange(logits.shape[-3], 0, -1, device=logits.device, dtype=torch.int32)
    return (ties * order[:, None, None]).argmax(-3)

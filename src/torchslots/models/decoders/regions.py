"""Region decoder: each slot is one region of the frame with a smooth appearance."""

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchslots.models.decoders.base import Decoder
from torchslots.models.decoders.broadcast import Packing, pack, target_errors
from torchslots.models.layers.conv import over_constant
from torchslots.models.layers.position import coordinate_grid
from torchslots.models.losses import sum_squared_error
from torchslots.models.types import Batch, Clip, Decoded

_LEAST_AREA = 1e-4
"""Added to a mask's share of the frame, which bounds the root's gradient."""
NUM_TERMS = 6
"""Terms of a polynomial of second degree in y and x."""


def quadratic_terms(height: int, width: int) -> Float[Tensor, "6 H W"]:
    """1, y, x, y^2, x^2 and y x at each pixel, with y and x from -1 to 1."""
    y, x = coordinate_grid(height, width).unbind(-1)
    return torch.stack([torch.ones_like(y), y, x, y * y, x * x, y * x])


def shared_areas(masks: Float[Tensor, "B T K H W"]) -> Float[Tensor, ""]:
    """Sum over slots and frames of the square root of a mask's share of the frame, averaged over clips.

    The root is concave: an object held by one slot costs less than one that several slots share.
    """
    kind = torch.promote_types(masks.dtype, torch.float32)  # bfloat16 has three digits
    return (masks.mean((-2, -1), dtype=kind) + _LEAST_AREA).sqrt().sum() / masks.shape[0]


class Regions(NamedTuple):
    """Decoded distinct slots: mask scores, and the coefficients of each slot's images."""

    packing: Packing
    logits: Float[Tensor, "P T H W"]
    coefficients: Float[Tensor, "P T 6 R"]


class RegionDecoder(Decoder):
    """Decode slots into masks by position, and into images that vary little over the frame.

    A slot's image is a polynomial of second degree in the pixel's coordinates, which suffices for a ground with its
    shading or an object of one colour and cannot draw two objects. So the masks alone decide which slot explains a
    pixel: slots separate in a small part of the steps that a spatial broadcast decoder needs, but fine texture is lost.

    Args:
        position: adds positions to slots tiled over its grid.
        backbone: a network from the grid to one channel of the full resolution, the masks' scores.
        appearance: maps slots to 6 coefficients for each channel of the targets.
        grid: height and width over which a slot is tiled.
        resolution: height and width of the frames.
        targets: name of each image to its channels: `video`, `flow`, `depth`.
        error: loss of an image and its target.
        weights: factor of each target's error in the loss, by its name; missing: 1.
        sparsity: factor of `shared_areas` in the loss; 0: it is left out.
        sparsity_start: finished updates before `sparsity` counts. From the first step on it would let one slot take
            the whole frame; slots that have found objects keep them.

    Raises:
        UserError: by `loss`, a target that the batch lacks or has in another shape.
    """

    needs_attn = False
    terms: Tensor

    def __init__(
        self,
        position: nn.Module,
        backbone: nn.Module,
        appearance: nn.Module,
        *,
        grid: tuple[int, int],
        resolution: tuple[int, int],
        targets: dict[str, int],
        error: Callable[[Tensor, Tensor], Tensor] = sum_squared_error,
        weights: Mapping[str, float] | None = None,
        sparsity: float = 0.0,
        sparsity_start: int = 0,
    ):
        super().__init__()
        self.position, self.backbone, self.appearance, self.grid = position, backbone, appearance, grid
        self.targets, self._channels, self.error = tuple(targets), list(targets.values()), error
        self.register_buffer("terms", quadratic_terms(*resolution), persistent=False)
        self._weights = dict.fromkeys(targets, 1.0) | dict(weights or {})
        self.sparsity, self.sparsity_start = sparsity, sparsity_start

    def _regions(self, clip: Clip, size: int | None = None) -> Regions:
        """Decode every distinct slot of every frame.

        Args:
            size: as in `pack`.
        """
        num_clips, num_frames, num_slots = clip.slots.shape[:3]
        packing = pack(clip.state.source, (num_clips, num_slots), clip.slots.device, size)
        slots = clip.slots.transpose(1, 2)[packing.clip, packing.slot].flatten(0, 1)
        places = self.position(slots.new_zeros(1, slots.shape[1], *self.grid))
        logits = over_constant(self.backbone, slots, places)[:, 0]
        with torch.autocast(slots.device.type, enabled=False):
            coefficients = self.appearance(slots.to(self.terms.dtype)).unflatten(-1, (NUM_TERMS, -1))
        split = partial(torch.unflatten, dim=0, sizes=(-1, num_frames))
        return Regions(packing, split(logits), split(coefficients))

    def _blend(
        self, masks: Float[Tensor, "B T K H W"], coefficients: Float[Tensor, "B T K 6 R"]
    ) -> Float[Tensor, "B T R H W"]:
        """Images of a clip. No image of a single slot is made: coefficients are blended, then the terms summed."""
        with torch.autocast(masks.device.type, enabled=False):
            # Single precision: bfloat16 would round colours by as much as what separates dark objects from the ground.
            shares = masks.flatten(-2).to(coefficients.dtype)
            blended = coefficients.flatten(-2).transpose(-1, -2) @ shares
        terms = zip(blended.unflatten(2, coefficients.shape[-2:]).unbind(2), self.terms.flatten(1))
        return reduce(torch.add, (image * term for image, term in terms)).unflatten(-1, masks.shape[-2:])

    def _split(self, images: Float[Tensor, "*b R H W"]) -> dict[str, Float[Tensor, "*b C H W"]]:
        return dict(zip(self.targets, images.split(self._channels, dim=-3)))

    def decode(self, clip: Clip, slot_recon: bool = False, recon: bool = True) -> Decoded:
        """Masks of every frame, images unless `recon` is False, and each slot's own images with `slot_recon`."""
        packing, logits, coefficients = self._regions(clip)
        logits, coefficients = (values[packing.place].transpose(1, 2) for values in (logits, coefficients))
        masks = logits.softmax(2)
        own = torch.einsum("btkmr,mhw->btkrhw", coefficients, self.terms) if slot_recon else None
        return Decoded(
            recon=self._split(self._blend(masks, coefficients)) if recon else {},
            masks=masks,
            logits=logits,
            slot_recon=None if own is None else self._split(own),
        )

    def loss(self, clip: Clip, batch: Batch) -> dict[str, Tensor]:
        """Error of each target, by default squared and summed over a clip, times its weight.

        `batch["num_decoded"]` is the `size` of `pack`; missing: None. `batch["step"]` is the number of finished
        updates; missing: training is over.
        """
        packing, logits, coefficients = self._regions(clip, batch.get("num_decoded"))
        scores = logits + packing.copies.log()[:, None, None, None].to(logits.dtype)
        masks = packing.spread(scores, -torch.inf).softmax(2)
        recon = self._split(self._blend(masks, packing.spread(coefficients, 0.0)))
        errors = target_errors(recon, batch, self.error, self._weights)
        weight = self.sparsity if batch.get("step", self.sparsity_start) >= self.sparsity_start else 0.0
        return errors | ({"areas": weight * shared_areas(masks)} if self.sparsity else {})

"""Spatial broadcast decoder: each slot becomes a whole image, masks choose among them (Watters et al. 2019)."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from torchslots.io.errors import UserError
from torchslots.models.decoders.base import Decoder
from torchslots.models.layers.conv import over_constant
from torchslots.models.layers.init import dense
from torchslots.models.layers.reference_frames import RelativePosition
from torchslots.models.losses import sum_squared_error
from torchslots.models.types import Batch, Clip, Decoded, Pose


class Packing(NamedTuple):
    """The P distinct (clip, slot) pairs of a batch: equal slots are decoded once and weighted by their number.

    Padding pairs of weight 0 may follow, to reach a size known beforehand.
    """

    clip: Int[Tensor, "P"]
    slot: Int[Tensor, "P"]
    copies: Float[Tensor, "P"]
    """How many slots share each pair's images; 0 for padding."""
    place: Int[Tensor, "B K"]
    """Index of each slot's pair."""

    def spread(self, values: Float[Tensor, "P T *n"], missing: float) -> Float[Tensor, "B T K *n"]:
        """The pairs' values at their slots, and `missing` at the copies, which count with their pair."""
        clips, slots = self.place.shape
        whole = values.new_full((clips, values.shape[1], slots, *values.shape[2:]), missing)
        frames = torch.arange(values.shape[1], device=values.device)
        return whole.index_put((self.clip[:, None], frames, self.slot[:, None]), values)


def pack(
    source: Int[Tensor, "B K"] | None, shape: tuple[int, int], device: torch.device, size: int | None = None
) -> Packing:
    """Which pairs to decode; all of them where `source` is None.

    Args:
        size: pairs to decode, at least as many as are distinct, so that no shape depends on a tensor's values (no wait
            for the GPU, no recompilation); None: as many as are distinct.
    """
    num_slots = shape[1]
    each = torch.arange(shape[0] * num_slots, device=device)
    ones = torch.ones(len(each), device=device)
    if source is None:
        clip, slot = (torch.arange(size, device=device) for size in shape)
        return Packing(
            clip[:, None].expand(shape).flatten(), slot.expand(shape).flatten(), ones, each.view(shape)
        )
    first = source + num_slots * torch.arange(shape[0], device=device)[:, None]
    is_copy = first.flatten() != each
    if size is None:
        pairs = is_copy.logical_not().nonzero().squeeze(1)
    else:
        pairs = is_copy.to(torch.uint8).argsort(stable=True)[:size]
    counts = torch.zeros_like(ones).index_add(0, first.flatten(), ones)
    place = torch.zeros_like(each).scatter(0, pairs, each[: len(pairs)])
    return Packing(pairs // num_slots, pairs % num_slots, counts[pairs], place[first])


def padded_size(distinct: int, pairs: int, sizes: int = 8) -> int:
    """The least of `sizes` evenly spaced sizes up to `pairs` that is at least `distinct`."""
    return min(pairs, math.ceil(distinct * sizes / pairs) * math.ceil(pairs / sizes))


class SlotImages(NamedTuple):
    """Decoded distinct slots: mask scores, and the channels of all images side by side."""

    packing: Packing
    logits: Float[Tensor, "P T H W"]
    images: Float[Tensor, "P T H W R"]


class BroadcastDecoder(Decoder):
    """Decode slots into images and masks.

    Readouts are linear and masks sum to one, so reading out each slot and blending the images (SAVi, late fusion)
    equals blending features and reading out once (SAVi++, early fusion). The former is computed.

    Args:
        position: adds positions to slots tiled over its grid; where slots have poses, relative to them.
        backbone: convolutions from the grid to the full resolution.
        grid: height and width over which a slot is tiled.
        features: channels of the backbone's output.
        targets: name of each image to its channels: `video`, `flow`, `depth`.
        head: builds a readout from the widths of features and image: a linear map by default, or a convolution
            of odd width that keeps the size.
        error: loss of an image and its target.
        to_native: maps a target to the range of the readouts and of `error`; None: as it is.
        from_native: its inverse, affine so that it commutes with blending.
        chunk: images decoded at once, to bound memory; None: all.
        recompute: compute the activations again in the backward pass, chunk by chunk, to save memory.
        weights: factor of each target's error in the loss, by its name; missing: 1.

    Raises:
        UserError: by `loss`, a target that the batch lacks or has in another shape.
    """

    needs_attn = False

    def __init__(
        self,
        position: nn.Module,
        backbone: nn.Module,
        *,
        grid: tuple[int, int],
        features: int,
        targets: dict[str, int],
        head: Callable[[int, int], nn.Linear | nn.Conv2d] = dense,
        error: Callable[[Tensor, Tensor], Tensor] = sum_squared_error,
        to_native: Callable[[Tensor], Tensor] | None = None,
        from_native: Callable[[Tensor], Tensor] | None = None,
        chunk: int | None = None,
        recompute: bool = False,
        weights: Mapping[str, float] | None = None,
    ):
        super().__init__()
        self.position, self.backbone, self.grid = position, backbone, grid
        self.mask_head = head(features, 1)
        self.heads = nn.ModuleDict({name: head(features, channels) for name, channels in targets.items()})
        self.error = error
        self.to_native, self.from_native = to_native or _as_it_is, from_native or _as_it_is
        self.targets, self._channels = tuple(targets), list(targets.values())
        self.chunk, self.recompute = chunk, recompute
        self._weights = dict.fromkeys(targets, 1.0) | dict(weights or {})

    def _read_out(
        self, slots: Float[Tensor, "n D"], pose: Pose | None, heads: Sequence[nn.Module]
    ) -> Float[Tensor, "n H W C"]:
        """Decode each slot and apply all heads in one product, the mask's first."""
        maps = self._features(slots, pose)
        weight, bias = (torch.cat([getattr(head, part) for head in heads]) for part in ("weight", "bias"))
        if weight.ndim == 2:
            return F.linear(maps.permute(0, 2, 3, 1), weight, bias)
        return F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2).permute(0, 2, 3, 1)

    def _features(self, slots: Float[Tensor, "n D"], pose: Pose | None) -> Float[Tensor, "n C H W"]:
        """The backbone's output; without poses, or with poses that only move, slots differ by a constant."""
        if pose is None:
            positions = self.position(slots.new_zeros(1, slots.shape[1], *self.grid))
            return over_constant(self.backbone, slots, positions)
        if isinstance(self.position, RelativePosition) and pose.only_moves():
            return over_constant(self.backbone, *self.position.taken_apart(slots, pose.position))
        tiled = slots[:, :, None, None].expand(-1, -1, *self.grid)
        return self.backbone(self.position(tiled, pose).contiguous(memory_format=torch.channels_last))

    def decode_slots(self, clip: Clip, images: bool = True, size: int | None = None) -> SlotImages:
        """Run the backbone on every distinct slot of every frame; without `images`, read out masks alone.

        Args:
            size: as in `pack`.
        """
        num_clips, num_frames, num_slots = clip.slots.shape[:3]
        packing = pack(clip.state.source, (num_clips, num_slots), clip.slots.device, size)

        def packed(values: Tensor) -> Tensor:
            return values.transpose(1, 2)[packing.clip, packing.slot].flatten(0, 1)

        distinct, pose = packed(clip.slots), None if clip.pose is None else clip.pose.map(packed)
        heads = [self.mask_head, *(self.heads.values() if images else ())]
        read_out = partial(self._read_out, heads=heads)
        if self.recompute and torch.is_grad_enabled():
            read_out = partial(checkpoint, read_out, use_reentrant=False)
        if self.chunk is None:
            found = read_out(distinct, pose)
        else:
            starts = range(0, max(len(distinct), 1), self.chunk)
            parts = [read_out(distinct[i : i + self.chunk], _part(pose, i, self.chunk)) for i in starts]
            found = torch.cat(parts)
        found = found.unflatten(0, (-1, num_frames))
        return SlotImages(packing, found[..., 0], found[..., 1:])

    def _shares(self, decoded: SlotImages) -> Float[Tensor, "P T H W"]:
        """Softmax over slots: the share of each pixel of every distinct slot together with its copies."""
        packing = decoded.packing
        weighted = decoded.logits + packing.copies.log()[:, None, None, None].to(decoded.logits.dtype)
        return packing.spread(weighted, -torch.inf).softmax(2)[packing.clip, :, packing.slot]

    def _blend(self, decoded: SlotImages, shares: Float[Tensor, "P T H W"]) -> Float[Tensor, "B T H W R"]:
        """Each clip's images: those of its slots, weighted by their shares."""
        weighted = shares[..., None] * decoded.images
        blended = weighted.new_zeros((len(decoded.packing.place), *weighted.shape[1:]))
        return blended.index_add(0, decoded.packing.clip, weighted)

    def _split(
        self, images: Float[Tensor, "*b H W R"], change: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Float[Tensor, "*b C H W"]]:
        parts = images.split(self._channels, dim=-1)
        change = change or _as_it_is
        return {name: change(part.movedim(-1, -3)) for name, part in zip(self.targets, parts)}

    def decode(self, clip: Clip, slot_recon: bool = False, recon: bool = True) -> Decoded:
        """Masks of every frame, images unless `recon` is False, and each slot's own images with `slot_recon`."""
        decoded = self.decode_slots(clip, images=recon or slot_recon)
        shares = self._shares(decoded)
        packing = decoded.packing
        split = partial(self._split, change=self.from_native)

        def spread(values: Float[Tensor, "P T *n"]) -> Float[Tensor, "B T K *n"]:
            """Each slot's value, from its pair."""
            return values[packing.place].transpose(1, 2)

        return Decoded(
            recon=split(self._blend(decoded, shares)) if recon else {},
            masks=spread(shares / packing.copies.clamp(min=1)[:, None, None, None]),
            logits=spread(decoded.logits),
            slot_recon=split(spread(decoded.images)) if slot_recon else None,
        )

    def loss(self, clip: Clip, batch: Batch) -> dict[str, Tensor]:
        """Error of each target; by default squared and summed over a clip.

        `batch["num_decoded"]` is the `size` of `pack`; missing: None.
        """
        decoded = self.decode_slots(clip, size=batch.get("num_decoded"))
        recon = self._split(self._blend(decoded, self._shares(decoded)))
        return target_errors(recon, batch, self.error, self._weights, self.to_native)


def target_errors(
    recon: Mapping[str, Tensor],
    batch: Batch,
    error: Callable[[Tensor, Tensor], Tensor],
    weights: Mapping[str, float],
    to_native: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The weighted error of each decoded image, named `recon_` and its target.

    Args:
        to_native: maps a target to the range of the images; None: as it is.

    Raises:
        UserError: a target that the batch lacks or has in another shape.
    """
    for name, image in recon.items():
        if name not in batch or batch[name].shape != image.shape:
            found = list(batch[name].shape) if name in batch else "nothing"
            raise UserError(
                f"The decoder's target `{name}` should be {list(image.shape)} in the batch, got {found}. Choose "
                "data that has it, add it to data.keys, or fit data.resolution to the model's."
            )
    change = to_native or _as_it_is
    return {
        f"recon_{name}": weights[name] * error(image, change(batch[name])) for name, image in recon.items()
    }


def _part(pose: Pose | None, start: int, size: int) -> Pose | None:
    return None if pose is None else pose.map(lambda values: values[start : start + size])


def _as_it_is(image: Tensor) -> Tensor:
    return image


def segmentation_from_logits(logits: Float[Tensor, "*b K H W"]) -> Int[Tensor, "*b H W"]:
    """Index of the largest score over K; among equals, the lowest, on every device.

    Slots of absent objects are copies of the background slot, so exact ties are common.
    """
    best = logits.amax(-3, keepdim=True)
    order = torch.arange(logits.shape[-3], 0, -1, device=logits.device, dtype=torch.int32)
    return ((logits == best) * order[:, None, None]).argmax(-3)

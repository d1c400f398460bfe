"""Spatial broadcast decoder: each slot paints the whole picture, masks choose who is seen (Watters et al. 2019)."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
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
    """The P distinct (clip, slot) pairs of a batch; copies of a slot are painted once and count as many times.

    Pairs may be followed by others that fill a size known beforehand; they count nothing.
    """

    clip: Int[Tensor, "P"]
    slot: Int[Tensor, "P"]
    copies: Float[Tensor, "P"]
    """How many slots share each pair's picture; 0: it only fills the size."""
    place: Int[Tensor, "B K"]
    """Which pair paints each slot."""


def pack(
    source: Int[Tensor, "B K"] | None, shape: tuple[int, int], device: torch.device, size: int | None = None
) -> Packing:
    """Which pairs to paint; all of them where `source` is None.

    Args:
        size: pairs to paint, at least as many as are distinct, so that no shape depends on what is in a tensor (a GPU
            need not be waited for, and compiled code fits every batch); None: as many as are distinct.
    """
    num_slots = shape[1]
    each = torch.arange(shape[0] * num_slots, device=device)
    if source is None:
        return Packing(
            each // num_slots, each % num_slots, torch.ones(len(each), device=device), each.view(shape)
        )
    first = source + num_slots * torch.arange(shape[0], device=device)[:, None]
    is_copy = first.flatten() != each
    pairs = is_copy.logical_not().nonzero().squeeze(1) if size is None else _copies_last(is_copy, size)
    counts = torch.zeros(len(each), device=device).index_add(
        0, first.flatten(), torch.ones(len(each), device=device)
    )
    place = torch.zeros_like(each).scatter(0, pairs, each[: len(pairs)])
    return Packing(pairs // num_slots, pairs % num_slots, counts[pairs], place[first])


def _copies_last(is_copy: Bool[Tensor, "n"], size: int) -> Int[Tensor, "P"]:
    return is_copy.to(torch.uint8).argsort(stable=True)[:size]


def padded_size(distinct: int, pairs: int, sizes: int = 8) -> int:
    """The least of `sizes` evenly spaced sizes up to `pairs` that holds so many distinct ones."""
    return min(pairs, math.ceil(distinct * sizes / pairs) * math.ceil(pairs / sizes))


class Painted(NamedTuple):
    """What the distinct slots painted: mask scores, and the pictures' channels side by side."""

    packing: Packing
    logits: Float[Tensor, "P T H W"]
    pictures: Float[Tensor, "P T H W R"]


class BroadcastDecoder(Decoder):
    """Decode slots into pictures and masks.

    Readouts are linear and masks sum to one, so reading out each slot and blending the pictures (SAVi, late fusion) and
    blending features and reading out once (SAVi++, early fusion) are the same function; the former is what runs.

    Args:
        position: adds positions to slots tiled over its grid; where slots have frames of reference, relative to them.
        backbone: convolutions from the grid to the full resolution.
        grid: height and width over which a slot is tiled.
        features: channels of the backbone's output.
        targets: name of each picture to its channels: `video`, `flow`, `depth`.
        head: builds a readout from the widths of features and picture: a linear map by default, or a convolution
            of odd width that keeps the size.
        error: loss of a picture and its target.
        to_native: maps a target to the range in which the readouts draw it and `error` judges it; None: as it is.
        from_native: its inverse, affine so that it commutes with blending.
        chunk: pictures painted at once, to bound memory; None: all.
        recompute: keep no activations for the backward pass but compute them again, chunk by chunk.
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
    ):
        super().__init__()
        self.position, self.backbone, self.grid = position, backbone, grid
        self.mask_head = head(features, 1)
        self.heads = nn.ModuleDict({name: head(features, channels) for name, channels in targets.items()})
        self.error = error
        self.to_native, self.from_native = to_native or _as_it_is, from_native or _as_it_is
        self.targets, self._channels = tuple(targets), list(targets.values())
        self.chunk, self.recompute = chunk, recompute

    def _picture(
        self, slots: Float[Tensor, "n D"], pose: Pose | None, heads: Sequence[nn.Module]
    ) -> Float[Tensor, "n H W C"]:
        """What the heads read out of each slot, mask score first: all in one product."""
        maps = self._alike(slots) if pose is None else self._apart(slots, pose)
        weight, bias = (torch.cat([getattr(head, part) for head in heads]) for part in ("weight", "bias"))
        if weight.ndim == 2:
            return F.linear(maps.permute(0, 2, 3, 1), weight, bias)
        return F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2).permute(0, 2, 3, 1)

    def _alike(self, slots: Float[Tensor, "n D"]) -> Float[Tensor, "n C H W"]:
        """Features of slots that all lie over the same positions."""
        positions = self.position(slots.new_zeros(1, slots.shape[1], *self.grid))
        return over_constant(self.backbone, slots, positions)

    def _apart(self, slots: Float[Tensor, "n D"], pose: Pose) -> Float[Tensor, "n C H W"]:
        """Features of slots that each see positions in their own frame; frames that only move share all but a
        constant."""
        if isinstance(self.position, RelativePosition) and pose.only_moves():
            return over_constant(self.backbone, *self.position.taken_apart(slots, pose.position))
        tiled = slots[:, :, None, None].expand(-1, -1, *self.grid)
        return self.backbone(self.position(tiled, pose).contiguous(memory_format=torch.channels_last))

    def paint(self, clip: Clip, pictures: bool = True, size: int | None = None) -> Painted:
        """Run the backbone on every distinct slot of every frame; without `pictures`, read out masks alone.

        Args:
            size: as in `pack`.
        """
        num_clips, num_frames, num_slots = clip.slots.shape[:3]
        packing = pack(clip.state.source, (num_clips, num_slots), clip.slots.device, size)

        def packed(values: Tensor) -> Tensor:
            return values.transpose(1, 2)[packing.clip, packing.slot].flatten(0, 1)

        distinct, pose = packed(clip.slots), None if clip.pose is None else clip.pose.map(packed)
        heads = [self.mask_head, *(self.heads.values() if pictures else ())]
        draw = partial(self._picture, heads=heads)
        if self.recompute and torch.is_grad_enabled():
            draw = partial(checkpoint, draw, use_reentrant=False)
        chunk = self.chunk or max(len(distinct), 1)
        starts = range(0, max(len(distinct), 1), chunk)
        drawn = torch.cat([draw(distinct[i : i + chunk], _part(pose, i, chunk)) for i in starts])
        drawn = drawn.unflatten(0, (-1, num_frames))
        return Painted(packing, drawn[..., 0], drawn[..., 1:])

    def _shares(self, painted: Painted) -> Float[Tensor, "P T H W"]:
        """How much of each pixel every distinct slot and its copies hold: a softmax over slots, counted copies."""
        packing = painted.packing
        where = (packing.clip, packing.slot)
        weighted = painted.logits + packing.copies.log()[:, None, None, None].to(painted.logits.dtype)
        whole = painted.logits.new_full((*packing.place.shape, *painted.logits.shape[1:]), -torch.inf)
        return whole.index_put(where, weighted).softmax(1)[where]

    def _blend(self, painted: Painted, shares: Float[Tensor, "P T H W"]) -> Float[Tensor, "B T H W R"]:
        """Each clip's pictures, the slots' weighted by their shares."""
        weighted = shares[..., None] * painted.pictures
        blended = weighted.new_zeros((len(painted.packing.place), *weighted.shape[1:]))
        return blended.index_add(0, painted.packing.clip, weighted)

    def _split(
        self, pictures: Float[Tensor, "*b H W R"], change: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Float[Tensor, "*b C H W"]]:
        parts = pictures.split(self._channels, dim=-1)
        change = change or _as_it_is
        return {name: change(part.movedim(-1, -3)) for name, part in zip(self.targets, parts)}

    def decode(self, clip: Clip, slot_recon: bool = False, recon: bool = True) -> Decoded:
        """Masks of every frame, pictures unless `recon` is False, and each slot's own pictures with `slot_recon`."""
        painted = self.paint(clip, pictures=recon or slot_recon)
        shares = self._shares(painted)
        packing = painted.packing
        spread = partial(_to_slots, packing=packing)
        split = partial(self._split, change=self.from_native)
        return Decoded(
            recon=split(self._blend(painted, shares)) if recon else {},
            masks=spread(shares / packing.copies.clamp(min=1)[:, None, None, None]),
            logits=spread(painted.logits),
            slot_recon=split(spread(painted.pictures)) if slot_recon else None,
        )

    def loss(self, clip: Clip, batch: Batch) -> dict[str, Tensor]:
        """Error of each target; by default squared and summed over a clip.

        `batch["num_painted"]`, where given, is the `size` of `pack`.
        """
        painted = self.paint(clip, size=batch.get("num_painted"))
        recon = self._split(self._blend(painted, self._shares(painted)))
        for name, picture in recon.items():
            if name not in batch or batch[name].shape != picture.shape:
                found = list(batch[name].shape) if name in batch else "nothing"
                raise UserError(
                    f"The decoder's target `{name}` should be {list(picture.shape)} in the batch, got {found}. Choose "
                    "data that has it, add it to data.keys, or fit data.resolution to the model's."
                )
        return {
            f"recon_{name}": self.error(picture, self.to_native(batch[name]))
            for name, picture in recon.items()
        }


def _part(pose: Pose | None, start: int, size: int) -> Pose | None:
    return None if pose is None else pose.map(lambda values: values[start : start + size])


def _as_it_is(picture: Tensor) -> Tensor:
    return picture


def _to_slots(values: Float[Tensor, "P T *n"], packing: Packing) -> Float[Tensor, "B T K *n"]:
    """Give every slot the value of the slot it shares."""
    return values[packing.place].transpose(1, 2)


def lowest_argmax(logits: Float[Tensor, "*b K H W"]) -> Int[Tensor, "*b H W"]:
    """Index of the largest score over K; among equals, the lowest, on every device.

    Slots of absent objects are copies of the background slot, so exact ties are common.
    """
    best = logits.amax(-3, keepdim=True)
    order = torch.arange(logits.shape[-3], 0, -1, device=logits.device, dtype=torch.int32)
    return ((logits == best) * order[:, None, None]).argmax(-3)

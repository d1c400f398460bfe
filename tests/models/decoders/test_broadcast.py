"""The broadcast decoder: painting each distinct slot once is the same as painting all."""

import pytest
import torch

from tiny_models import batch, tiny
from torchslots.io.errors import UserError
from torchslots.models.decoders.broadcast import pack, padded_size, segmentation_from_logits
from torchslots.models.slots.initializers import first_equal
from torchslots.models.types import Clip, State


def clip_with_copies() -> tuple[Clip, torch.Tensor]:
    """Slots 0 and 3 are equal, and in the second clip slot 1 too."""
    source = torch.tensor([[0, 1, 2, 0, 4], [0, 0, 2, 0, 4]])
    slots = torch.randn(2, 3, 5, 12, generator=torch.Generator().manual_seed(5))
    slots = slots.gather(2, source[:, None, :, None].expand(-1, 3, -1, 12)).requires_grad_()
    return Clip(slots, slots, torch.zeros(2, 3, 5, 1), None, State(slots[:, -1], source=source)), slots


def all_distinct(clip: Clip) -> Clip:
    return clip._replace(state=clip.state._replace(source=None))


def test_painting_distinct_slots_once_is_painting_all() -> None:
    decoder, (clip, _) = tiny().decoder, clip_with_copies()
    once, all_of_them = (
        decoder.decode(clip, slot_recon=True),
        decoder.decode(all_distinct(clip), slot_recon=True),
    )
    for one, other in zip(once, all_of_them):
        if one is None:
            continue
        pairs = [(one, other)] if isinstance(one, torch.Tensor) else [(one[key], other[key]) for key in one]
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)
    assert (
        len(decoder.decode_slots(clip).logits) == 7
        and len(decoder.decode_slots(all_distinct(clip)).logits) == 10
    )


def test_gradients_of_weights_are_the_same() -> None:
    decoder, (clip, _), target = tiny().decoder, clip_with_copies(), {"flow": torch.rand(2, 3, 3, 16, 24)}
    gradients = []
    for given in (clip, all_distinct(clip)):
        decoder.zero_grad()
        decoder.loss(given, target)["recon_flow"].backward()
        gradients.append([p.grad.clone() for p in decoder.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-3) for a, b in zip(*gradients))


def test_copies_hold_equal_shares() -> None:
    decoder, (clip, _) = tiny().decoder, clip_with_copies()
    masks = decoder.decode(clip).masks
    assert torch.equal(masks[:, :, 0], masks[:, :, 3]) and torch.equal(masks[1, :, 0], masks[1, :, 1])
    assert torch.allclose(masks.sum(2), torch.ones(2, 3, 16, 24), atol=1e-5)


def test_packing() -> None:
    source = torch.tensor([[0, 1, 0], [0, 0, 0]])
    packing = pack(source, (2, 3), torch.device("cpu"))
    assert packing.clip.tolist() == [0, 0, 1] and packing.slot.tolist() == [0, 1, 0]
    assert packing.copies.tolist() == [2, 1, 3] and packing.place.tolist() == [[0, 1, 0], [2, 2, 2]]
    assert len(pack(None, (2, 3), torch.device("cpu")).clip) == 6
    padded = pack(source, (2, 3), torch.device("cpu"), size=5)
    assert padded.copies.tolist() == [2, 1, 3, 0, 0] and torch.equal(padded.place, packing.place)


def test_sizes_are_few_and_hold_what_they_must() -> None:
    sizes = {padded_size(distinct, 22) for distinct in range(1, 23)}
    assert len(sizes) <= 8 and max(sizes) == 22
    assert all(
        padded_size(distinct, pairs) >= distinct for pairs in range(1, 40) for distinct in range(1, pairs + 1)
    )


@pytest.mark.parametrize("size", [7, 8, 10])
def test_pairs_that_fill_a_size_change_nothing(size: int) -> None:
    decoder, (clip, slots) = tiny().decoder, clip_with_copies()
    target = {"flow": torch.rand(2, 3, 3, 16, 24)}
    found = []
    for given in (target, target | {"num_decoded": size}):
        decoder.zero_grad()
        slots.grad = None
        loss = decoder.loss(clip, given)["recon_flow"]
        loss.backward()
        found.append([loss.detach(), slots.grad, *(p.grad.clone() for p in decoder.parameters())])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*found))


def test_masks_alone_are_the_same_masks() -> None:
    decoder, (clip, _) = tiny().decoder, clip_with_copies()
    whole, masks = decoder.decode(clip), decoder.decode(clip, recon=False)
    assert torch.allclose(whole.masks, masks.masks, atol=1e-6)
    assert torch.allclose(whole.logits, masks.logits, atol=1e-5) and masks.recon == {}
    assert decoder.decode_slots(clip, images=False).images.shape[-1] == 0


@pytest.mark.device
def test_the_lowest_of_equals_wins(device: torch.device) -> None:
    logits = torch.tensor([1.0, 3.0, 3.0, 2.0], device=device)[:, None, None].expand(4, 5, 7)
    assert (segmentation_from_logits(logits) == 1).all()
    assert (segmentation_from_logits(torch.zeros(2, 4, 3, 3, device=device)) == 0).all()


def test_copies_come_from_equal_boxes() -> None:
    found = tiny().encode(batch())
    boxes = torch.nn.functional.pad(batch()["boxes"][:, 0], (0, 0, 1, 0))
    assert torch.equal(found.state.source, first_equal(boxes))
    assert torch.allclose(found.slots[:, :, 0], found.slots[:, :, 3], atol=1e-6)


def test_missing_targets_are_named() -> None:
    clip = batch()
    del clip["flow"]
    with pytest.raises(UserError, match="target `flow`"):
        tiny().loss(clip)


def test_shapes_are_fixed_from_the_hint() -> None:
    found = tiny().fixed_shapes(batch())
    distinct = len(pack(tiny().encode(found).state.source, (2, 5), torch.device("cpu")).clip)
    assert distinct <= found["num_decoded"] <= 10
    assert torch.allclose(tiny().loss(found)["recon_flow"], tiny().loss(batch())["recon_flow"], rtol=1e-5)
    assert "num_decoded" not in tiny("learned").fixed_shapes(batch())
    assert tiny("masks").fixed_shapes(batch())["num_decoded"] <= 10

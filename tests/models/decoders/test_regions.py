"""The region decoder: masks by position, images as polynomials, copies decoded once."""

import pytest
import torch

from torchslots.io.errors import UserError
from torchslots.models.decoders.broadcast import padded_size
from torchslots.models.decoders.regions import RegionDecoder, quadratic_terms, shared_areas
from torchslots.models.layers.blocks import mlp
from torchslots.models.layers.conv import cnn
from torchslots.models.layers.position import PositionEmbedding
from torchslots.models.types import Clip, State

TARGETS = {"video": 3, "depth": 1}


def decoder(**options) -> RegionDecoder:
    torch.manual_seed(0)
    network = cnn(12, [8, 4], [1, 1], kernel=1, activate_last=False).append(torch.nn.PixelShuffle(2))
    position = PositionEmbedding((3, 4), 12)
    return RegionDecoder(
        position, network, mlp(12, [8], 24), grid=(3, 4), resolution=(6, 8), targets=TARGETS, **options
    )


def clip(source: torch.Tensor | None) -> Clip:
    """Slots 0 and 3 are equal, and in the second clip slot 1 too."""
    equal = torch.tensor([[0, 1, 2, 0, 4], [0, 0, 2, 0, 4]])
    slots = torch.randn(2, 3, 5, 12, generator=torch.Generator().manual_seed(5))
    slots = slots.gather(2, equal[:, None, :, None].expand(-1, 3, -1, 12))
    return Clip(slots, slots, torch.zeros(2, 3, 5, 1), None, State(slots[:, -1], source=source))


COPIES = torch.tensor([[0, 1, 2, 0, 4], [0, 0, 2, 0, 4]])


def targets() -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(1)
    return {name: torch.rand(2, 3, size, 6, 8, generator=noise) for name, size in TARGETS.items()}


def test_images_are_the_slots_own_weighted_by_masks():
    found = decoder().decode(clip(None), slot_recon=True)
    assert found.slot_recon is not None
    assert torch.allclose(found.masks.sum(2), torch.ones(2, 3, 6, 8))
    for name, own in found.slot_recon.items():
        assert torch.allclose((own * found.masks[:, :, :, None]).sum(2), found.recon[name], atol=1e-5)


def test_an_image_is_a_quadratic_of_its_coefficients():
    model, seen = decoder(), clip(None)
    found = model.decode(seen, slot_recon=True).slot_recon
    assert found is not None
    coefficients = model.appearance(seen.slots).unflatten(-1, (6, 4))
    y, x = -1 + 2 * 1 / 5, -1 + 2 * 5 / 7
    terms = torch.tensor([1, y, x, y * y, x * x, y * x])
    assert torch.allclose(quadratic_terms(6, 8)[:, 1, 5], terms)
    assert torch.allclose(
        found["video"][..., 1, 5], (coefficients * terms[:, None]).sum(-2)[..., :3], atol=1e-5
    )


def test_copies_decoded_once_change_nothing():
    model, values = decoder(), []
    for source in (None, COPIES):
        model.zero_grad()
        errors = model.loss(clip(source), targets())
        sum(errors.values(), torch.zeros(())).backward()
        values.append([*errors.values(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(values[0]) == 2 + len(list(model.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-3) for a, b in zip(*values))
    assert torch.allclose(model.decode(clip(None)).masks, model.decode(clip(COPIES)).masks, atol=1e-6)


def test_padding_of_pairs_changes_nothing():
    model, size = decoder(), padded_size(7, 10)
    assert size > 7
    plain, padded = (model.loss(clip(COPIES), {**targets(), **more}) for more in ({}, {"num_decoded": size}))
    assert all(torch.allclose(plain[name], padded[name]) for name in plain)


def test_the_loss_is_the_weighted_error_of_the_images():
    model, data = decoder(weights={"depth": 3.0}), targets()
    recon, errors = model.decode(clip(None)).recon, model.loss(clip(None), data)
    assert errors["recon_video"].item() == pytest.approx(
        ((recon["video"] - data["video"]) ** 2).sum().item() / 2
    )
    assert errors["recon_depth"].item() == pytest.approx(
        3 * ((recon["depth"] - data["depth"]) ** 2).sum().item() / 2
    )


def test_a_missing_target_is_named():
    with pytest.raises(UserError, match=r"target `depth` should be .* got nothing"):
        decoder().loss(clip(None), {"video": targets()["video"]})


def test_slots_that_share_a_region_cost_more():
    one = torch.zeros(1, 1, 3, 4, 4)
    one[0, 0, 0, :2], one[0, 0, 1, 2:] = 1, 1
    shared = one.clone()
    shared[0, 0, 1], shared[0, 0, 2] = one[0, 0, 1] / 2, one[0, 0, 1] / 2
    assert shared_areas(one).item() == pytest.approx(2 * 0.5001**0.5 + 0.01, rel=1e-5)
    assert shared_areas(shared).item() == pytest.approx(0.5001**0.5 + 2 * 0.2501**0.5, rel=1e-5)


def test_the_price_of_sharing_is_a_loss_of_its_own():
    data = targets()
    plain, priced = (decoder(sparsity=weight).loss(clip(COPIES), data) for weight in (0.0, 3.0))
    masks = decoder().decode(clip(COPIES)).masks
    gathered = torch.zeros_like(masks).index_add(2, torch.arange(5), masks)  # copies count with their first
    for pair, source in enumerate(COPIES):
        for slot, first in enumerate(source):
            if slot != first:
                gathered[pair, :, first] += masks[pair, :, slot]
                gathered[pair, :, slot] = 0
    assert priced["areas"].item() == pytest.approx(3 * shared_areas(gathered).item(), rel=1e-4)
    assert "areas" not in plain and plain["recon_video"] == priced["recon_video"]


@pytest.mark.parametrize(("step", "share"), [(9, 0), (10, 1), (None, 1)])
def test_the_price_of_sharing_counts_from_a_step(step: int | None, share: int):
    data = targets()
    whole = decoder(sparsity=3.0).loss(clip(COPIES), data)["areas"]
    when = {} if step is None else {"step": step}
    late = decoder(sparsity=3.0, sparsity_start=10).loss(clip(COPIES), {**data, **when})["areas"]
    assert late == share * whole

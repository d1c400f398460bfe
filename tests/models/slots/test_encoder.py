"""Properties of the loop over time and of the parts in it."""

from dataclasses import replace

import pytest
import torch

from tiny_models import TINY, batch, tiny
from torchslots.io.errors import UserError
from torchslots.models.model import conditioning
from torchslots.models.slots.attention import SlotAttention, eps_on_sum, eps_on_weights
from torchslots.models.slots.initializers import FromBoxes, FromMasks, Gaussian, Learned, first_equal
from torchslots.recipes.savi import build


@pytest.mark.parametrize("kind", ["boxes", "centers", "masks", "learned"])
@pytest.mark.parametrize("cut", [1, 4])
def test_a_clip_cut_in_two_is_the_whole(kind: str, cut: int) -> None:
    model, clip = tiny(kind), batch()
    whole = model.predict(clip)
    first = model.predict({key: value[:, :cut] for key, value in clip.items()})
    second = model.predict({"video": clip["video"][:, cut:]}, first.state)
    for name in ("slots", "masks", "segmentation"):
        joined = torch.cat([getattr(first, name), getattr(second, name)], 1)
        assert torch.allclose(joined.float(), getattr(whole, name).float(), atol=1e-5), name


@torch.no_grad()
def test_slots_follow_the_order_of_boxes() -> None:
    model, clip = tiny(), batch()
    order = torch.tensor([3, 0, 2, 1])
    one, other = model.predict(clip), model.predict({**clip, "boxes": clip["boxes"][:, :, order]})
    assert torch.allclose(one.slots[:, :, 1:][:, :, order], other.slots[:, :, 1:], atol=1e-5)
    assert torch.allclose(one.recon["flow"], other.recon["flow"], atol=1e-5)


def test_the_future_does_not_change_the_past() -> None:
    model, clip = tiny(), batch()
    changed = {**clip, "video": clip["video"].clone()}
    changed["video"][:, 4:] = 0
    assert torch.equal(model.predict(clip).slots[:, :4], model.predict(changed).slots[:, :4])


def test_masks_sum_to_one_and_ties_go_to_the_background() -> None:
    found = tiny().predict(batch())
    assert torch.allclose(found.masks.sum(2), torch.ones(2, 6, 16, 24), atol=1e-5)
    assert torch.equal(found.masks[:, :, 0], found.masks[:, :, 3])
    assert not (found.segmentation == 3).any()


def test_attention_competes_over_slots() -> None:
    attn = tiny().predict(batch()).attn
    assert attn.shape == (2, 6, 5, 8 * 12)
    assert torch.allclose(attn.sum(2), torch.ones(2, 6, 96), atol=1e-5)


def test_the_two_normalizers() -> None:
    attn = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    assert torch.allclose(eps_on_sum(1.0)(attn), torch.tensor([[0.125, 0.375], [0.5, 0.0]]))
    assert torch.allclose(eps_on_weights(1.0)(attn), torch.tensor([[1.25, 1.75], [2.0, 1.0]]) / 3.0)


def test_copies_are_found() -> None:
    hints = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]])
    assert first_equal(hints).tolist() == [[0, 1, 0, 1]]


def test_copies_among_masks() -> None:
    state = tiny("masks").slot_encoder.initializer(conditioning(batch(1)))
    assert state.source.tolist() == [[0, 1, 2, 3, 0]] * 2
    assert torch.allclose(state.slots[:, 0], state.slots[:, 4])


def test_gaussian_slots_repeat_by_seed() -> None:
    model, clip = tiny("gaussian"), batch()
    draw = lambda seed: model.predict(clip | {"generator": torch.Generator().manual_seed(seed)}).slots  # noqa: E731
    assert torch.equal(draw(3), draw(3)) and not torch.equal(draw(3), draw(4))
    noise = torch.randn(2, 7, 12)
    assert model.predict(clip | {"noise": noise}).slots.shape == (2, 6, 7, 12)
    assert Gaussian(3, 4, learned=False).state_dict() == {}


@pytest.mark.parametrize(
    ("initializer", "says"),
    [
        (FromBoxes(4), "--boxes"),
        (FromMasks(torch.nn.Identity(), torch.nn.Identity(), num_slots=3), "--masks"),
    ],
)
def test_missing_hints(initializer: torch.nn.Module, says: str) -> None:
    with pytest.raises(UserError, match=says):
        initializer(conditioning({"video": torch.zeros(1, 1, 3, 4, 4)}))


def test_learned_slots_have_a_number() -> None:
    with pytest.raises(UserError, match="3 learned slots"):
        Learned(3, 4)(conditioning({"video": torch.zeros(1, 1, 3, 4, 4), "num_slots": 5}))


def test_wrong_frames_are_named() -> None:
    with pytest.raises(UserError, match=r"feature maps of \(8, 12\)"):
        tiny().predict({**batch(), "video": torch.rand(2, 6, 3, 32, 32)})
    with pytest.raises(UserError, match=r"\[B, T, 3, H, W\]"):
        tiny().predict({**batch(), "video": torch.rand(2, 3, 16, 24)})
    with pytest.raises(UserError, match="not divisible"):
        SlotAttention(4, 6, num_heads=4)


def test_recomputing_changes_nothing() -> None:
    clip, gradients = batch(3), []
    for config in (TINY, replace(TINY, recompute=True, decoder=replace(TINY.decoder, chunk=4))):
        torch.manual_seed(0)
        model = build(config)
        sum(model.loss(clip).values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-2), name


def test_attention_that_nobody_asks_for_is_not_kept() -> None:
    with_it, without = tiny().predict(batch()), tiny().predict(batch(), attn=False, recon=False)
    assert torch.equal(with_it.slots, without.slots) and torch.equal(
        with_it.segmentation, without.segmentation
    )
    assert without.attn.shape[-1] == 0 and without.recon == {}

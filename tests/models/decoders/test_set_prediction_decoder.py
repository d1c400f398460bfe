"""Set prediction: matching, its loss, and what the decoder says of a clip."""

import itertools

import pytest
import torch

from torchslots.io.errors import UserError
from torchslots.models.decoders.set_prediction import SetPredictionDecoder, assign, pairwise_cost, set_loss
from torchslots.models.types import Clip, State


def sets(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def clip_of(slots: torch.Tensor, num_tokens: int) -> Clip:
    attn = sets(9, *slots.shape[:3], num_tokens).softmax(2)
    return Clip(slots, slots, attn, None, State(slots[:, -1]))


@pytest.fixture
def decoder() -> SetPredictionDecoder:
    torch.manual_seed(0)
    return SetPredictionDecoder(8, 12, 19, grid=(4, 6), resolution=(16, 24))


def test_cost_is_huber_averaged_over_properties():
    predicted, true = torch.tensor([[[0.0, 3.0]]]), torch.tensor([[[0.5, 0.0], [0.0, 3.0]]])
    expected = torch.tensor([[[(0.125 + 2.5) / 2], [0.0]]])
    torch.testing.assert_close(pairwise_cost(predicted, true), expected)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 5), (5, 3)])
def test_assignment_is_the_cheapest_of_all(rows, columns):
    cost = sets(1, 3, rows, columns)
    first, second = assign(cost)
    for matrix, i, j in zip(cost, first, second):
        few, many = min(rows, columns), max(rows, columns)
        table = matrix if rows <= columns else matrix.T
        best = min(
            sum(float(table[a, b]) for a, b in enumerate(choice))
            for choice in itertools.permutations(range(many), few)
        )
        assert float(matrix[i, j].sum()) == pytest.approx(best, rel=1e-6)
        assert len(set(i.tolist())) == len(set(j.tolist())) == few


def test_loss_does_not_depend_on_order():
    predicted, true = sets(2, 3, 6, 19), sets(3, 3, 6, 19)
    loss = set_loss(predicted, true)
    torch.testing.assert_close(set_loss(predicted[:, torch.randperm(6)], true), loss)
    torch.testing.assert_close(set_loss(predicted, true[:, torch.randperm(6)]), loss)
    torch.testing.assert_close(set_loss(true[:, [5, 0, 4, 1, 3, 2]], true), torch.tensor(0.0))


def test_gradient_flows_through_matched_pairs_alone():
    predicted = sets(4, 1, 5, 19).requires_grad_()
    set_loss(predicted, sets(5, 1, 2, 19)).backward()
    assert (predicted.grad.abs().sum(-1) > 0).sum() == 2


def test_a_run_that_diverged_has_a_loss_that_is_not_a_number():
    predicted = torch.full((2, 4, 19), torch.nan)
    assert set_loss(predicted, sets(6, 2, 4, 19)).isnan()


def test_loss_averages_over_frames_of_all_clips(decoder):
    clip, true = clip_of(sets(7, 2, 3, 5, 8), 24), sets(8, 2, 3, 4, 19)
    each = [
        decoder.loss(
            clip_of(clip.slots[b : b + 1, t : t + 1], 24), {"properties": true[b : b + 1, t : t + 1]}
        )
        for b in range(2)
        for t in range(3)
    ]
    mean = torch.stack([losses["properties"] for losses in each]).mean()
    torch.testing.assert_close(decoder.loss(clip, {"properties": true})["properties"], mean)


def test_masks_are_the_enlarged_attention(decoder):
    clip = clip_of(sets(7, 2, 3, 5, 8), 24)
    decoded = decoder.decode(clip)
    assert decoded.masks.shape == (2, 3, 5, 16, 24)
    torch.testing.assert_close(decoded.masks.sum(2), torch.ones(2, 3, 16, 24))
    coarse = decoded.masks.unflatten(-1, (6, 4)).unflatten(-3, (4, 4)).mean((-1, -3))
    torch.testing.assert_close(coarse.mean((-1, -2)), clip.attn.mean(-1), rtol=0.02, atol=0.01)
    assert (decoded.logits.argmax(2) == decoded.masks.argmax(2)).all()
    torch.testing.assert_close(decoded.properties, decoder(clip.slots))
    assert decoded.properties.min() > 0 and decoded.properties.max() < 1


@pytest.mark.parametrize(
    "batch", [{}, {"properties": torch.zeros(2, 4, 19)}, {"properties": torch.zeros(1, 1, 4, 18)}]
)
def test_batches_without_properties_are_refused(decoder, batch):
    with pytest.raises(UserError, match=r"`properties` \[B, T, n, 19\]"):
        decoder.loss(clip_of(sets(7, 1, 1, 5, 8), 24), batch)

"""Prediction with no input."""

import pytest
import torch

from tiny_models import TINY, batch
from tiny_models import tiny as tiny_savi
from torchslots.io.errors import UserError
from torchslots.models.model import ObjectCentricModel, rollout
from torchslots.models.slots.predictors import IdentityPredictor
from torchslots.models.types import Grouping
from torchslots.recipes.statm import StatmConfig, build


def tiny_statm() -> ObjectCentricModel:
    torch.manual_seed(0)
    return build(StatmConfig(TINY)).eval()


MODELS = pytest.mark.parametrize("make", [tiny_savi, tiny_statm], ids=["savi", "statm"])


@MODELS
def test_observed_frames_are_predicted_as_ever(make) -> None:
    model, clip = make(), batch()
    found, seen = (
        rollout(model, clip, 4, 3),
        model.predict({"video": clip["video"][:, :4], "boxes": clip["boxes"]}),
    )
    assert found.segmentation.shape == (2, 7, 16, 24) and found.recon["flow"].shape == (2, 7, 3, 16, 24)
    for name in ("slots", "attn"):
        assert torch.allclose(getattr(found, name)[:, :4], getattr(seen, name), atol=1e-6), name
    assert torch.allclose(found.recon["flow"][:, :4], seen.recon["flow"], atol=1e-5)
    assert not found.attn[:, 4:].any()


@MODELS
@torch.no_grad()
def test_each_frame_is_predicted_from_the_one_before(make) -> None:
    model, clip = make(), batch()
    found = rollout(model, clip, 2, 3)
    state = model.predict({"video": clip["video"][:, :2], "boxes": clip["boxes"]}).state
    for t in range(3):
        assert torch.allclose(found.slots[:, 2 + t], state.slots, atol=1e-6)
        state = model.slot_encoder.predictor(Grouping(state.slots, found.attn[:, 0]), state)
    assert torch.allclose(found.state.slots, state.slots, atol=1e-6)


@MODELS
def test_what_is_not_observed_does_not_matter(make) -> None:
    model, clip = make(), batch()
    changed = {**clip, "video": clip["video"].clone()}
    changed["video"][:, 3:] = 0
    one, other = rollout(model, clip, 3, 3), rollout(model, changed, 3, 3)
    assert torch.equal(one.slots, other.slots)


@MODELS
def test_in_parts_is_the_whole(make) -> None:
    """Observed and rolled on slice by slice, each from the state that the one before left."""
    model, clip = make(), batch()
    whole = rollout(model, clip, 4, 4)
    first = model.predict({"video": clip["video"][:, :3], "boxes": clip["boxes"]})
    second = rollout(model, {"video": clip["video"][:, 3:]}, 1, 1, first.state)
    third = rollout(model, {}, 0, 3, second.state)
    joined = torch.cat([part.slots for part in (first, second, third)], 1)
    assert torch.allclose(joined, whole.slots, atol=1e-5)
    masks = torch.cat([part.masks for part in (first, second, third)], 1)
    assert torch.allclose(masks, whole.masks, atol=1e-5)


def test_memory_takes_in_predicted_frames() -> None:
    assert rollout(tiny_statm(), batch(), 3, 4).state.memory.num_frames == 7


def test_without_dynamics_nothing_moves() -> None:
    model = tiny_savi()
    model.slot_encoder.predictor = IdentityPredictor()
    found = rollout(model, batch(), 2, 3)
    for t in range(3):
        assert torch.equal(found.slots[:, 1], found.slots[:, 2 + t])
        assert torch.allclose(found.masks[:, 1], found.masks[:, 2 + t], atol=1e-6)


def test_slots_own_pictures_on_request() -> None:
    found = rollout(tiny_savi(), batch(), 2, 2, slot_recon=True)
    assert found.slot_recon is not None and found.slot_recon["flow"].shape[:3] == (2, 4, 5)


@pytest.mark.parametrize(
    ("observe", "horizon", "says"),
    [
        (0, 2, "nothing to predict from"),
        (7, 1, "Cannot observe 7"),
        (2, 0, "1 or more"),
        (-1, 2, "0 or more"),
    ],
)
def test_impossible_requests_are_refused(observe: int, horizon: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        rollout(tiny_savi(), batch(), observe, horizon)

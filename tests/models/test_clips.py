"""Which slot comes from where, and the clips that this makes."""

import numpy as np
import pytest
import torch

from torchslots.io.errors import UserError
from torchslots.models.clips import compose, frames_of, joined, plain_clip, random_plan, shifted_plan
from torchslots.models.types import Clip, Pose


def clips(number: int = 3, frames: int = 2, slots: int = 5, pose: bool = False) -> Clip:
    values = torch.arange(number * frames * slots * 4.0).reshape(number, frames, slots, 4)
    return plain_clip(values, Pose(values[..., :2], values[..., 2:]) if pose else None)


def test_chance_uses_every_slot_of_every_video_once():
    plan = random_plan(20, 4, seed=3)
    assert plan.shape == (20, 4)
    for column in plan.T:
        assert sorted(column) == list(range(20))
    assert len({tuple(column) for column in plan.T}) == 4  # each slot's videos in an order of their own
    assert (plan != np.arange(20)[:, None]).mean() > 0.8
    assert np.array_equal(plan, random_plan(20, 4, seed=3))
    assert not np.array_equal(plan, random_plan(20, 4, seed=4))
    assert np.array_equal(plan[:, :2], random_plan(20, 2, seed=3))


def test_the_shift_is_the_published_one():
    assert shifted_plan(3, 5, 3).tolist() == [[0, 1, 2, 0, 0], [1, 2, 0, 1, 1], [2, 0, 1, 2, 2]]
    slots = clips(4, 2, 6).slots
    by_slicing = slots.clone()
    for slot in range(6):  # as a loop over slices would have it, which does nothing from the batch's size on
        by_slicing[:, :, slot] = torch.cat([slots[slot:, :, slot], slots[:slot, :, slot]])
    assert torch.equal(compose(clips(4, 2, 6), shifted_plan(4, 6, 4)).slots, by_slicing)


def test_the_shift_stays_within_its_batch():
    plan = shifted_plan(5, 3, 3)
    assert plan[:3].tolist() == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    assert plan[3:].tolist() == [[3, 4, 3], [4, 3, 4]]  # the rest: two videos, so slot 2 stays
    assert np.array_equal(shifted_plan(4, 3, 1), np.arange(4)[:, None].repeat(3, 1))


def test_slots_bring_their_frames_and_their_time():
    given = clips(pose=True)
    plan = np.array([[2, 0, 1, 1, 0]])
    made = compose(given, plan)
    assert made.slots.shape == (1, 2, 5, 4) and made.pose is not None and given.pose is not None
    for slot, source in enumerate(plan[0]):
        assert torch.equal(made.slots[0, :, slot], given.slots[source, :, slot])
        assert torch.equal(made.pose.position[0, :, slot], given.pose.position[source, :, slot])
        assert torch.equal(made.state.slots[0, slot], given.slots[source, -1, slot])
    assert made.pose.rotation is None and made.attn.shape == (1, 2, 5, 0)


def test_clips_are_put_together_and_cut():
    given = clips(3, 4, pose=True)
    halves = [frames_of(given, slice(0, 2)), frames_of(given, slice(2, 4))]
    again = joined(halves, 1)
    assert torch.equal(again.slots, given.slots) and again.pose is not None and given.pose is not None
    assert torch.equal(again.pose.position, given.pose.position)
    assert joined(halves, 0).slots.shape == (6, 2, 5, 4)


@pytest.mark.parametrize(
    "plan", [[[0, 1]], [[0, 0, 0, 0, 3]], [[0, 0, 0, 0, -1]]], ids=["width", "high", "low"]
)
def test_plans_for_other_clips_are_refused(plan):
    with pytest.raises(UserError, match="does not fit 3 clips of 5 slots"):
        compose(clips(), np.array(plan))

"""Properties of the predictor that remembers."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tiny_models import TINY, batch
from tiny_models import tiny as tiny_savi
from torchslots.io.errors import UserError
from torchslots.models.adjust import bound_memory
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.temporal import (
    Fusion,
    Memory,
    MemoryPredictor,
    ParallelFusion,
    SharedResidual,
    SpaceThenTime,
    TimeThenSpace,
    all_slots,
    forget,
    remembering,
)
from torchslots.models.types import Grouping, State
from torchslots.recipes.statm import FusionName, StatmConfig, build

FUSIONS: list[Callable[..., Fusion]] = [
    SpaceThenTime,
    ParallelFusion,
    TimeThenSpace,
    SharedResidual,
    all_slots,
]
NAMES: list[FusionName] = ["space_then_time", "sum", "time_then_space", "shared_residual", "all_slots"]
NUM_FRAMES = 5


def tiny(
    max_frames: int | None = None, fusion: FusionName = "sum", pre_norm: bool = False
) -> ObjectCentricModel:
    torch.manual_seed(0)
    return build(StatmConfig(TINY, fusion=fusion, pre_norm=pre_norm, max_frames=max_frames)).eval()


def fusion_of(make: Callable[..., Fusion], pre_norm: bool = False) -> Fusion:
    torch.manual_seed(0)
    return make(12, num_heads=2, qkv_size=8, mlp_size=14, pre_norm=pre_norm)


def frames(num_frames: int = NUM_FRAMES) -> Tensor:
    return torch.randn(num_frames, 2, 4, 12, generator=torch.Generator().manual_seed(1))


def run(predictor: MemoryPredictor, slots: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """Predictions for all frames, and the state after them."""
    current = state or State(slots[0])
    found = []
    for frame in slots:
        current = predictor(Grouping(frame, frame.new_zeros(2, 4, 0)), current)
        found.append(current.slots)
    return torch.stack(found), current


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("make", FUSIONS)
def test_a_kept_memory_equals_one_made_anew(make: Callable[..., Fusion], pre_norm: bool) -> None:
    fusion, slots = fusion_of(make, pre_norm), frames()
    with torch.no_grad():
        kept, _ = run(MemoryPredictor(fusion), slots)
        for t in range(NUM_FRAMES):
            anew = attention_anew(fusion, slots[: t + 1])
            assert torch.allclose(kept[t], anew, atol=1e-5)


def attention_anew(fusion: Fusion, slots: Tensor) -> Tensor:
    """The last frame's prediction, all keys and values projected again and at once."""
    past = fusion.time.norm(slots).permute(1, 2, 0, 3)
    return fusion(slots[-1], Memory(*fusion.time.attention.project(past)))


@pytest.mark.parametrize("fusion", NAMES)
@pytest.mark.parametrize("cut", [1, 4])
def test_a_clip_cut_in_two_is_the_whole(fusion: FusionName, cut: int) -> None:
    model, clip = tiny(fusion=fusion), batch()
    whole = model.predict(clip)
    first = model.predict({key: value[:, :cut] for key, value in clip.items()})
    second = model.predict({"video": clip["video"][:, cut:]}, first.state)
    for name in ("slots", "masks"):
        joined = torch.cat([getattr(first, name), getattr(second, name)], 1)
        assert torch.allclose(joined, getattr(whole, name), atol=1e-5), name


def test_forgetting_changes_what_follows_but_not_the_next_frame() -> None:
    model, clip = tiny(), batch()
    whole = model.predict(clip)
    first = model.predict({key: value[:, :3] for key, value in clip.items()})
    second = model.predict({"video": clip["video"][:, 3:]}, forget(first.state))
    assert torch.allclose(second.slots[:, 0], whole.slots[:, 3], atol=1e-6)
    assert (second.slots[:, 1:] - whole.slots[:, 4:]).abs().amax() > 1e-4
    assert second.state.memory.num_frames == 3


def test_max_frames_bounds_the_memory() -> None:
    predictor, slots = MemoryPredictor(fusion_of(ParallelFusion), max_frames=3), frames(8)
    state: State | None = None
    with torch.no_grad():
        for frame in slots:
            state = run(predictor, frame[None], state)[1]
            assert state.memory.keys.untyped_storage().nbytes() <= 3 * frame.numel() * 8 // 12 * 4
        assert state is not None and state.memory.num_frames == 3
        recent, _ = run(MemoryPredictor(fusion_of(ParallelFusion)), slots[-3:])
        assert torch.allclose(state.slots, recent[-1], atol=1e-6)


def test_a_bound_that_is_not_reached_changes_nothing() -> None:
    clip = batch()
    assert torch.equal(tiny(max_frames=6).predict(clip).slots, tiny().predict(clip).slots)
    assert not torch.allclose(tiny(max_frames=2).predict(clip).slots, tiny().predict(clip).slots, atol=1e-5)


def test_a_loaded_model_can_be_bound() -> None:
    model, clip = tiny(), batch()
    assert bound_memory(model, 2) == 1 and bound_memory(tiny_savi(), 2) == 0
    assert torch.equal(model.predict(clip).slots, tiny(max_frames=2).predict(clip).slots)
    bound_memory(model, None)
    assert torch.equal(model.predict(clip).slots, tiny().predict(clip).slots)


def test_unbounded_memory_holds_every_frame() -> None:
    assert tiny().predict(batch()).state.memory.num_frames == 6


@pytest.mark.parametrize("max_frames", [0, -1])
def test_a_memory_without_the_current_frame_is_refused(max_frames: int) -> None:
    with pytest.raises(UserError, match="max_frames"):
        StatmConfig(max_frames=max_frames)
    with pytest.raises(ValueError, match="max_frames"):
        MemoryPredictor(fusion_of(ParallelFusion), max_frames=max_frames)


@pytest.mark.parametrize("fusion", NAMES)
def test_the_future_does_not_change_the_past(fusion: FusionName) -> None:
    model, clip = tiny(fusion=fusion), batch()
    changed = {**clip, "video": clip["video"].clone()}
    changed["video"][:, 4:] = 0
    one, other = model.predict(clip), model.predict(changed)
    assert torch.allclose(one.slots[:, :4], other.slots[:, :4], atol=1e-6)
    assert not torch.allclose(one.slots[:, 4:], other.slots[:, 4:], atol=1e-4)


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("fusion", NAMES)
def test_every_weight_has_a_gradient(fusion: FusionName, pre_norm: bool) -> None:
    """But biases of keys and of masks' scores, whose gradient is zero in exact arithmetic: a softmax cancels them."""
    model = tiny(fusion=fusion, pre_norm=pre_norm).train()
    torch.stack(list(model.loss(batch(4)).values())).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0 or name.endswith(("key.bias", "mask_head.bias")), name


def test_gradients_reach_every_remembered_frame() -> None:
    slots = frames().requires_grad_()
    found, _ = run(MemoryPredictor(fusion_of(ParallelFusion)), slots)
    found[-1].square().sum().backward()
    assert slots.grad is not None and (slots.grad.abs().sum((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("make", FUSIONS)
def test_slots_follow_their_order(make: Callable[..., Fusion]) -> None:
    predictor, slots, order = MemoryPredictor(fusion_of(make)), frames(), torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        one, other = run(predictor, slots)[0], run(predictor, slots[:, :, order])[0]
    assert torch.allclose(one[:, :, order], other, atol=1e-5)


def test_a_slot_sees_its_own_past_or_everyones() -> None:
    """A past frame of slot 0 changes slot 1's prediction over time only where all slots are in view."""
    for make, seen in ((ParallelFusion, False), (all_slots, True)):
        fusion, slots = fusion_of(make), frames(2)
        changed = slots.clone()
        changed[0, :, 0] += 1
        with torch.no_grad():
            one, other = (fusion.time(past[1], whole_memory(fusion, past)) for past in (slots, changed))
        assert torch.equal(one[:, 1], other[:, 1]) != seen
        assert not torch.equal(one[:, 0], other[:, 0])


def whole_memory(fusion: Fusion, slots: Tensor) -> Memory:
    memory = remembering(None, fusion.time.entry(slots[0]))
    return remembering(memory, fusion.time.entry(slots[1]))


def test_released_all_slots_in_front_is_a_sum() -> None:
    clip = batch(3)
    one, other = tiny(fusion="all_slots_as_released", pre_norm=True), tiny(fusion="sum", pre_norm=True)
    assert torch.equal(one.predict(clip).slots, other.predict(clip).slots)
    one, other = tiny(fusion="all_slots_as_released"), tiny(fusion="all_slots")
    assert torch.equal(one.predict(clip).slots, other.predict(clip).slots)


def test_two_rounds_of_slot_attention() -> None:
    torch.manual_seed(0)
    model = build(StatmConfig(replace(TINY, num_iterations=2))).eval()
    assert not torch.allclose(model.predict(batch(2)).slots, tiny().predict(batch(2)).slots, atol=1e-4)

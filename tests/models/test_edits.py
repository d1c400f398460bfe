"""Editing slots, and the pictures of their frames: against what a decoder of pixels must then draw."""

import math

import pytest
import torch
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.models import edits as editing
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.poses import rotation_from_angle
from torchslots.models.types import Clip, Pose, State
from torchslots.recipes import isa
from torchslots.recipes.savi import CnnConfig

SIDE, K = 9, 4


@pytest.fixture(scope="module")
def model() -> ObjectCentricModel:
    """Draws 9x9 pixels, each from its place as a slot sees it and nothing else."""
    torch.manual_seed(0)
    config = isa.IsaConfig(
        resolution=(SIDE, SIDE),
        encoder=CnnConfig((6,), (1,)),
        invariance="rotation",
        num_slots=K,
        slot_size=8,
        decoder=isa.PixelDecoderConfig(grid=(SIDE, SIDE), channels=(16, 12)),
    )
    built = isa.build(config)
    for parameter in built.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return built.eval()


def _clip(seed: int = 0, frames: int = 1, source: Tensor | None = None) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    slots = torch.randn(2, frames, K, 8, generator=generator)
    position = torch.zeros(2, frames, K, 2)
    pose = Pose(position, torch.full((2, frames, K, 2), 0.2), rotation_from_angle(torch.zeros(2, frames, K)))
    last = pose.map(lambda part: part[:, -1])
    return Clip(slots, slots, torch.rand(2, frames, K, 5), pose, State(slots[:, -1], last, source=source))


def _logits(model: ObjectCentricModel, clip: Clip) -> Tensor:
    with torch.no_grad():
        return model.decoder.decode(clip).logits


def test_a_moved_slot_is_drawn_moved_and_the_others_stay(model: ObjectCentricModel) -> None:
    clip, cell = _clip(frames=2), 2 / (SIDE - 1)
    before, after = _logits(model, clip), _logits(model, editing.move(clip, 1, 2 * cell, -cell))
    assert torch.allclose(after[:, :, 1, 2:, :-1], before[:, :, 1, :-2, 1:], atol=1e-5)
    assert torch.equal(after[:, :, [0, 2, 3]], before[:, :, [0, 2, 3]])
    assert (after[:, :, 1] - before[:, :, 1]).abs().max() > 0.1


def test_an_enlarged_slot_is_drawn_larger(model: ObjectCentricModel) -> None:
    clip = _clip()
    before, after = _logits(model, clip), _logits(model, editing.resize(clip, 2, 2.0))
    assert torch.allclose(after[:, :, 2, ::2, ::2], before[:, :, 2, 2:7, 2:7], atol=1e-5)
    assert torch.equal(after[:, :, 0], before[:, :, 0])


def test_a_turned_slot_is_drawn_turned_counter_clockwise(model: ObjectCentricModel) -> None:
    clip = _clip()
    before, after = _logits(model, clip), _logits(model, editing.turn(clip, 0, math.pi / 2))
    assert torch.allclose(after[:, :, 0], before[:, :, 0].rot90(1, (-2, -1)), atol=1e-4)
    assert (after[:, :, 0] - before[:, :, 0]).abs().max() > 0.1


def test_edits_undo_each_other_and_leave_the_clip_alone(model: ObjectCentricModel) -> None:
    clip = _clip()
    assert clip.pose is not None
    kept = clip.pose.map(Tensor.clone)
    edited = editing.turn(editing.resize(editing.move(clip, 0, 0.3, 0.1), 0, 2.0), 0, 0.4)
    back = editing.move(editing.resize(editing.turn(edited, 0, -0.4), 0, 0.5), 0, -0.3, -0.1)
    assert back.pose is not None
    for part, start, now in zip(back.pose, kept, clip.pose):
        assert part is not None and start is not None and now is not None
        assert torch.allclose(part, start, atol=1e-6) and torch.equal(start, now)
    assert torch.allclose(_logits(model, back), _logits(model, clip), atol=1e-5)


def test_removing_leaves_the_others_and_gives_them_the_pixels(model: ObjectCentricModel) -> None:
    clip = _clip()
    edited = editing.remove(clip, [1])
    assert torch.allclose(_logits(model, edited), _logits(model, clip)[:, :, [0, 2, 3]])
    with torch.no_grad():
        decoded = model.decoder.decode(edited)
    assert torch.allclose(decoded.masks.sum(2), torch.ones(2, 1, SIDE, SIDE), atol=1e-5)
    assert edited.attn.shape == (2, 1, 3, 5) and edited.state.slots.shape == (2, 3, 8)


def test_keeping_is_removing_the_rest() -> None:
    clip = _clip()
    kept, removed = editing.keep(clip, [0, 3]), editing.remove(clip, [1, 2])
    assert torch.equal(kept.slots, removed.slots) and torch.equal(kept.state.slots, removed.state.slots)
    assert torch.equal(editing.keep(clip, [3, 0]).slots, kept.slots.flip(2))


def test_swapped_slots_change_places_with_their_frames(model: ObjectCentricModel) -> None:
    a, b = editing.move(_clip(0), 2, 0.5, 0.0), _clip(1)
    new_a, new_b = editing.swap(a, b, [(2, 0), (1, 3)])
    old_a, old_b = _logits(model, a), _logits(model, b)
    assert torch.allclose(_logits(model, new_a)[:, :, [2, 1]], old_b[:, :, [0, 3]], atol=1e-6)
    assert torch.allclose(_logits(model, new_b)[:, :, [0, 3]], old_a[:, :, [2, 1]], atol=1e-6)
    assert torch.equal(new_a.slots[:, :, [0, 3]], a.slots[:, :, [0, 3]])
    again, _ = editing.swap(new_a, new_b, [(2, 0), (1, 3)])
    assert torch.equal(again.slots, a.slots)


def test_copies_part_when_one_is_edited(model: ObjectCentricModel) -> None:
    """Slots 0, 1, 3 are copies; editing the first leaves slot 1 to stand for slot 3."""
    source = torch.tensor([[0, 0, 2, 0], [0, 0, 2, 0]])
    clip = _clip(source=source)
    moved = editing.move(clip, 0, 0.5, 0.0)
    assert moved.state.source is not None and moved.state.source.tolist() == [[0, 1, 2, 1]] * 2
    assert torch.equal(_logits(model, moved)[:, :, 3], _logits(model, moved)[:, :, 1])
    fewer = editing.remove(clip, [0])
    assert fewer.state.source is not None and fewer.state.source.tolist() == [[0, 1, 0]] * 2
    swapped, _ = editing.swap(clip, _clip(1), [(0, 0)])
    assert swapped.state.source is not None and swapped.state.source.tolist() == [[0, 1, 2, 1]] * 2


def test_slots_without_frames_can_be_removed_and_swapped_but_not_moved() -> None:
    clip = _clip()._replace(pose=None)
    clip = clip._replace(state=replace_pose(clip.state))
    assert editing.remove(clip, [0]).pose is None and editing.swap(clip, clip, [(0, 1)])[0].pose is None
    with pytest.raises(UserError, match="no pose to change"):
        editing.move(clip, 0, 1.0, 0.0)


def replace_pose(state: State) -> State:
    return state._replace(pose=None)


def test_parts_that_frames_lack_are_named() -> None:
    clip = _clip()
    assert clip.pose is not None
    bare = clip._replace(pose=Pose(clip.pose.position), state=replace_pose(clip.state))
    with pytest.raises(UserError, match="no scale"):
        editing.resize(bare, 0, 2.0)
    with pytest.raises(UserError, match="no rotation"):
        editing.turn(bare, 0, 1.0)
    with pytest.raises(UserError, match="cannot be exchanged"):
        editing.swap(bare, clip, [(0, 0)])


def test_wrong_slots_and_factors_are_refused() -> None:
    clip = _clip()
    with pytest.raises(UserError, match="There is no slot 4: this clip has slots 0 to 3"):
        editing.move(clip, 4, 0.0, 0.0)
    with pytest.raises(UserError, match="There is no slot -1"):
        editing.remove(clip, [-1])
    with pytest.raises(UserError, match="name one twice"):
        editing.keep(clip, [1, 1])
    with pytest.raises(UserError, match="left to decode"):
        editing.remove(clip, range(K))
    for factor in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="positive factor"):
            editing.resize(clip, 0, factor)


def test_an_encoded_clip_can_be_edited(model: ObjectCentricModel) -> None:
    batch = {"video": torch.rand(1, 1, 3, SIDE, SIDE), "generator": torch.Generator().manual_seed(0)}
    with torch.no_grad():
        clip = model.encode(batch)
        edited = editing.keep(editing.resize(editing.move(clip, 2, 0.2, 0.2), 2, 0.5), [2, 0])
        assert model.decoder.decode(edited, slot_recon=True).recon["video"].shape == (1, 1, 3, SIDE, SIDE)

"""Invariant slot attention: what a change of coordinates does to frames and slots, and the parts by themselves.

Moving, stretching and turning all coordinates is exact algebra but for the epsilons of 1e-8 in weights and spreads, so
those tests run in double precision with a bound of 1e-6. Moving a picture over a fixed grid is exact for the decoder of
pixels wherever both pictures show the same cell.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from torchslots.models.layers.position import coordinate_grid
from torchslots.models.layers.reference_frames import GridEncoder, RelativePosition, seen_from, turn
from torchslots.models.slots import invariant
from torchslots.models.slots import poses as frames
from torchslots.models.slots.attention import SlotAttention
from torchslots.models.slots.initializers import Learned
from torchslots.models.slots.invariant import InvariantSlotAttention
from torchslots.models.slots.poses import LearnedPoses, SampledPoses, WithPoses, rotation_from_angle
from torchslots.models.types import Conditioning, Grouping, Pose, State
from torchslots.recipes import isa
from torchslots.recipes.savi import CnnConfig

B, K, N, C, D = 2, 3, 30, 10, 8
BOUND = 1e-6
FITS = {
    "translation": invariant.fit_translation,
    "scale": invariant.fit_translation_scale,
    "rotation": invariant.fit_translation_rotation_scale,
}


def _corrector(name: frames.Invariance) -> InvariantSlotAttention:
    torch.manual_seed(3)
    core = SlotAttention(C, D, qkv_size=6, num_iterations=3, mlp_size=12)
    corrector = InvariantSlotAttention(core, GridEncoder(6, 16), FITS[name], scale_factor=2.0)
    torch.nn.init.normal_(corrector.core.query.weight, std=1.5)
    return corrector.double()


def _pose(name: frames.Invariance) -> Pose:
    position = torch.rand(B, K, 2, dtype=torch.double) - 0.5
    scale, angle = (
        torch.rand(B, K, 2, dtype=torch.double) / 4 + 0.1,
        torch.rand(B, K, dtype=torch.double) - 0.5,
    )
    return Pose(
        position,
        None if name == "translation" else scale,
        rotation_from_angle(angle) if name == "rotation" else None,
    )


def _run(corrector: InvariantSlotAttention, pose: Pose, features: Tensor, grid: Tensor) -> list[Grouping]:
    slots = torch.linspace(-1, 1, B * K * D, dtype=torch.double).view(B, K, D)
    tokens = torch.cat([features, grid], -1)[:, None]
    return list(corrector.rounds(State(slots, pose), corrector.project(tokens).frames()[0]))


@pytest.fixture
def scene() -> tuple[Tensor, Tensor]:
    """Features and places of tokens; they lie askew, so that principal axes are far from the rules' borders."""
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(B, N, 2, dtype=torch.double, generator=generator) * torch.tensor([0.5, 1.0]) - 0.25
    places = turn(places, rotation_from_angle(torch.tensor(0.3, dtype=torch.double)))
    return torch.randn(B, N, C, dtype=torch.double, generator=generator), places


def _same_slots(before: list[Grouping], after: list[Grouping]) -> None:
    for one, other in zip(before, after, strict=True):
        assert torch.allclose(one.slots, other.slots, rtol=0, atol=BOUND)
        assert torch.allclose(one.attn, other.attn, rtol=0, atol=BOUND)


def _frame(group: Grouping) -> Pose:
    assert group.pose is not None
    return group.pose


@pytest.mark.parametrize("name", FITS)
def test_shifted_coordinates_shift_positions_and_nothing_else(
    name: frames.Invariance, scene: tuple[Tensor, Tensor]
) -> None:
    corrector, pose, step = _corrector(name), _pose(name), torch.tensor([0.125, -0.25], dtype=torch.double)
    before = _run(corrector, pose, *scene)
    after = _run(corrector, pose._replace(position=pose.position + step), scene[0], scene[1] + step)
    _same_slots(before, after)
    for one, other in zip(before, after):
        assert torch.allclose(_frame(other).position, _frame(one).position + step, rtol=0, atol=BOUND)
        for part, moved in zip(_frame(one)[1:], _frame(other)[1:]):
            assert part is None or moved is None or torch.allclose(part, moved, rtol=0, atol=BOUND)


def test_stretched_coordinates_stretch_positions_and_scales_and_nothing_else(
    scene: tuple[Tensor, Tensor],
) -> None:
    corrector, pose, factor = (
        _corrector("scale"),
        _pose("scale"),
        torch.tensor([0.5, 1.5], dtype=torch.double),
    )
    assert pose.scale is not None
    before = _run(corrector, pose, *scene)
    stretched = Pose(pose.position * factor, pose.scale * factor)
    after = _run(corrector, stretched, scene[0], scene[1] * factor)
    _same_slots(before, after)
    for one, other in zip(before, after):
        assert torch.allclose(_frame(other).position, _frame(one).position * factor, rtol=0, atol=BOUND)
        scale, new = _frame(one).scale, _frame(other).scale
        assert scale is not None and new is not None
        assert torch.allclose(new, scale * factor, rtol=0, atol=BOUND)


def test_turned_coordinates_turn_positions_and_axes_and_nothing_else(scene: tuple[Tensor, Tensor]) -> None:
    """By less than would carry an axis over the rules' border."""
    corrector, pose = _corrector("rotation"), _pose("rotation")
    around = rotation_from_angle(torch.tensor(0.05, dtype=torch.double))
    assert pose.rotation is not None
    before = _run(corrector, pose, *scene)
    turned = Pose(turn(pose.position, around.mT), pose.scale, around @ pose.rotation)
    after = _run(corrector, turned, scene[0], turn(scene[1], around.mT))
    _same_slots(before, after)
    for one, other in zip(before, after):
        assert torch.allclose(
            _frame(other).position, turn(_frame(one).position, around.mT), rtol=0, atol=BOUND
        )
        axes, new = _frame(one).rotation, _frame(other).rotation
        assert axes is not None and new is not None
        assert torch.allclose(new, around @ axes, rtol=0, atol=BOUND)


def test_frames_matter(scene: tuple[Tensor, Tensor]) -> None:
    """The tests above would hold if places went nowhere: moving one slot's frame alone changes it."""
    corrector, pose = _corrector("translation"), _pose("translation")
    moved = pose.position.clone()
    moved[:, 0] += 0.2
    before, after = _run(corrector, pose, *scene), _run(corrector, Pose(moved), *scene)
    assert (before[0].slots - after[0].slots).abs().max() > 1e-3


def test_slots_that_are_told_their_frames_are_not_invariant(scene: tuple[Tensor, Tensor]) -> None:
    corrector, pose = _corrector("translation"), _pose("translation")
    corrector.tell = torch.nn.Linear(D + 2, D).double()
    before = _run(corrector, pose, *scene)
    after = _run(corrector, Pose(pose.position + 0.125), scene[0], scene[1] + 0.125)
    assert (before[0].slots - after[0].slots).abs().max() > 1e-3


def test_equal_slots_in_equal_frames_stay_equal_and_order_is_nothing(scene: tuple[Tensor, Tensor]) -> None:
    corrector, pose = _corrector("rotation"), _pose("rotation")
    slots = torch.randn(B, K, D, dtype=torch.double)
    inputs = corrector.project(torch.cat(scene, -1)[:, None]).frames()[0]
    order = [2, 0, 1]
    one, other = (
        corrector(State(slots, pose), inputs),
        corrector(State(slots[:, order], pose.map(lambda part: part[:, order])), inputs),
    )
    assert torch.allclose(one.slots[:, order], other.slots) and torch.allclose(one.attn[:, order], other.attn)


def test_the_last_round_leaves_slots_and_moves_frames(scene: tuple[Tensor, Tensor]) -> None:
    groups = _run(_corrector("scale"), _pose("scale"), *scene)
    assert len(groups) == 4
    assert torch.equal(groups[-1].slots, groups[-2].slots)
    assert not torch.equal(_frame(groups[-1]).position, _frame(groups[-2]).position)


def test_one_head_only() -> None:
    with pytest.raises(ValueError, match="one head"):
        InvariantSlotAttention(SlotAttention(4, 4, num_heads=2), GridEncoder(4, 4), FITS["scale"])


def test_grid_encoder_equals_its_plain_form_with_gradients() -> None:
    """The folded computation against the perceptron as it stands, near and far from a slot."""
    torch.manual_seed(0)
    encoder = GridEncoder(6, 9).double()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.randn(B, N, 6, dtype=torch.double, requires_grad=True)
    seen = torch.randn(B, K, N, 2, dtype=torch.double) * torch.tensor([0.01, 1.0, 100.0])[:, None, None]
    seen.requires_grad_()
    queries, weights = torch.randn(B, K, 6, dtype=torch.double), torch.rand(B, K, N, dtype=torch.double)
    hidden = encoder.hidden(encoder.lay(tokens), seen)
    folded = encoder.score(hidden, queries), encoder.gather(hidden, weights)
    plain_tokens = torch.stack([encoder(tokens, seen[:, k]) for k in range(K)], 1)
    plain = (plain_tokens * queries[:, :, None]).sum(-1), (plain_tokens * weights[..., None]).sum(-2)
    inputs = [tokens, seen, *encoder.parameters()]
    for ours, theirs in zip(folded, plain):
        assert torch.allclose(ours, theirs, rtol=1e-10)
        ours_grad = torch.autograd.grad(ours.sin().sum(), inputs, retain_graph=True)
        theirs_grad = torch.autograd.grad(theirs.sin().sum(), inputs, retain_graph=True)
        assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-9) for a, b in zip(ours_grad, theirs_grad))


def test_position_and_scale_are_mean_and_deviation() -> None:
    generator = np.random.default_rng(0)
    points, weights = generator.uniform(-1, 1, (1, 50, 2)), generator.uniform(0, 1, (1, 2, 50))
    weights /= weights.sum(-1, keepdims=True)
    pose = invariant.fit_translation_scale(torch.tensor(weights), torch.tensor(points))
    mean = weights @ points
    spread = np.sqrt(np.einsum("bkn,bkni->bki", weights, (points[:, None] - mean[:, :, None]) ** 2))
    assert (
        np.allclose(pose.position, mean)
        and pose.scale is not None
        and np.allclose(pose.scale, spread, atol=1e-6)
    )


def test_scales_stay_in_range() -> None:
    grid = torch.tensor([[[0.0, 0.0], [100.0, 0.0]]])
    pose = invariant.fit_translation_scale(torch.tensor([[[0.5, 0.5]]]), grid)
    assert pose.scale is not None and pose.scale.flatten().tolist() == pytest.approx([2.0, 1e-3])


def _bar(angle: float, length: float = 1.0) -> tuple[Tensor, Tensor]:
    """Evenly weighted points along a thick bar whose length lies at `angle` from x towards y (down)."""
    along, across = torch.meshgrid(
        torch.linspace(-length, length, 21), torch.linspace(-0.1, 0.1, 5), indexing="ij"
    )
    x, y = (
        along * math.cos(angle) - across * math.sin(angle),
        along * math.sin(angle) + across * math.cos(angle),
    )
    points = torch.stack([y, x], -1).view(1, -1, 2)
    return torch.full((1, 1, points.shape[1]), 1 / points.shape[1]), points


@pytest.mark.parametrize("degrees", [-40, -20, -5, 5, 20, 40])
def test_a_flat_bar_turns_the_frame_with_it(degrees: float) -> None:
    weights, points = _bar(math.radians(degrees))
    pose = invariant.fit_translation_rotation_scale(weights, points)
    assert pose.rotation is not None and pose.scale is not None
    first = pose.rotation[0, 0, :, 0]
    assert math.degrees(math.atan2(float(first[1]), float(first[0]))) == pytest.approx(degrees, abs=0.01)
    assert float(pose.scale[0, 0, 1]) > 5 * float(pose.scale[0, 0, 0])


@pytest.mark.parametrize(
    ("degrees", "limit", "expected"), [(70, 45, -20), (-80, 45, 10), (70, 90, 70), (-80, 90, -80)]
)
def test_an_upright_bar_stays_upright_within_45_degrees_and_lies_down_within_90(
    degrees: float, limit: int, expected: float
) -> None:
    weights, points = _bar(math.radians(degrees))
    rotation = invariant.fit_rotation(weights, points[:, None], limit=90 if limit == 90 else 45)
    first = rotation[0, 0, :, 0]
    assert math.degrees(math.atan2(float(first[1]), float(first[0]))) == pytest.approx(expected, abs=0.01)
    assert float(torch.linalg.det(rotation[0, 0])) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("degrees", "expected"), [(0, [[1.0, 0.0], [0.0, 1.0]]), (90, [[0.0, 1.0], [-1.0, 0.0]])]
)
def test_aligned_bars_have_the_pictures_axes(degrees: float, expected: list[list[float]]) -> None:
    weights, points = _bar(math.radians(degrees))
    rotation = invariant.fit_rotation(weights, points[:, None], limit=90)
    assert rotation[0, 0].tolist() == expected
    assert invariant.fit_rotation(weights, points[:, None])[0, 0].tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_slot_without_attention_has_finite_gradients() -> None:
    weights = torch.zeros(1, 1, 4, requires_grad=True)
    pose = invariant.fit_translation_rotation_scale(weights, coordinate_grid(2, 2).view(1, 4, 2))
    invariant.statistics(pose, angle=True).sum().backward()
    assert weights.grad is not None and weights.grad.isfinite().all()


def test_detached_parts_pass_no_gradient() -> None:
    weights = torch.rand(1, 2, 9, requires_grad=True)
    fit = invariant.detached(invariant.fit_translation_rotation_scale, ("position", "rotation"))
    pose = fit(weights, coordinate_grid(3, 3).view(1, 9, 2))
    assert pose.scale is not None and pose.rotation is not None
    assert (pose.position.requires_grad, pose.scale.requires_grad, pose.rotation.requires_grad) == (
        False,
        True,
        False,
    )


def test_first_frame_is_brought_into_range() -> None:
    pose = Pose(torch.tensor([[[3.0, -0.5]]]), torch.tensor([[[-0.2, 9.0]]]))
    start = invariant.first_frame(pose)
    assert start.scale is not None
    assert start.position.flatten().tolist() == [1.0, -0.5]
    assert start.scale.flatten().tolist() == pytest.approx([1e-3, 2.0])
    middle = invariant.first_frame(pose, centered=True, fixed_scale=0.1)
    assert middle.scale is not None
    assert middle.position.tolist() == [[[0.0, 0.0]]] and middle.scale.flatten().tolist() == pytest.approx(
        [0.1, 0.1]
    )


def test_half_precision_keeps_frames_in_full() -> None:
    corrector, pose = _corrector("rotation").float(), _pose("rotation").map(Tensor.float)
    tokens = torch.randn(B, 1, N, C + 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        group = corrector(State(torch.randn(B, K, D), pose), corrector.project(tokens).frames()[0])
    frame = _frame(group)
    assert frame.rotation is not None and frame.position.dtype == frame.rotation.dtype == torch.float32
    eye = torch.eye(2).expand(B, K, 2, 2)
    assert torch.allclose(frame.rotation.mT @ frame.rotation, eye, atol=1e-5)


def _hint(**values: object) -> Conditioning:
    return replace_hint(
        Conditioning(4, torch.device("cpu"), generator=torch.Generator().manual_seed(1)), values
    )


def replace_hint(hint: Conditioning, values: dict) -> Conditioning:
    return hint._replace(**values)


def test_correlated_draws_are_one_number_through_two_distributions() -> None:
    pose = SampledPoses("scale", scales="correlated")(_hint(batch_size=500), 3)
    assert pose.scale is not None and pose.rotation is None
    assert torch.allclose(pose.scale, 0.1 + 0.1 * math.sqrt(2) * torch.erfinv(pose.position))
    assert float(pose.scale.std()) == pytest.approx(0.1, rel=0.05)
    assert (
        SampledPoses("scale", scales="correlated")
        .sample_scale(_hint(), torch.full((1, 1, 2), -1.0))
        .isfinite()
        .all()
    )


def test_independent_draws_are_independent() -> None:
    pose = SampledPoses("rotation")(_hint(batch_size=2000), 3)
    assert pose.scale is not None and pose.rotation is not None
    together = torch.stack([pose.position.flatten(), pose.scale.flatten()])
    assert abs(float(torch.corrcoef(together)[0, 1])) < 0.05
    angle = torch.atan2(pose.rotation[..., 0, 1], pose.rotation[..., 0, 0])
    assert float(angle.abs().max()) <= math.pi / 4 and float(angle.abs().max()) > 0.7
    assert float(pose.position.abs().max()) <= 1 and float(pose.scale.mean()) == pytest.approx(0.1, abs=0.01)


def test_draws_follow_the_generator_and_given_frames_replace_them() -> None:
    initializer = WithPoses(Learned(3, 5), SampledPoses("rotation"))
    one, other = (initializer(_hint()) for _ in range(2))
    assert one.pose is not None and all(torch.equal(a, b) for a, b in zip(one.pose, other.pose))
    given = Pose(torch.zeros(4, 3, 2))
    assert initializer(_hint(pose=given)).pose is given


def test_learned_frames_stay_within_45_degrees() -> None:
    learned = LearnedPoses(3, "rotation")
    assert learned.angle is not None
    torch.nn.init.constant_(learned.angle, 100.0)
    pose = learned(_hint(), 3)
    assert pose.rotation is not None and pose.rotation.shape == (4, 3, 2, 2)
    assert torch.allclose(pose.rotation[0, 0], torch.tensor([[1.0, 1.0], [-1.0, 1.0]]) / math.sqrt(2))
    assert LearnedPoses(3, "translation").scale is None


def test_seen_from_undoes_the_frame() -> None:
    """A point `first` along the first axis and `second` along the second, in units of scale, is seen there."""
    pose = _pose("rotation")
    assert pose.scale is not None and pose.rotation is not None
    second, first = 0.3, -0.7
    xy = pose.rotation @ torch.stack([first * pose.scale[..., 1], second * pose.scale[..., 0]], -1)[..., None]
    points = pose.position + xy.squeeze(-1).flip(-1)
    seen = seen_from(points, pose)
    own = torch.stack([seen[:, k, k] for k in range(K)], 1)
    assert torch.allclose(own, torch.tensor([second, first], dtype=torch.double).expand(B, K, 2))
    assert torch.allclose(seen_from(points, pose, 5.0) * 5, seen)


def test_decoder_draws_a_moved_slot_elsewhere() -> None:
    """Moving frames by one cell moves what a decoder of pixels draws by one pixel, to rounding (1e-5)."""
    side = 9
    position = RelativePosition((side, side), 6)
    slots = torch.randn(2, 6)[:, :, None, None].expand(-1, -1, side, side)
    pose = Pose(torch.rand(2, 2) - 0.5)
    cell = torch.tensor([2 / (side - 1), 0.0])
    before, after = position(slots, pose), position(slots, Pose(pose.position + cell))
    assert torch.allclose(after[:, :, 1:], before[:, :, :-1], atol=1e-5)


@pytest.mark.parametrize("name", ["translation", "scale"])
def test_a_model_paints_shifted_what_it_sees_shifted(name: frames.Invariance) -> None:
    """The whole model on a picture whose places are moved by two pixels: equal slots, moved frames, the picture painted
    two pixels further, to float32's rounding (1e-4)."""
    side, pixels = 9, 2
    config = isa.IsaConfig(
        resolution=(side, side),
        encoder=CnnConfig((6,), (1,)),
        invariance=name,
        num_slots=3,
        slot_size=8,
        decoder=isa.PixelDecoderConfig(grid=(side, side), channels=(8,)),
    )
    torch.manual_seed(0)
    model, step = isa.build(config).eval(), torch.tensor([pixels * 2 / (side - 1), 0.0])
    start = Pose(
        torch.rand(1, 3, 2) * 0.4 - 0.7, None if name == "translation" else torch.full((1, 3, 2), 0.3)
    )
    video = torch.rand(1, 1, 3, side, side)
    with torch.no_grad():
        before = model.encode({"video": video, "pose": start})
        dict(model.named_buffers())["slot_encoder.encoder.position.grid"].add_(step)
        after = model.encode({"video": video, "pose": start._replace(position=start.position + step)})
        painted = [model.decoder.decode(clip).recon["video"] for clip in (before, after)]
    assert before.pose is not None and after.pose is not None
    assert torch.allclose(after.slots, before.slots, atol=1e-4)
    assert torch.allclose(after.pose.position, before.pose.position + step, atol=1e-4)
    assert torch.allclose(painted[1][..., pixels:, :], painted[0][..., :-pixels, :], atol=1e-4)
    assert not torch.allclose(painted[1], painted[0], atol=1e-3)


def test_a_model_without_its_grid_takes_features_for_places() -> None:
    """The slip of some released configurations: frames follow learned channels and leave the picture."""
    config = isa.IsaConfig(
        resolution=(8, 8),
        num_slots=2,
        slot_size=6,
        encoder=CnnConfig((10,), (2,)),
        decoder=isa.CnnDecoderConfig(grid=(4, 4), channels=(4,), strides=(2,)),
    )
    broken = isa.build(replace(config, grid="missing_as_released"))
    right = isa.build(config)
    torch.nn.init.constant_(list(broken.slot_encoder.encoder.parameters())[-1], 3.0)
    video = torch.rand(1, 1, 3, 8, 8)
    assert (
        broken.slot_encoder.tokens(video).shape[-1] == 10 and right.slot_encoder.tokens(video).shape[-1] == 12
    )
    assert torch.equal(right.slot_encoder.tokens(video)[0, 0, :, -2:], coordinate_grid(4, 4).view(-1, 2))
    poses = [model.encode({"video": video}).pose for model in (broken, right)]
    assert poses[1] is not None and float(poses[1].position.detach().abs().max()) <= 1
    assert poses[0] is not None and float(poses[0].position.detach().abs().max()) > 1

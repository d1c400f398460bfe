"""The small SAVi for generated videos: decoder of regions, weights of targets, frames whose mean is taken away."""

from dataclasses import replace

import pytest
import torch

from torchslots.io.errors import UserError
from torchslots.models.layers.position import wave_grid, waves
from torchslots.models.types import Clip, Conditioning, State
from torchslots.recipes.catalog import build_seeded
from torchslots.recipes.savi import RegionDecoderConfig, SaviConfig, savi_sim, savi_sim_small, slots_sim


def small(**changes) -> SaviConfig:
    config = savi_sim().model
    assert isinstance(config, SaviConfig)
    decoder = RegionDecoderConfig(grid=(4, 4), hidden=(16,), appearance_hidden=16)
    return replace(config, resolution=(16, 16), num_slots=4, **{"decoder": decoder, **changes})


def batch(frames: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    boxes = torch.tensor([[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9], [0, 0, 0, 0]]).expand(2, frames, 3, 4)
    return {
        "video": torch.rand(2, frames, 3, 16, 16),
        "flow": torch.rand(2, frames, 3, 16, 16),
        "boxes": boxes,
    }


def test_every_weight_has_a_gradient():
    model = build_seeded(small(), 0)
    sum(model.loss(batch()).values()).backward()  # type: ignore[union-attr]
    still = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert not still


def test_a_cell_decodes_its_own_patch():
    decoder = build_seeded(small(), 0).decoder
    slots = torch.randn(1, 1, 1, 64)
    clip = Clip(slots, slots, slots, None, State(slots[:, 0]))
    with torch.no_grad():
        before = decoder.decode(clip).logits[0, 0, 0]
        decoder.position.grid[1, 2] += 1.0
        changed = decoder.decode(clip).logits[0, 0, 0] != before
    assert before.shape == (16, 16) and changed[4:8, 8:12].any()
    assert changed.sum() == changed[4:8, 8:12].sum()


def test_images_start_as_an_empty_scene():
    with torch.no_grad():
        recon = build_seeded(small(), 0).predict(batch()).recon
    assert (recon["video"] - 0.42).abs().max() < 0.3 and (recon["flow"] - 1).abs().max() < 0.3
    assert recon["video"].mean().item() == pytest.approx(0.42, abs=0.1)


def test_errors_of_targets_are_weighted():
    once, weighted = (
        build_seeded(small(target_weights=weights), 0).loss(batch()) for weights in ((), (20.0, 0.5))
    )
    assert weighted["recon_video"].item() == pytest.approx(20 * once["recon_video"].item(), rel=1e-5)
    assert weighted["recon_flow"].item() == pytest.approx(0.5 * once["recon_flow"].item(), rel=1e-5)


def test_the_encoder_sees_frames_without_their_mean():
    seen = []
    model = build_seeded(small(), 0)
    network = model.slot_encoder.encoder.backbone
    network[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    data = batch()
    model.loss(data)
    assert torch.allclose(seen[0].view(2, 2, 3, 16, 16), (data["video"] - 0.42) / 0.4, atol=1e-5)


def test_waves_of_positions():
    grid = wave_grid(3, 5, frequencies=2)
    assert grid.shape == (3, 5, 10)
    assert grid[0, 4].tolist() == pytest.approx([-1, 1, -1, 1, 0, 0, 0, 0, -1, -1], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": RegionDecoderConfig(grid=(5, 5))}, "no square patches"),
        ({"decoder": RegionDecoderConfig(grid=(4, 8))}, "no square patches"),
        ({"target_weights": (1.0,)}, "one value for each of the 2 targets"),
        ({"frame_statistics": (0.4, 0.0)}, "a deviation over 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        small(**changes)


def test_boxes_enter_as_waves_and_absent_ones_are_the_background():
    start = build_seeded(small(), 0).slot_encoder.initializer
    boxes = torch.tensor([[[0.1, 0.1, 0.4, 0.4], [0, 0, 0, 0], [0.1, 0.1, 0.4, 0.41]]])
    with torch.no_grad():
        state = start(Conditioning(1, torch.device("cpu"), boxes=boxes))
        expected = start.mlp(waves(2 * boxes - 1, 4))  # type: ignore[operator, union-attr]
    assert torch.allclose(state.slots[:, 1:], expected, atol=1e-6) and expected.shape == (1, 3, 64)
    assert state.source.tolist() == [[0, 1, 0, 3]]
    assert torch.equal(state.slots[0, 0], state.slots[0, 2])


def test_small_changes_of_a_box_change_waves_more_than_coordinates():
    one, other = torch.tensor([[0.50]]), torch.tensor([[0.55]])
    assert (waves(2 * one - 1, 4) - waves(2 * other - 1, 4)).norm() > 5 * (2 * one - 2 * other).norm()


@pytest.mark.parametrize("make", [slots_sim, savi_sim_small])
def test_the_sisters_train(make):
    config = make().model
    if config.conditioning == "boxes":
        data = batch() | {name: torch.rand(2, 2, 3, 32, 32) for name in ("video", "flow")}
    else:
        data = {name: torch.rand(2, 2, 3, 64, 64) for name in ("video", "flow")}
    model = build_seeded(config, 0)
    sum(model.loss(data).values()).backward()  # type: ignore[union-attr]
    assert all(value.grad is not None for value in model.parameters())
    assert set(make().data.keys) >= {"video", "flow"}

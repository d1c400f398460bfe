"""The small SAVi for generated videos: decoder of regions, weights of targets, frames whose mean is taken away."""

from dataclasses import replace

import pytest
import torch

from torchslots.io.errors import UserError
from torchslots.models.layers.position import wave_grid
from torchslots.models.types import Clip, State
from torchslots.recipes.catalog import build_seeded
from torchslots.recipes.savi import RegionDecoderConfig, SaviConfig, savi_sim


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

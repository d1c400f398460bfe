"""Figures over the horizon: known answers, the baseline, and memory restarted at slices."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tiny_models import TINY, batch
from tiny_models import tiny as tiny_savi
from torchslots.evaluation.evaluate import evaluate
from torchslots.evaluation.rollout import evaluate_rollout
from torchslots.io.errors import UserError
from torchslots.metrics.labels import segmentation_at
from torchslots.metrics.segmentation import contingency, fg_ari
from torchslots.models.model import ObjectCentricModel, rollout
from torchslots.models.slots.predictors import IdentityPredictor
from torchslots.recipes.config import EvalConfig
from torchslots.recipes.savi import build as build_savi
from torchslots.recipes.statm import StatmConfig, build


def tiny_statm() -> ObjectCentricModel:
    torch.manual_seed(0)
    return build(StatmConfig(TINY)).eval()


def two_batches(frames: int = 8) -> list[dict[str, Tensor]]:
    clip = batch(frames)
    return [clip, {key: value[:1].flip(-1) if key != "boxes" else value[:1] for key, value in clip.items()}]


@pytest.mark.parametrize("make", [tiny_savi, tiny_statm])
@pytest.mark.parametrize("slice_size", [1, 3, 8])
def test_figures_are_those_of_the_rollout(make, slice_size: int) -> None:
    """Whatever the slices: memory grows with none of them."""
    model, observe, batches = make(), 3, two_batches()
    report = evaluate_rollout(model, batches, observe, slice_size=slice_size)
    found = [rollout(model, one, observe, 5) for one in batches]
    truth = torch.cat([one["segmentations"][:, observe:] for one in batches])
    ids = torch.cat([one.segmentation[:, observe:] for one in found])
    tables = contingency(truth, ids, 5)
    assert report.num_videos == 3 and report.observed == observe
    assert report.curves["fg_ari"] == pytest.approx(fg_ari(tables).mean(0).tolist())
    assert report.metrics["fg_ari"] == pytest.approx(float(fg_ari(tables.sum(1)).mean()))
    flow = torch.cat([one["flow"][:, observe:] for one in batches])
    drawn = torch.cat([one.recon["flow"][:, observe:] for one in found]).clamp(0, 1)
    error = (drawn - flow).square().mean((0, 2, 3, 4)).double()
    assert report.curves["psnr_flow"] == pytest.approx((-10 * error.log10()).tolist(), abs=1e-4)
    assert report.metrics["psnr_flow"] == pytest.approx(float(-10 * error.mean().log10()), abs=1e-4)


def test_labels_of_another_size_large_ids_and_ignored_pixels() -> None:
    model, observe, clip = tiny_savi(), 3, batch(6)
    labels = clip["segmentations"].repeat_interleave(2, 2).repeat_interleave(2, 3)
    ignore = torch.zeros_like(labels, dtype=torch.bool)
    ignore[..., :9] = True
    names = torch.tensor([0, 7, 2**30, -4], dtype=torch.int32)
    given = {**clip, "segmentations": names[labels.long()], "ignore": ignore}
    given["padding_mask"] = torch.ones_like(clip["segmentations"], dtype=torch.bool)
    report = evaluate_rollout(model, [given], observe)
    ids = segmentation_at(rollout(model, clip, observe, 3).masks[:, observe:], (32, 48))
    tables = contingency(labels[:, observe:, :, 9:], ids[..., 9:], 5)
    assert report.curves["fg_ari"] == pytest.approx(fg_ari(tables).mean(0).tolist())
    assert report.metrics["fg_ari"] == pytest.approx(float(fg_ari(tables.sum(1)).mean()))


def test_the_baseline_repeats_the_last_observed_frame() -> None:
    model, observe, clip = tiny_savi(), 3, batch(7)
    report = evaluate_rollout(model, [clip], observe, horizon=2)
    last = clip["flow"][:, observe - 1]
    error = [(clip["flow"][:, observe + t] - last).square().mean().double() for t in range(2)]
    assert report.curves["copy_psnr_flow"] == pytest.approx([float(-10 * e.log10()) for e in error], abs=1e-4)
    model.slot_encoder.predictor = IdentityPredictor()
    still = evaluate_rollout(model, [clip], observe, horizon=2)
    assert still.curves["fg_ari"] == pytest.approx(still.curves["copy_fg_ari"])


def test_videos_without_change_do_not_make_figures_infinite() -> None:
    moving, still = batch(4), batch(4)
    still["flow"] = still["flow"][:, :1].expand_as(still["flow"])
    report = evaluate_rollout(tiny_savi(), [moving, still], 2)
    assert all(math.isfinite(value) for value in report.curves["copy_psnr_flow"])


def test_padding_is_left_out() -> None:
    clip = batch(6)
    padded = {key: torch.cat([value, torch.zeros_like(value[:, :2])], 1) for key, value in clip.items()}
    padded["padding_mask"] = torch.ones_like(padded["segmentations"], dtype=torch.bool)
    padded["padding_mask"][:, 6:] = False
    whole, cut = evaluate_rollout(tiny_savi(), [padded], 3), evaluate_rollout(tiny_savi(), [clip], 3)
    for name, curve in cut.curves.items():
        assert whole.curves[name][:3] == pytest.approx(curve), name
        assert all(math.isnan(value) for value in whole.curves[name][3:]), name
        assert whole.metrics[name] == pytest.approx(cut.metrics[name]), name


def test_pictures_of_targets_with_other_channels_and_data_without_masks() -> None:
    model = build_savi(replace(TINY, targets=("depth", "video")))
    clip = batch(4)
    del clip["segmentations"], clip["flow"]
    report = evaluate_rollout(model.eval(), [clip], 2)
    assert set(report.curves) == {"psnr_video", "copy_psnr_video"}


def test_saved(tmp_path: Path) -> None:
    report = evaluate_rollout(tiny_statm(), two_batches(), 4)
    names = {path.name for path in report.save(tmp_path)}
    assert names == {"horizon.json", "horizon_fg_ari.png", "horizon_psnr_flow.png"}
    assert all((tmp_path / name).stat().st_size > 100 for name in names)
    read = json.loads((tmp_path / "horizon.json").read_text())
    assert read["observed"] == 4 and len(read["curves"]["copy_fg_ari"]) == 4


@pytest.mark.parametrize(("observe", "horizon"), [(0, None), (8, None), (5, 4)])
def test_too_few_frames_are_refused(observe: int, horizon: int | None) -> None:
    with pytest.raises(UserError, match="Observe at least 1"):
        evaluate_rollout(tiny_savi(), two_batches(), observe, horizon)


def test_no_videos_are_refused() -> None:
    with pytest.raises(UserError, match="no video"):
        evaluate_rollout(tiny_savi(), [], 2)


def test_memory_restarts_at_slices_on_request() -> None:
    """The published evaluation forgets; by default slices of any size give the same figures."""
    model, clip = tiny_statm(), {**batch(6), "name": ["a", "b"]}

    def figures(size: int, restart: bool) -> dict[str, float]:
        config = EvalConfig(num_frames=6, slice_size=size, restart_memory=restart)
        return evaluate(model, [clip], config, num_plots=0).metrics

    assert figures(2, False) == pytest.approx(figures(6, False))
    assert figures(6, True) == pytest.approx(figures(6, False))
    sliced = [figures(2, restart)["ari"] for restart in (True, False)]
    assert sliced[0] != pytest.approx(sliced[1], abs=1e-6)

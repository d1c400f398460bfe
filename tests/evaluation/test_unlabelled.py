"""Data without masks: reconstruction in place of segmentation."""

from dataclasses import replace

import pytest
import torch

from tiny_models import TINY, batch, tiny
from torchslots.evaluation.evaluate import evaluate
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes.config import EvalConfig
from torchslots.recipes.savi import build

CONFIG = EvalConfig(num_frames=4, slice_size=2)


def _model(target: str) -> ObjectCentricModel:
    torch.manual_seed(0)
    return build(replace(TINY, conditioning="learned", targets=(target,))).eval()


CLIP = {key: value for key, value in batch(4).items() if key in ("video", "flow")}


def test_frames_are_compared_where_there_are_no_masks() -> None:
    model = _model("video")
    report = evaluate(model, [CLIP], CONFIG, num_plots=0)
    assert not report.labelled
    error = (model.predict(CLIP).recon["video"].clamp(0, 1) - CLIP["video"]).square().sum((2, 3, 4)).mean()
    assert report.metrics["mse"] == pytest.approx(float(error), rel=1e-4)


def test_the_loss_is_taken_of_a_decoder_without_frames() -> None:
    model = _model("flow")
    report = evaluate(model, [CLIP], CONFIG, num_plots=0)
    with torch.no_grad():
        losses = {f"loss_{name}": float(value) for name, value in model.loss(CLIP).items()}
    assert losses and report.metrics == pytest.approx(losses, rel=1e-5)


def test_masks_leave_everything_as_it_was() -> None:
    report = evaluate(tiny("learned"), [batch(4)], CONFIG, num_plots=0)
    assert report.labelled and "mse" not in report.metrics
    assert torch.isfinite(torch.tensor(report.metrics["ari"]))

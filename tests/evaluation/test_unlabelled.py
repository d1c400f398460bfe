"""Data without masks: reconstruction in place of segmentation."""

import pytest
import torch

from tiny_models import batch, tiny
from torchslots.evaluation.evaluate import evaluate
from torchslots.recipes.config import EvalConfig

CONFIG = EvalConfig(num_frames=4, slice_size=2)


def test_frames_are_compared_where_there_are_no_masks() -> None:
    model = tiny("learned")
    clip = {key: value for key, value in batch(4).items() if key in ("video", "flow")}
    model.decoder.targets = ("video", *model.decoder.targets[1:]) if model.decoder.targets else ()
    report = evaluate(model, [clip], CONFIG, num_plots=0)
    assert not report.labelled
    if "video" in model.predict(clip).recon:
        error = (
            (model.predict(clip).recon["video"].clamp(0, 1) - clip["video"]).square().sum((2, 3, 4)).mean()
        )
        assert report.metrics["mse"] == pytest.approx(float(error), rel=1e-4)
    else:
        assert report.metrics == pytest.approx({f"loss_{k}": float(v) for k, v in model.loss(clip).items()})


def test_masks_leave_everything_as_it_was() -> None:
    report = evaluate(tiny("learned"), [batch(4)], CONFIG, num_plots=0)
    assert report.labelled and "mse" not in report.metrics
    assert torch.isfinite(torch.tensor(report.metrics["ari"]))

"""Evaluation of set prediction: average precision over all images, tables and pictures."""

import json

import numpy as np
import pytest
import torch

from torchslots.evaluation.evaluate import evaluate
from torchslots.evaluation.report import format_figure
from torchslots.metrics.set_prediction import average_precision
from torchslots.recipes.config import EvalConfig
from torchslots.recipes.slot_attention import SetPredictionConfig, SlotAttentionConfig, build

CONFIG = EvalConfig(num_frames=1, slice_size=1, batch_size=3)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(
        SlotAttentionConfig(
            resolution=(16, 24),
            channels=(8, 8),
            strides=(1, 2),
            token_hidden=8,
            token_size=8,
            slot_size=8,
            mlp_size=12,
            num_slots=4,
            decoder=SetPredictionConfig(hidden=8),
        )
    )


def drawn(batch: dict, seed: int) -> dict:
    """The batch with its own source of random slots."""
    return {**batch, "generator": torch.Generator().manual_seed(seed)}


def batches(model, count: int = 3) -> list[dict]:
    """Images whose true objects are what the model says of them, moved a little."""
    random, found = torch.Generator().manual_seed(1), []
    for index in range(count):
        batch = {
            "video": torch.rand(3, 1, 3, 16, 24, generator=random),
            "name": [f"image {3 * index + row}" for row in range(3)],
        }
        true = model.predict(drawn(batch, index)).properties.clone()
        true[..., :3] += 0.05 * torch.rand(3, 1, 4, 3, generator=random)
        true[..., -1] = (torch.rand(3, 1, 4, generator=random) > 0.3).float()
        found.append({**batch, "properties": true})
    return found


def test_scores_tables_and_pictures(model, tmp_path):
    data = batches(model)
    report = evaluate(model, [drawn(batch, index) for index, batch in enumerate(data)], CONFIG, num_plots=2)
    said = [model.predict(drawn(batch, index)).properties[:, 0] for index, batch in enumerate(data)]
    predicted = torch.cat(said).numpy()
    true = torch.cat([batch["properties"][:, 0] for batch in data]).numpy()
    expected = average_precision(predicted, true)
    found = [report.metrics[name] for name in ("ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125")]
    np.testing.assert_allclose(found, expected)
    assert expected[0] > 0.2 and expected[0] > expected[-1]
    assert format_figure("ap_inf", 0.5) == "50.0 %"
    written = {path.name for path in report.save(tmp_path)}
    assert {"properties_0.png", "properties_1.png", "properties.md", "video_0.png"} <= written
    text = (tmp_path / "properties.md").read_text()
    assert "## image 0" in text and "## image 1" in text and "| right |" in text
    assert "ap_inf" in json.loads((tmp_path / "eval.json").read_text())["definitions"]


def test_without_truth_there_are_predictions_alone(model, tmp_path):
    data = [
        {key: value for key, value in batch.items() if key != "properties"} for batch in batches(model, 1)
    ]
    report = evaluate(model, data, CONFIG, num_plots=1)
    assert not any(name.startswith("ap_") for name in report.metrics)
    assert (tmp_path / "properties_0.png") in report.save(tmp_path)

"""A run's log of held-out data: losses in every evaluation, attention maps, and the model of the lowest loss."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchslots.io.run_log import read_log
from torchslots.recipes import catalog
from torchslots.training import loop
from torchslots.training.log import RunLog
from training.two_steps import MODELS, Clips, recipe


def test_held_out_losses_and_attention_are_logged_and_choose_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: dict[str, list[Any]] = {}
    monkeypatch.setattr(
        RunLog, "image", lambda self, step, name, pixels: images.setdefault(name, []).append(pixels)
    )
    chosen = recipe("steve", steps=4)
    train = replace(chosen.train, eval_every=1, best_metric="loss", precision="fp16")
    chosen = replace(chosen, train=train, data=replace(chosen.data, num_frames=1))
    model = catalog.build_seeded(MODELS["steve"], 0)
    result = loop.train(chosen, model, Clips(), Clips(), tmp_path / "run", device="cpu", num_plots=2)
    records = [record for record in read_log(tmp_path / "run") if "eval/fg_ari" in record]
    losses = [record["eval/loss"] for record in records]
    assert len(losses) == 4 and losses == [record["eval/loss_tokens"] for record in records]
    assert result.best == min(losses) and result.best_step == 1 + losses.index(min(losses))
    clips = [
        Clips().sample(index, None)["video"][None, frame : frame + 1] for index in (0, 1) for frame in (0, 1)
    ]
    with torch.no_grad():
        last = [float(model.eval().loss({"video": clip, "step": 4})["tokens"]) for clip in clips]
    assert losses[-1] == pytest.approx(np.mean(last), rel=1e-4)
    assert len(images["eval/attention"]) == 4
    assert all(sheet.dtype == np.uint8 and sheet.shape[1] >= 4 * 128 for sheet in images["eval/attention"])

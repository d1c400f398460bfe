import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from torchslots.evaluation import evaluate as passes
from torchslots.hub import load_model
from torchslots.io.run_log import read_log
from torchslots.models.types import Batch
from torchslots.recipes import catalog, savi
from torchslots.recipes.config import EvalConfig, Recipe
from torchslots.training import checkpoint, loop
from torchslots.training.stops import Interrupted
from training.tiny_run import (
    TinyClips,
    TinyModel,
    TinyReport,
    fit,
    logged,
    same,
    send,
    tiny_evaluate,
    tiny_recipe,
    train,
    weights,
)


@pytest.fixture(autouse=True)
def _quick_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "evaluate", tiny_evaluate)


def test_first_update_has_rate_zero_and_later_ones_learn(tmp_path: Path) -> None:
    start = TinyModel().state_dict()
    assert same(fit(1, tmp_path / "one"), start)
    train(tiny_recipe(60), tmp_path / "long", model=TinyModel(noise=0.0))
    losses = [record["train/loss"] for record in read_log(tmp_path / "long")]
    assert np.mean(losses[-5:]) < 0.2 * losses[0]


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    recipe = tiny_recipe(12, ema=0.9, accumulation=2, eval_every=3)
    train(recipe, tmp_path / "whole", eval_set=TinyClips(5))
    for item, number, code in ((4 * 4 + 1, signal.SIGTERM, 143), (4 * 3, signal.SIGINT, 130)):
        with pytest.raises(Interrupted, match="Give the same command again") as stop:
            clips = TinyClips(events={item: send(number)})
            train(recipe, tmp_path / "parts", clips, eval_set=TinyClips(5))
        assert stop.value.exit_code == code
    result = train(recipe, tmp_path / "parts", eval_set=TinyClips(5))
    assert result.step == 12
    whole, parts = (checkpoint.latest(tmp_path / name, print) for name in ("whole", "parts"))
    assert whole is not None and parts is not None and parts.state == whole.state
    assert same(whole.model, parts.model) and same(whole.training, parts.training)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")


def test_signals_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        train(tiny_recipe(), tmp_path, TinyClips(events={2: send(signal.SIGTERM)}))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_stop_during_an_evaluation_leaves_it_and_makes_up_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(6, eval_every=3)
    train(recipe, tmp_path / "whole", eval_set=TinyClips(7))

    def stopped(model: Any, batches: Any, config: Any, **keywords: Any) -> TinyReport:
        next(batches)
        os.kill(os.getpid(), signal.SIGTERM)
        return tiny_evaluate(model, batches, config, **keywords)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="after step 3 of 6"):
        patch.setattr(passes, "evaluate", stopped)
        train(recipe, tmp_path / "parts", eval_set=TinyClips(7))
    assert "eval/fg_ari" not in read_log(tmp_path / "parts")[-1]
    train(recipe, tmp_path / "parts", eval_set=TinyClips(7))
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")
    assert read_log(tmp_path / "parts")[2]["eval/videos"] == 7


def test_evaluating_changes_nothing_in_training(tmp_path: Path) -> None:
    train(tiny_recipe(8), tmp_path / "without")
    train(tiny_recipe(8, eval_every=2), tmp_path / "with", eval_set=TinyClips(5))
    assert same(weights(tmp_path / "without"), weights(tmp_path / "with"))


def test_a_run_whose_time_is_over_is_one_of_the_steps_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe(9, eval_every=5, log_every=2)
    now = iter([0.0, 1.0, 2.0, 3.0, 11.0])  # when training starts, and after each step
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(now)))
    ended = train(recipe, tmp_path / "timed", eval_set=TinyClips(5), seconds=10.0)
    assert ended.step == 4 and ended.metrics["videos"] == 5
    assert "The time is over: 4 of 9 steps are done" in capsys.readouterr().err
    assert json.loads((tmp_path / "timed" / "recipe.json").read_text())["optim"]["num_steps"] == 4
    shorter = replace(recipe, optim=replace(recipe.optim, num_steps=4))
    again = train(shorter, tmp_path / "timed", eval_set=TinyClips(5))
    assert again == ended and "is finished: 4 steps" in capsys.readouterr().err
    whole = train(
        tiny_recipe(9, eval_every=5, log_every=2), tmp_path / "whole", eval_set=TinyClips(5), seconds=None
    )
    assert whole.step == 9


def test_a_finished_run_says_so_and_reads_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(tiny_recipe(3, eval_every=2), tmp_path, eval_set=TinyClips(5))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    clips, model = TinyClips(), TinyModel(seed=5)
    again = train(tiny_recipe(3, eval_every=2), tmp_path, clips, eval_set=TinyClips(5), model=model)
    assert again == first and again.metrics["videos"] == 5 and clips.read == 0
    assert "is finished: 3 steps done" in capsys.readouterr().err
    assert same(model.state_dict(), weights(tmp_path))
    assert {
        path: path.stat().st_mtime_ns for path in files if path.name != "recipe.json"
    }.items() <= files.items()


def test_accumulation_and_the_whole_batch_agree(tmp_path: Path) -> None:
    runs = {}
    for parts in (1, 2, 4):
        recipe = tiny_recipe(10, batch_size=8, accumulation=parts)
        train(recipe, tmp_path / str(parts), model=TinyModel(noise=0.0))
        runs[parts] = weights(tmp_path / str(parts))
    for parts in (2, 4):
        for name, weight in runs[1].items():
            torch.testing.assert_close(runs[parts][name], weight, rtol=1e-5, atol=1e-6)


def test_best_is_kept_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.1, 0.7, 0.3, float("nan"), 0.5, 0.6])

    def scripted(*arguments: Any, **keywords: Any) -> TinyReport:
        return replace(tiny_evaluate(*arguments, **keywords), metrics={"fg_ari": next(values)})

    monkeypatch.setattr(passes, "evaluate", scripted)
    recipe = tiny_recipe(12, eval_every=2, checkpoint_every=3, keep=2)
    result = train(recipe, tmp_path, eval_set=TinyClips(5), num_plots=3)
    assert (result.best, result.best_step, result.metrics["fg_ari"]) == (0.7, 4, 0.6)
    assert checkpoint.list_steps(tmp_path) == [4, 9, 12]
    best = checkpoint.read(tmp_path / "checkpoints" / "step_0000004")
    assert same(load_file(tmp_path / "best" / "model.safetensors"), best.model)
    assert not same(best.model, weights(tmp_path))
    shown = [record.get("eval/fg_ari") for record in read_log(tmp_path) if "eval/fg_ari" in record]
    assert shown == [0.1, 0.7, 0.3, None, 0.5, 0.6]
    picture = np.asarray(Image.open(tmp_path / "pictures" / "step_4.png"))
    assert (
        picture.shape == (18, 8, 3)
        and picture[0, 0, 0] == 100
        and picture[-1, 0, 0] == 102
        and picture[-1, -1, 0] == 0
    )


def test_the_average_is_judged_and_shipped(tmp_path: Path) -> None:
    train(tiny_recipe(8, ema=0.5), tmp_path)
    found = checkpoint.latest(tmp_path, print)
    assert found is not None
    averaged = {
        name[15:]: value for name, value in found.training.items() if name.startswith("average/module.")
    }
    assert same(averaged, weights(tmp_path)) and not same(found.model, weights(tmp_path))


def test_data_without_masks_have_no_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "evaluate", lambda *arguments, **keywords: TinyReport({}, []))
    result = train(tiny_recipe(3), tmp_path, eval_set=TinyClips(2))
    assert (result.metrics, result.best, result.best_step) == ({}, None, None)
    assert not (tmp_path / "best").exists()


def test_bf16_keeps_weights_in_fp32_and_learns_alike(tmp_path: Path) -> None:
    train(tiny_recipe(20, precision="bf16"), tmp_path / "bf16", model=TinyModel(0.0))
    train(tiny_recipe(20), tmp_path / "fp32", model=TinyModel(0.0))
    low, full = (read_log(tmp_path / name)[-1]["train/recon"] for name in ("bf16", "fp32"))
    assert low != full and low == pytest.approx(full, rel=0.2)
    assert all(weight.dtype == torch.float32 for weight in weights(tmp_path / "bf16").values())


class _Squares:
    """Clips of one square that moves over a dark ground, with all that SAVi asks for."""

    def __len__(self) -> int:
        return 5

    def name(self, index: int) -> str:
        return f"square {index}"

    def sample(self, index: int, rng: np.random.Generator | None) -> Batch:
        frames = 2 if rng else 5
        ids, boxes = torch.zeros(frames, 16, 16, dtype=torch.int32), torch.zeros(frames, 2, 4)
        for frame in range(frames):
            left = index + frame
            ids[frame, 4:9, left : left + 5] = 1
            boxes[frame, 0] = torch.tensor([4, left, 9, left + 5]) / 16
        video = (ids == 1).float()[:, None].repeat(1, 3, 1, 1)
        extra = {
            "flow": 1 - video,
            "padding_mask": torch.ones_like(ids, dtype=torch.bool),
            "name": self.name(index),
        }
        return {"video": video, "segmentations": ids, "boxes": boxes, **extra}


def test_a_savi_is_trained_judged_drawn_saved_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    small = savi.DecoderConfig(grid=(4, 4), channels=(8, 8), strides=(2, 2))
    config = savi.SaviConfig(
        (16, 16), savi.CnnConfig((8, 8), (2, 1)), slot_size=16, qkv_size=16, decoder=small
    )
    settings = EvalConfig(num_frames=5, slice_size=2, batch_size=2)
    recipe = replace(tiny_recipe(4, eval_every=2, ema=0.5), model=config, evaluation=settings)
    for name, stops in (("whole", []), ("parts", [True])):
        for _ in stops:
            with pytest.raises(Interrupted):
                monkeypatch.setattr(_Squares, "name", _stopping(_Squares.name, after=10))
                _train_savi(recipe, tmp_path / name)
            monkeypatch.undo()
        _train_savi(recipe, tmp_path / name)
    whole, parts = (load_model(tmp_path / name) for name in ("whole", "parts"))
    assert same(whole.state_dict(), parts.state_dict())
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")
    last = logged(tmp_path / "parts")[-1]
    assert {"train/loss", "eval/fg_ari", "eval/ari"} <= set(last)
    assert (tmp_path / "parts" / "pictures" / "step_4.png").exists()


def _train_savi(recipe: Recipe, run: Path) -> None:
    model = catalog.build_seeded(recipe.model, 0)
    loop.train(recipe, model, _Squares(), _Squares(), run, device="cpu", num_plots=1)


def _stopping(name: Any, after: int) -> Any:
    """Sends a signal at one of the calls."""
    calls = iter(range(10**6))

    def stopping(self: Any, index: int) -> str:
        if next(calls) == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return name(self, index)

    return stopping

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_run import TinyClips, TinyModel, TinyReport, tiny_evaluate, tiny_recipe, weights
from torch import Tensor

from torchslots.errors import UserError
from torchslots.training import checkpoint, loop
from torchslots.training.interrupt import Interrupted
from torchslots.training.log import read_log
from torchslots.training.recipe import Recipe
from torchslots.training.step import TrainStep

TIMES = {"time", "train/seconds_per_step", "train/seconds_waiting_for_data"}


@pytest.fixture(autouse=True)
def _quick_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "evaluate", tiny_evaluate)


def _train(recipe: Recipe, run: Path, clips: TinyClips | None = None, **keywords: Any) -> loop.RunResult:
    keywords = {"eval_set": None, "model": TinyModel(), **keywords}
    model, eval_set = keywords.pop("model"), keywords.pop("eval_set")
    return loop.train(recipe, model, clips or TinyClips(), eval_set, run, device="cpu", **keywords)


def _signal(number: int) -> Any:
    """A data set's event: the process gets a signal while it reads this item."""

    def send(video: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), number)
        return video

    return send


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _logged(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key not in TIMES} for record in read_log(run)]


def _fit(steps: int, run: Path, **keywords: Any) -> dict[str, Tensor]:
    _train(tiny_recipe(steps), run, **keywords)
    return weights(run)


def test_first_update_has_rate_zero_and_later_ones_learn(tmp_path: Path) -> None:
    start = TinyModel().state_dict()
    assert _same(_fit(1, tmp_path / "one"), start)
    _train(tiny_recipe(60), tmp_path / "long", model=TinyModel(noise=0.0))
    losses = [record["train/loss"] for record in read_log(tmp_path / "long")]
    assert np.mean(losses[-5:]) < 0.2 * losses[0]


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    recipe = tiny_recipe(12, ema=0.9, accumulation=2, eval_every=3)
    _train(recipe, tmp_path / "whole", eval_set=TinyClips(5))
    for item, number, code in ((4 * 4 + 1, signal.SIGTERM, 143), (4 * 3, signal.SIGINT, 130)):
        with pytest.raises(Interrupted, match="Give the same command again") as stop:
            clips = TinyClips(events={item: _signal(number)})
            _train(recipe, tmp_path / "parts", clips, eval_set=TinyClips(5))
        assert stop.value.exit_code == code
    result = _train(recipe, tmp_path / "parts", eval_set=TinyClips(5))
    assert result.step == 12
    whole, parts = (checkpoint.latest(tmp_path / name, print) for name in ("whole", "parts"))
    assert whole is not None and parts is not None and parts.state == whole.state
    assert _same(whole.model, parts.model) and _same(whole.training, parts.training)
    assert _same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert _logged(tmp_path / "whole") == _logged(tmp_path / "parts")


def test_signals_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        _train(tiny_recipe(), tmp_path, TinyClips(events={2: _signal(signal.SIGTERM)}))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_stop_during_an_evaluation_leaves_it_and_makes_up_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(6, eval_every=3)
    _train(recipe, tmp_path / "whole", eval_set=TinyClips(7))

    def stopped(model: Any, batches: Any, config: Any, **keywords: Any) -> TinyReport:
        next(batches)
        os.kill(os.getpid(), signal.SIGTERM)
        return tiny_evaluate(model, batches, config, **keywords)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="after step 3 of 6"):
        patch.setattr(loop, "evaluate", stopped)
        _train(recipe, tmp_path / "parts", eval_set=TinyClips(7))
    assert "eval/fg_ari" not in read_log(tmp_path / "parts")[-1]
    _train(recipe, tmp_path / "parts", eval_set=TinyClips(7))
    assert _logged(tmp_path / "whole") == _logged(tmp_path / "parts")
    assert read_log(tmp_path / "parts")[2]["eval/videos"] == 7


def test_evaluating_changes_nothing_in_training(tmp_path: Path) -> None:
    _train(tiny_recipe(8), tmp_path / "without")
    _train(tiny_recipe(8, eval_every=2), tmp_path / "with", eval_set=TinyClips(5))
    assert _same(weights(tmp_path / "without"), weights(tmp_path / "with"))


def test_a_finished_run_says_so_and_reads_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = _train(tiny_recipe(3, eval_every=2), tmp_path, eval_set=TinyClips(5))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    clips, model = TinyClips(), TinyModel(seed=5)
    again = _train(tiny_recipe(3, eval_every=2), tmp_path, clips, eval_set=TinyClips(5), model=model)
    assert again == first and again.metrics["videos"] == 5 and clips.read == 0
    assert "is finished: 3 steps are done" in capsys.readouterr().err
    assert _same(model.state_dict(), weights(tmp_path))
    assert {
        path: path.stat().st_mtime_ns for path in files if path.name != "recipe.json"
    }.items() <= files.items()


def test_accumulation_and_the_whole_batch_agree(tmp_path: Path) -> None:
    runs = {}
    for parts in (1, 2, 4):
        recipe = tiny_recipe(10, batch_size=8, accumulation=parts)
        _train(recipe, tmp_path / str(parts), model=TinyModel(noise=0.0))
        runs[parts] = weights(tmp_path / str(parts))
    for parts in (2, 4):
        for name, weight in runs[1].items():
            torch.testing.assert_close(runs[parts][name], weight, rtol=1e-5, atol=1e-6)


def test_best_is_kept_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.1, 0.7, 0.3, float("nan"), 0.5, 0.6])

    def judged(*arguments: Any, **keywords: Any) -> TinyReport:
        return replace(tiny_evaluate(*arguments, **keywords), metrics={"fg_ari": next(values)})

    monkeypatch.setattr(loop, "evaluate", judged)
    recipe = tiny_recipe(12, eval_every=2, checkpoint_every=3, keep=2)
    result = _train(recipe, tmp_path, eval_set=TinyClips(5), draw=3)
    assert (result.best, result.best_step, result.metrics["fg_ari"]) == (0.7, 4, 0.6)
    assert checkpoint.list_steps(tmp_path) == [4, 9, 12]
    best = checkpoint.read(tmp_path / "checkpoints" / "step_0000004")
    assert _same(load_file(tmp_path / "best" / "model.safetensors"), best.model)
    assert not _same(best.model, weights(tmp_path))
    shown = [record.get("eval/fg_ari") for record in read_log(tmp_path) if "eval/fg_ari" in record]
    assert shown == [0.1, 0.7, 0.3, None, 0.5, 0.6]
    picture = np.asarray(Image.open(tmp_path / "pictures" / "step_4.png"))
    assert picture.shape == (18, 8, 3) and picture[0, 0, 0] == 100 and picture[-1, 0, 0] == 102


def test_the_average_is_judged_and_shipped(tmp_path: Path) -> None:
    _train(tiny_recipe(8, ema=0.5), tmp_path)
    found = checkpoint.latest(tmp_path, print)
    assert found is not None
    averaged = {
        name[15:]: value for name, value in found.training.items() if name.startswith("average/module.")
    }
    assert _same(averaged, weights(tmp_path)) and not _same(found.model, weights(tmp_path))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path: Path, bad: float) -> None:
    with pytest.raises(
        UserError, match=r"Step 6 stopped.*`recon` is (nan|inf).*rate 0\.0.*lower optim"
    ) as error:
        _train(tiny_recipe(), tmp_path, TinyClips(events={5 * 4 + 2: lambda video: video * bad}))
    file = tmp_path / "nonfinite_batch_step_6.safetensors"
    assert str(file) in str(error.value)
    video = load_file(file)["video"]
    assert [bool(clip.isfinite().all()) for clip in video] == [True, True, False, True]
    assert checkpoint.list_steps(tmp_path) == [4]
    _train(tiny_recipe(), tmp_path)
    assert _same(weights(tmp_path), _fit(12, tmp_path / "other"))


def test_weights_are_those_from_before_a_bad_step(tmp_path: Path) -> None:
    model = TinyModel()
    with pytest.raises(UserError, match="Step 3 stopped"):
        _train(
            tiny_recipe(), tmp_path / "a", TinyClips(events={8: lambda video: video * np.nan}), model=model
        )
    _, second = (TinyModel(), TinyModel())
    with pytest.raises(Interrupted, match="after step 2 "):
        _train(tiny_recipe(), tmp_path / "b", TinyClips(events={7: _signal(signal.SIGINT)}), model=second)
    assert _same(model.state_dict(), second.state_dict())


def test_a_full_disk_stops_with_the_earlier_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint._fill

    def full(folder: Path, state: checkpoint.RunState, *tensors: Any) -> None:
        if state.step == 8:
            raise OSError(28, "No space left on device")
        save(folder, state, *tensors)

    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"step_0000008: No space left on device"),
    ):
        patch.setattr(checkpoint, "_fill", full)
        _train(tiny_recipe(), tmp_path / "run")
    assert checkpoint.list_steps(tmp_path / "run") == [4]
    assert _same(_fit(12, tmp_path / "run"), _fit(12, tmp_path / "other"))


def test_a_cut_checkpoint_falls_back_and_loses_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Interrupted):
        _train(tiny_recipe(), tmp_path / "run", TinyClips(events={9 * 4: _signal(signal.SIGTERM)}))
    assert checkpoint.list_steps(tmp_path / "run") == [8, 10]
    file = tmp_path / "run" / "checkpoints" / "step_0000010" / "training.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    again = _fit(12, tmp_path / "run")
    told = capsys.readouterr().err
    assert str(file) in told and "Resuming" in told and "after step 8" in told
    assert _same(again, _fit(12, tmp_path / "other"))
    assert _logged(tmp_path / "run") == _logged(tmp_path / "other")


def test_another_recipe_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    _train(tiny_recipe(2), tmp_path)
    with pytest.raises(UserError, match=r"optim\.num_steps was 2, now 3; train\.seed was 42, now 7"):
        _train(tiny_recipe(3, seed=7), tmp_path)


def test_another_model_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    _train(tiny_recipe(2), tmp_path)
    model = TinyModel()
    model.net[2] = torch.nn.Linear(8, 4)
    with pytest.raises(UserError, match=r"step_0000002: the weights belong to another model.*`net\.2"):
        _train(tiny_recipe(2), tmp_path, model=model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 6, "accumulation": 4}, "divisible by 4"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"keep": 0}, "at least 1"),
        ({"seed": -1}, "train.seed"),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _train(tiny_recipe(**settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_metric_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no metric `ap`.*fg_ari, videos"):
        _train(tiny_recipe(2), tmp_path, eval_set=TinyClips(2), monitor="ap")


def test_devices_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, message in (("cuda", "No CUDA device"), ("gpu", "cpu or cuda")):
        with pytest.raises(UserError, match=message):
            loop.train(tiny_recipe(2), TinyModel(), TinyClips(), None, tmp_path, device=device)


def test_bf16_keeps_weights_in_fp32_and_learns_alike(tmp_path: Path) -> None:
    _train(tiny_recipe(20, precision="bf16"), tmp_path / "bf16", model=TinyModel(0.0))
    _train(tiny_recipe(20), tmp_path / "fp32", model=TinyModel(0.0))
    low, full = (read_log(tmp_path / name)[-1]["train/recon"] for name in ("bf16", "fp32"))
    assert low != full and low == pytest.approx(full, rel=0.2)
    assert all(weight.dtype == torch.float32 for weight in weights(tmp_path / "bf16").values())


def test_draws_follow_from_seed_step_and_process_alone() -> None:
    recipe = tiny_recipe()
    batch = {"video": torch.rand(4, 2, 3, 4, 4), "name": ["a"] * 4}
    first = TrainStep(TinyModel(), recipe.optim, recipe.train, "cpu")(5, batch).losses
    torch.rand(7)
    again = TrainStep(TinyModel(), recipe.optim, recipe.train, "cpu")(5, batch).losses
    later = TrainStep(TinyModel(), recipe.optim, recipe.train, "cpu")(6, batch).losses
    assert first["recon"] == again["recon"] != later["recon"]


def test_kill_loses_only_the_steps_since_the_last_checkpoint(tmp_path: Path) -> None:
    arguments = {"run": str(tmp_path / "run"), "steps": 400, "sleep": 0.002, "checkpoint_every": 2}
    program = Path(__file__).with_name("tiny_run.py")
    process = subprocess.Popen(
        [sys.executable, str(program), json.dumps([arguments])], stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 60
        while not checkpoint.list_steps(tmp_path / "run") and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.13)
    finally:
        process.kill()
        process.wait()
    found = checkpoint.latest(tmp_path / "run", lambda message: pytest.fail(message))
    assert found is not None
    logged = [record["step"] for record in read_log(tmp_path / "run")]
    assert 2 <= found.state.step < 400 and logged[-1] <= found.state.step + 2
    recipe = tiny_recipe(400, checkpoint_every=2)
    with pytest.raises(Interrupted):
        _train(recipe, tmp_path / "run", TinyClips(events={4: _signal(signal.SIGTERM)}))
    resumed = checkpoint.latest(tmp_path / "run", print)
    with pytest.raises(Interrupted):
        item = 4 * (found.state.step + 1)
        _train(recipe, tmp_path / "whole", TinyClips(events={item: _signal(signal.SIGTERM)}))
    whole = checkpoint.latest(tmp_path / "whole", print)
    assert resumed is not None and whole is not None and whole.state.step == resumed.state.step
    assert _same(resumed.model, whole.model) and _same(resumed.training, whole.training)

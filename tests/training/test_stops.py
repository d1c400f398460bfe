import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from forked import Forked
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.evaluation import evaluate as passes
from torchslots.io.errors import UserError
from torchslots.io.run_log import read_log
from torchslots.training import checkpoint, loop
from torchslots.training.stops import Interrupted
from torchslots.training.validation import SkippedRecords
from training.tiny_run import (
    TinyClips,
    TinyModel,
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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path: Path, bad: float) -> None:
    with pytest.raises(
        UserError, match=r"Step 6 stopped.*`recon` is (nan|inf).*rate 0\.0.*lower optim"
    ) as error:
        train(tiny_recipe(), tmp_path, TinyClips(events={5 * 4 + 2: lambda video: video * bad}))
    file = tmp_path / "nonfinite_batch_step_6.safetensors"
    assert str(file) in str(error.value)
    video = load_file(file)["video"]
    assert [bool(clip.isfinite().all()) for clip in video] == [True, True, False, True]
    assert checkpoint.list_steps(tmp_path) == [4]
    train(tiny_recipe(), tmp_path)
    assert same(weights(tmp_path), fit(12, tmp_path / "other"))


def test_a_stop_during_the_last_evaluation_ends_the_command_and_keeps_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped_late(*arguments: Any, **keywords: Any) -> Any:
        report = tiny_evaluate(*arguments, **keywords)
        signal.raise_signal(signal.SIGINT)
        return report

    monkeypatch.setattr(passes, "evaluate", stopped_late)
    recipe, handler = tiny_recipe(2, eval_every=2), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=r"after the last of 2 steps: .* is finished") as caught:
        train(recipe, tmp_path, eval_set=TinyClips(5))
    assert caught.value.exit_code == 130 and signal.getsignal(signal.SIGINT) is handler
    clips = TinyClips()
    assert train(recipe, tmp_path, clips, eval_set=TinyClips(5)).metrics["videos"] == 5 and clips.read == 0


def test_weights_are_those_from_before_a_bad_step(tmp_path: Path) -> None:
    model = TinyModel()
    with pytest.raises(UserError, match="Step 3 stopped"):
        train(tiny_recipe(), tmp_path / "a", TinyClips(events={8: lambda video: video * np.nan}), model=model)
    _, second = (TinyModel(), TinyModel())
    with pytest.raises(Interrupted, match="after step 2 "):
        train(tiny_recipe(), tmp_path / "b", TinyClips(events={7: send(signal.SIGINT)}), model=second)
    assert same(model.state_dict(), second.state_dict())


def test_bad_data_stop_a_run_without_losing_a_step(tmp_path: Path) -> None:
    def corrupt(video: np.ndarray) -> np.ndarray:
        raise CorruptRecord(tmp_path / "shard", 3, "its checksum is wrong")

    with pytest.raises(CorruptRecord):
        train(tiny_recipe(), tmp_path / "run", TinyClips(events={6 * 4: corrupt}))
    assert checkpoint.list_steps(tmp_path / "run") == [4, 6]
    assert same(fit(12, tmp_path / "run"), fit(12, tmp_path / "other"))


def test_a_record_that_is_left_out_twice_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = SkippedRecords(True)
    for record in (3, 4, 3):
        skipped(CorruptRecord(Path("shard"), record, "its checksum is wrong"))
    told = capsys.readouterr().err.splitlines()
    assert (
        skipped.count == len(told) == 2 and "Left out (2 so far): shard" in told[1] and "checksum" in told[1]
    )


def test_damaged_records_may_be_left_out_and_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def corrupt(video: np.ndarray) -> np.ndarray:
        raise CorruptRecord(tmp_path / "shard", next(records), "its checksum is wrong")

    records = iter((3, 4))
    clips = TinyClips(events=dict.fromkeys((5, 9), corrupt))
    result = train(tiny_recipe(4), tmp_path / "run", clips, skip_corrupt=True)
    assert result.step == 4 and read_log(tmp_path / "run")[-1]["train/skipped_records"] == 2
    assert "Left out (2 so far)" in capsys.readouterr().err


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
        pytest.raises(UserError, match=r"step_0000008 cannot be written: No space left on device"),
    ):
        patch.setattr(checkpoint, "_fill", full)
        train(tiny_recipe(), tmp_path / "run")
    assert checkpoint.list_steps(tmp_path / "run") == [4]
    assert same(fit(12, tmp_path / "run"), fit(12, tmp_path / "other"))


def test_a_cut_checkpoint_falls_back_and_loses_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Interrupted):
        train(tiny_recipe(), tmp_path / "run", TinyClips(events={9 * 4: send(signal.SIGTERM)}))
    assert checkpoint.list_steps(tmp_path / "run") == [8, 10]
    file = tmp_path / "run" / "checkpoints" / "step_0000010" / "training.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    again = fit(12, tmp_path / "run")
    told = capsys.readouterr().err
    assert str(file) in told and "Resuming" in told and "after step 8" in told
    assert same(again, fit(12, tmp_path / "other"))
    assert logged(tmp_path / "run") == logged(tmp_path / "other")


def test_another_recipe_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    train(tiny_recipe(2), tmp_path)
    with pytest.raises(UserError, match=r"train\.seed was 42, now 7\. .*optim\.num_steps.* may change"):
        train(tiny_recipe(3, seed=7), tmp_path)


def test_another_model_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    train(tiny_recipe(2), tmp_path)
    model = TinyModel()
    model.net[2] = torch.nn.Linear(8, 4)
    with pytest.raises(
        UserError, match=r"step_0000002: the weights belong to another model.*net\.2\.weight: \[3, 8\] stored"
    ):
        train(tiny_recipe(2), tmp_path, model=model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 6, "accumulation": 4}, "divisible by 4"),
        ({"keep": 0}, "at least 1"),
        ({"seed": -1}, "train.seed"),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny_recipe(**settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_half_precision_is_full_on_the_cpu_and_says_so(tmp_path: Path, capsys) -> None:
    train(tiny_recipe(2, precision="fp16"), tmp_path / "half")
    train(tiny_recipe(2), tmp_path / "full")
    assert capsys.readouterr().err.count("fp16 needs a GPU: on the CPU this runs in fp32.") == 1
    half, full = weights(tmp_path / "half"), weights(tmp_path / "full")
    assert all(torch.equal(half[name], full[name]) for name in full)


def test_an_unknown_metric_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no figure `ap`.*fg_ari, videos"):
        train(tiny_recipe(2), tmp_path, eval_set=TinyClips(2), monitor="ap")


def test_devices_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, message in (("cuda", "No CUDA device"), ("gpu", "cpu, cuda, cuda:N or mps")):
        with pytest.raises(UserError, match=message):
            loop.train(tiny_recipe(2), TinyModel(), TinyClips(), None, tmp_path, device=device)


def test_kill_loses_only_the_steps_since_the_last_checkpoint(tmp_path: Path) -> None:
    arguments = {"run": str(tmp_path / "run"), "steps": 400, "sleep": 0.002, "checkpoint_every": 2}
    process = Forked(Path(__file__).with_name("tiny_run.py"), [json.dumps([arguments])])
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
        train(recipe, tmp_path / "run", TinyClips(events={4: send(signal.SIGTERM)}))
    resumed = checkpoint.latest(tmp_path / "run", print)
    with pytest.raises(Interrupted):
        item = 4 * (found.state.step + 1)
        train(recipe, tmp_path / "whole", TinyClips(events={item: send(signal.SIGTERM)}))
    whole = checkpoint.latest(tmp_path / "whole", print)
    assert resumed is not None and whole is not None and whole.state.step == resumed.state.step
    assert same(resumed.model, whole.model) and same(resumed.training, whole.training)


def test_two_processes_never_train_in_one_folder(tmp_path: Path) -> None:
    train(tiny_recipe(2), tmp_path)
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(UserError, match="Another process is training in"):
            train(tiny_recipe(2), tmp_path)
        other.kill()
        other.wait()
    assert train(tiny_recipe(2), tmp_path).step == 2

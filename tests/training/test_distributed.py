"""Two processes on this machine, over gloo, against one."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from torchslots.evaluation import evaluate as passes
from torchslots.io.run_log import read_log
from training.processes import launch_file
from training.tiny_run import counted_evaluate, run_one, weights

PROGRAM = Path(__file__).with_name("tiny_run.py")


class Runs(NamedTuple):
    """Where one process and two trained alike, and how the two ended when one failed or was stopped."""

    one: Path
    two: Path
    failed: Path
    stopped: Path
    ends: list[list[tuple[int, str]]]


def _launch(processes: int, scenarios: list[dict[str, Any]]) -> list[list[tuple[int, str]]]:
    """Start `tiny_run.py` as torchrun would; per process, exit code and message of each scenario."""
    found = []
    for ended in launch_file(processes, PROGRAM, json.dumps(scenarios)):
        assert ended.code == 0, ended.err
        found.append([tuple(end) for end in json.loads(ended.out)])
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    one, two, failed, stopped = (tmp_path_factory.mktemp(name) / "run" for name in ("a", "b", "c", "d"))
    plain = {"steps": 6, "noise": 0.0, "evaluate": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "evaluate", counted_evaluate)
        assert run_one({**plain, "run": str(one)}) == (0, "")
    bad = {"steps": 6, "noise": 0.0, "bad_rank": 1}
    scenarios = [
        {**plain, "run": str(two)},
        {**bad, "run": str(failed), "bad_item": 5},
        {**bad, "run": str(stopped), "stop_item": 5},
    ]
    return Runs(one, two, failed, stopped, _launch(2, scenarios))


def test_two_processes_train_as_one_with_the_same_global_batch(runs: Runs) -> None:
    assert [ends[0] for ends in runs.ends] == [(0, ""), (0, "")]
    two = weights(runs.two)
    for name, weight in weights(runs.one).items():
        torch.testing.assert_close(two[name], weight, rtol=1e-6, atol=1e-6)
    records = list(zip(read_log(runs.one), read_log(runs.two)))
    assert len(records) == 6
    for first, second in records:
        for key in ("train/loss", "train/recon", "train/grad_norm", "train/lr"):
            assert second[key] == pytest.approx(first[key], rel=1e-5)


def test_only_the_first_process_logs(runs: Runs) -> None:
    lines = (runs.two / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_each_video_is_judged_once(runs: Runs) -> None:
    one, two = read_log(runs.one)[-1], read_log(runs.two)[-1]
    assert one["eval/videos"] == two["eval/videos"] == 7
    figures = [key for key in one if key.startswith("eval/")]
    assert len(figures) > 4
    assert {key: two[key] for key in figures} == pytest.approx({key: one[key] for key in figures}, abs=1e-6)


def test_a_bad_loss_in_one_process_stops_both_before_the_step(runs: Runs) -> None:
    (code, message), (other_code, other_message) = (ends[1] for ends in runs.ends)
    assert (code, other_code) == (2, 2)
    assert "Step 3 stopped before the update" in message and "`gradient norm` is nan" in message
    assert "Step 3 stopped before the update" in other_message and "`recon` is nan" in other_message
    assert (runs.failed / "nonfinite_batch_step_3_process_1.safetensors").exists()


def test_a_stop_of_one_process_stops_both_after_the_same_step(runs: Runs) -> None:
    (code, message), (other_code, other_message) = (ends[2] for ends in runs.ends)
    assert (code, other_code) == (143, 143)
    assert "Stopped by another process after step 3" in message
    assert "Stopped by SIGTERM after step 3" in other_message
    assert [path.name for path in (runs.stopped / "checkpoints").iterdir()] == ["step_0000003"]

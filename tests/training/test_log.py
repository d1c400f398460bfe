import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from torchslots.io.errors import UserError
from torchslots.io.run_log import read_log
from torchslots.training.log import Clock, RunLog


def _board(run: Path) -> EventAccumulator:
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    return board


def _write(run: Path, start: int, steps: range, offset: float = 0.0) -> None:
    with RunLog(run, start) as log:
        for step in steps:
            log.write(step, {"train/loss": step + offset})


def test_records_come_back_one_for_each_step(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        log.write(1, {"train/loss": 0.5, "train/lr": 0.0})
        log.write(2, {"train/loss": math.nan})
        log.write(2, {"eval/fg_ari": 0.25})
    first, second = read_log(tmp_path)
    assert (first["step"], first["train/loss"], first["train/lr"]) == (1, 0.5, 0.0)
    assert (second["step"], second["train/loss"], second["eval/fg_ari"]) == (2, None, 0.25)
    assert all("NaN" not in line for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert read_log(tmp_path / "elsewhere") == []


def test_a_resume_drops_what_it_will_repeat(tmp_path: Path) -> None:
    _write(tmp_path, 0, range(1, 7))
    _write(tmp_path, 3, range(4, 6), offset=0.5)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["train/loss"] for line in lines] == [1, 2, 3, 4.5, 5.5]
    scalars = _board(tmp_path).Scalars("train/loss")
    assert [(scalar.step, scalar.value) for scalar in scalars] == [(1, 1), (2, 2), (3, 3), (4, 4.5), (5, 5.5)]


def test_a_line_cut_by_a_kill_neither_counts_nor_spoils_the_next(tmp_path: Path) -> None:
    _write(tmp_path, 0, range(1, 4))
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2]
    _write(tmp_path, 2, range(3, 4))
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2, 3]


def test_pictures_reach_tensorboard(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        log.image(4, "eval/slots", np.full((5, 7, 3), 9, np.uint8))
    (image,) = _board(tmp_path).Images("eval/slots")
    assert (image.step, image.height, image.width) == (4, 5, 7)


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, active=False) as log:
        log.write(1, {"train/loss": 1.0})
        log.image(1, "eval/slots", np.zeros((2, 2, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        (tmp_path / "metrics.jsonl").mkdir()
        with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written: Is a directory"):
            log.write(1, {"train/loss": 1.0})


def test_wandb_is_asked_for_but_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"torchslots\[wandb\]"):
        RunLog(tmp_path, 0, wandb=True)


def test_clock_divides_by_the_steps_since_its_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock()
    for step in range(4):
        clock.waiting_for(lambda: now.__setitem__(0, now[0] + 0.5))
        now[0] += 1.5
        clock.tick()
        if step == 1:
            now[0] += 100.0  # an evaluation
            clock.restart()
    assert clock.read() == {"train/seconds_per_step": 2.0, "train/seconds_waiting_for_data": 0.5}


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no text in UTF-8, which TensorBoard needs\. Choose another"):
        RunLog(tmp_path / os.fsdecode(b"a\xff"), 0)

"""An error that comes while another is handled hides none of the two; stops by a closed terminal."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.io.errors import UserError
from torchslots.io.run_log import read_log
from torchslots.training import checkpoint, stops
from torchslots.training.stops import Interrupted, stop_request
from training.tiny_run import TinyClips, fit, same, send, tiny_recipe, train


def _full(*arguments: Any, **keywords: Any) -> None:
    raise UserError("the disk is full.")


def test_data_that_end_a_run_are_told_where_nothing_can_be_saved(tmp_path: Path, monkeypatch) -> None:
    def corrupt(video: np.ndarray) -> np.ndarray:
        monkeypatch.setattr(checkpoint, "save", _full)
        raise CorruptRecord(tmp_path / "shard", 3, "its checksum is wrong")

    with pytest.raises(
        UserError, match=r"its checksum is wrong.*since the last checkpoint are lost.*is full"
    ):
        train(tiny_recipe(), tmp_path / "run", TinyClips(events={6 * 4: corrupt}))


def test_a_loss_that_is_not_finite_is_told_where_its_batch_cannot_be_saved(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(stops, "write_file", _full)
    with pytest.raises(UserError, match=r"Step 2 stopped.*`recon` is nan.*the disk is full"):
        train(tiny_recipe(), tmp_path, TinyClips(events={6: lambda video: video * np.nan}))


def test_an_error_is_told_where_the_run_was_removed(tmp_path: Path) -> None:
    def gone(video: np.ndarray) -> np.ndarray:
        shutil.rmtree(tmp_path / "run")
        raise CorruptRecord(tmp_path / "shard", 3, "its checksum is wrong")

    with pytest.raises(CorruptRecord, match="its checksum is wrong"):
        train(tiny_recipe(), tmp_path / "run", TinyClips(events={2: gone}))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_full_memory_of_the_machine_has_a_remedy(tmp_path: Path, error: Exception) -> None:
    def large(video: np.ndarray) -> np.ndarray:
        raise error

    with pytest.raises(UserError, match=r"has no memory for 4 clips.*lower train\.batch_size"):
        train(tiny_recipe(), tmp_path, TinyClips(events={2: large}))


def test_a_closed_terminal_saves_a_checkpoint(tmp_path: Path) -> None:
    """It and its shell send SIGHUP each."""

    def twice(video: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGHUP)
        return send(signal.SIGHUP)(video)

    with pytest.raises(Interrupted, match="Stopped by SIGHUP after step 6 of 12") as stopped:
        train(tiny_recipe(), tmp_path / "run", TinyClips(events={5 * 4: twice}))
    assert stopped.value.exit_code == 129
    assert checkpoint.list_steps(tmp_path / "run") == [4, 6]
    assert same(fit(12, tmp_path / "run"), fit(12, tmp_path / "other"))


def test_a_closed_terminal_does_not_end_a_run_that_is_stopping() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with stop_request() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert request.signal == signal.SIGTERM
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_signals_that_come_together_are_one(monkeypatch, capsys) -> None:
    now = [0.0]
    monkeypatch.setattr(stops, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with stop_request() as request:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        assert request.signal == signal.SIGINT
        now[0] = 0.2
        os.kill(os.getpid(), signal.SIGINT)
        now[0] = 0.4
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert capsys.readouterr().err == ""


def test_under_nohup_a_closed_terminal_stops_nothing(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        train(tiny_recipe(), tmp_path, TinyClips(events={5 * 4: send(signal.SIGHUP)}))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert read_log(tmp_path)[-1]["step"] == 12


@pytest.mark.parametrize(
    ("name", "says"),
    [("model", "model cannot be written"), ("checkpoints", "is a file, where the checkpoints")],
)
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=says):
        train(tiny_recipe(1), tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_with_a_checkpoints_name_is_replaced(tmp_path: Path) -> None:
    train(tiny_recipe(4), tmp_path)
    (tmp_path / "checkpoints" / "step_0000008").write_text("x")
    assert train(tiny_recipe(8), tmp_path).step == 8
    assert checkpoint.read(checkpoint.folder_of(tmp_path, 8)).state.finished
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")] == []


def test_a_tensor_of_an_impossible_shape_is_a_damaged_file(tmp_path: Path) -> None:
    for shape in ([0, 2**40, 2**40], [2**63, 0]):
        header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
        with pytest.raises(UserError, match="is not a whole safetensors file"):
            checkpoint.read_tensors(tmp_path / "a", len(header).to_bytes(8, "little") + header)

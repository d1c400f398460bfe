"""How threads wait is decided before torch is loaded, once, unless the user has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchslots.io import threads
from torchslots.io.threads import SPINS_BUSY, SPINS_IDLE, others_running, single_threaded, wait_briefly


@pytest.mark.parametrize(
    ("running", "wanted", "spins"),
    [
        (0, None, SPINS_IDLE),
        (1, None, SPINS_BUSY),
        (2, "2", SPINS_IDLE),
        (3, "2", SPINS_BUSY),
        (9, "", SPINS_BUSY),
        (9, "1", SPINS_IDLE),  # one thread waits for no other
    ],
)
def test_threads_wait_longer_where_each_has_a_core(
    running: int, wanted: str | None, spins: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(threads, "others_running", lambda: running)
    monkeypatch.setattr(threads, "count_cores", lambda: 4)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    before = {} if wanted is None else {"OMP_NUM_THREADS": wanted}
    environment = dict(before)
    wait_briefly(environment, loaded=())
    assert environment == before | {"GOMP_SPINCOUNT": str(spins)}


def test_running_threads_are_counted_without_this_one(tmp_path: Path):
    load = tmp_path / "loadavg"
    load.write_text("0.20 0.18 0.12 5/330 11206\n")
    assert others_running(load) == 4
    load.write_text("0.20 0.18 0.12 0/330 11206\n")
    assert others_running(load) == 0


@pytest.mark.parametrize("text", ["", "0.2 0.1 0.1 many/330 1"])
def test_where_the_system_does_not_say_nobody_else_runs(tmp_path: Path, text: str):
    (tmp_path / "loadavg").write_text(text)
    assert others_running(tmp_path / "loadavg") == others_running(tmp_path / "missing") == 0


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_the_users_choice_stays(name: str):
    environment = {name: "active"}
    wait_briefly(environment, loaded=())
    assert environment == {name: "active"}


def test_nothing_is_said_once_torch_is_loaded():
    environment: dict[str, str] = {}
    wait_briefly(environment, loaded=("torch",))
    assert environment == {}


def test_importing_the_package_decides_for_a_process_and_those_it_starts():
    code = "import os, sys, torchslots; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment["OMP_NUM_THREADS"] = "9999"  # more than any machine has free
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(SPINS_BUSY), "False"]


def test_started_processes_get_one_thread_and_the_setting_is_taken_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with single_threaded():
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "3" and "MKL_NUM_THREADS" not in os.environ

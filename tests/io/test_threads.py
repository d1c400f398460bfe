"""How threads wait is decided before torch is loaded, once, unless the user has."""

import os
import subprocess
import sys

import pytest

from torchslots.io.threads import SPIN_COUNT, single_threaded, wait_briefly


def test_threads_wait_briefly_where_nobody_has_decided():
    environment: dict[str, str] = {}
    wait_briefly(environment, loaded=())
    assert environment == {"GOMP_SPINCOUNT": str(SPIN_COUNT)}


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
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(SPIN_COUNT), "False"]


def test_started_processes_get_one_thread_and_the_setting_is_taken_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with single_threaded():
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "3" and "MKL_NUM_THREADS" not in os.environ

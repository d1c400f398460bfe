"""docs/cluster.md: two agents of torchrun that meet at a port, stopped in the middle and started again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.movi_files import copy_movi
from torchslots.cli import main
from torchslots.io.run_log import read_log
from training.processes import _free_port  # pyright: ignore[reportPrivateUsage]

STEPS = 40
SMALL = (
    "--data movi_a --model.resolution 16 16 --model.decoder.grid 4 4 --model.decoder.channels 8 8 "
    "--model.decoder.strides 2 2 --model.encoder.channels 8 8 --model.encoder.strides 1 2 --data.resolution 16 "
    f"--data.num-frames 2 --train.batch-size 2 --train.num-workers 0 --train.log-every 1 --optim.num-steps {STEPS} "
    "--optim.warmup-steps 2 --train.eval-every 1000 --num-plots 0 --device cpu --evaluation.split train"
).split()


def agents(root: Path, run: Path) -> list[subprocess.Popen]:
    port = _free_port()
    meet = (
        f"--rdzv-backend c10d --rdzv-id one --rdzv-endpoint 127.0.0.1:{port} --local-addr 127.0.0.1".split()
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *meet]
    words = ["-m", "torchslots", "train", "savi_small", "--root", str(root), "--run-dir", str(run), *SMALL]
    return [
        subprocess.Popen(
            [*command, *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]


def steps_of(run: Path) -> list[int]:
    return [int(line["step"]) for line in read_log(run)] if (run / "metrics.jsonl").is_file() else []


@pytest.mark.slow
def test_two_agents_are_stopped_and_go_on_as_one_process_would(tmp_path: Path) -> None:
    copy_movi("a", tmp_path / "data")
    two, one = tmp_path / "two", tmp_path / "one"
    running = agents(tmp_path / "data", two)
    end = time.monotonic() + 240
    while len(steps_of(two)) < 5 and time.monotonic() < end and running[0].poll() is None:
        time.sleep(0.05)
    for agent in running:
        agent.send_signal(signal.SIGTERM)
    said = [agent.communicate(timeout=120)[1] for agent in running]
    stopped = steps_of(two)
    assert 5 <= len(stopped) < STEPS, said
    assert all(agent.returncode for agent in running) and list((two / "checkpoints").iterdir())
    again = agents(tmp_path / "data", two)
    said = [agent.communicate(timeout=240)[1] for agent in again]
    assert [agent.returncode for agent in again] == [0, 0], said
    assert steps_of(two) == list(range(1, STEPS + 1))
    assert main(["train", "savi_small", "--root", str(tmp_path / "data"), "--run-dir", str(one), *SMALL]) == 0
    wanted = load_file(one / "model" / "model.safetensors")
    for name, value in load_file(two / "model" / "model.safetensors").items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-3, atol=1e-4)

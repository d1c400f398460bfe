"""A process of a training on two is killed; resumed on other numbers of processes its losses are those of one."""

import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from stress.disk import Outcome
from stress.kills import Tally, untold
from torchslots.io.run_log import read_log
from training.processes import ends, start

STEPS = 12
BATCH = 4
_TOLERANCE = 1e-3
"""Of losses, relative: the order of sums differs between numbers of processes."""
_WORDS = (
    "--data movi_a --model.resolution 16 16 --model.decoder.grid 4 4 --model.decoder.channels 8 8 "
    "--model.decoder.strides 2 2 --model.encoder.channels 8 8 --model.encoder.strides 1 2 --data.resolution 16 "
    f"--data.num-frames 2 --train.batch-size {BATCH} --train.num-workers 0 --train.log-every 1 "
    f"--optim.num-steps {STEPS} --optim.warmup-steps 2 --train.eval-every 1000 --train.checkpoint-every 2 "
    "--num-plots 0 --device cpu --evaluation.split train"
).split()
_KEY = "train/loss"


def kill_ranks(
    data: Path, folder: Path, numbers: tuple[int, ...], count: int, seed: int, until: float = float("inf")
) -> dict[str, Tally]:
    """Kill a process of two at random, `count` times for each number of processes to go on with.

    Args:
        until: a time by the monotonic clock, at which to stop.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    wanted = _losses_of_one(data, folder / "one")
    tallies = {f"on {number}": Tally(STEPS, Counter(), []) for number in numbers}
    for _ in range(count):
        for number in numbers:
            if time.monotonic() > until:
                return tallies
            rank, step = rng.randrange(2), rng.randint(1, STEPS - 2)
            faults = _killed(data, folder / "run", rank, step, number, wanted)
            tallies[f"on {number}"].add(f"process {rank} killed at step {step}, resumed on {number}", faults)
    return tallies


def _killed(
    data: Path, run: Path, rank: int, step: int, number: int, wanted: list[float]
) -> list[tuple[str, str]]:
    shutil.rmtree(run, ignore_errors=True)
    running = start(2, _command(data, run))
    until = time.monotonic() + 600
    while _steps(run) < step and running[rank].poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    running[rank].send_signal(signal.SIGKILL)
    left = ends(running)[1 - rank]
    faults = untold(Outcome(left.code, left.err, []))
    if faults:
        return faults
    for ended in ends(start(number, _command(data, run))):
        if ended.code:
            return [("failed", f"{ended.code} {ended.err[-700:]}")]
    found = [record[_KEY] for record in read_log(run) if _KEY in record]
    if len(found) != len(wanted):
        return [("lost", f"{len(found)} losses of {len(wanted)}")]
    worst = max(abs(a - b) / abs(b) for a, b in zip(found, wanted))
    return [("wrong", f"losses differ by {worst:.1e}")] if worst > _TOLERANCE else []


def _losses_of_one(data: Path, run: Path) -> list[float]:
    (ended,) = ends(start(1, _command(data, run)))
    if ended.code:
        raise RuntimeError(ended.err[-2000:])
    return [record[_KEY] for record in read_log(run) if _KEY in record]


def _command(data: Path, run: Path) -> list[str]:
    words = ["train", "savi_small", "--root", str(data), "--run-dir", str(run), *_WORDS]
    return [sys.executable, "-m", "torchslots", *words]


def _steps(run: Path) -> int:
    return max((int(record["step"]) for record in read_log(run)), default=0)

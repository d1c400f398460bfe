"""A process of a training on two is killed; resumed on other numbers of processes its losses are those of one."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

from stress.disk import Started, begin
from stress.kills import Tally, untold
from torchslots.cli import main
from torchslots.io.run_log import read_log
from training.processes import _free_port  # pyright: ignore[reportPrivateUsage]

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
    running = _start(2, data, run)
    until = time.monotonic() + 600
    while _steps(run) < step and time.monotonic() < until and not _has_ended(running[rank]):
        time.sleep(0.01)
    os.kill(running[rank].process, signal.SIGKILL)
    running[rank].ended()
    faults = untold(running[1 - rank].ended())
    if faults:
        return faults
    for ended in [each.ended() for each in _start(number, data, run)]:
        if ended.status:
            return [("failed", f"{ended.status} {ended.text[-700:]}")]
    found = _losses(run)
    if len(found) != len(wanted):
        return [("lost", f"{len(found)} losses of {len(wanted)}")]
    worst = max(abs(a - b) / abs(b) for a, b in zip(found, wanted))
    return [("wrong", f"losses differ by {worst:.1e}")] if worst > _TOLERANCE else []


def _losses_of_one(data: Path, run: Path) -> list[float]:
    """Those of one process that nothing stops.

    Raises:
        RuntimeError: it fails.
    """
    ended = _start(1, data, run)[0].ended()
    if ended.status:
        raise RuntimeError(ended.text[-2000:])
    return _losses(run)


def _start(number: int, data: Path, run: Path) -> list[Started]:
    """The processes of a training, as torchrun tells them what they are."""
    port = _free_port()
    words = ("train", "savi_small", "--root", str(data), "--run-dir", str(run), *_WORDS)
    return [begin(partial(_train, rank, number, port, words), run, name=f".{rank}") for rank in range(number)]


def _train(rank: int, number: int, port: int, words: tuple[str, ...]) -> int:
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()}, MASTER_ADDR="127.0.0.1")
    return main(words)


def _has_ended(started: Started) -> bool:
    state = Path(f"/proc/{started.process}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "Z"


def _losses(run: Path) -> list[float]:
    return [record[_KEY] for record in read_log(run) if _KEY in record]


def _steps(run: Path) -> int:
    return max((int(record["step"]) for record in read_log(run)), default=0)

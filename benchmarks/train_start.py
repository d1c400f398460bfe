"""Start of a training, and of a prediction of one image, beside importing torch; prints JSON.

    python benchmarks/train_start.py --videos 2000

Fresh processes: `torch` imports torch alone; `train` trains `savi_demo` on so many generated videos (copies of a few,
which are read as others) until its first step is done; `predict` is `torchslots predict` of one image.
Bars: 5 s and 1 s more than importing torch.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro

from torchslots.data.formats.tfrecord import write_records
from torchslots.io.video import write_png
from torchslots.sim import generate_videos
from torchslots.sim.scene import KINDS

_TRAIN = """
import sys, torch
from unittest import mock
import torchslots
from torchslots.training.step import TrainStep
class Done(Exception): pass
step = TrainStep.__call__
def once(*args, **kwargs):
    step(*args, **kwargs)
    raise Done
with mock.patch.object(TrainStep, "__call__", once):
    try:
        torchslots.train("savi_demo", sys.argv[1], sys.argv[2], dataset="sim_a", num_plots=0)
    except Done:
        pass
"""


def main(videos: int = 2000, repeats: int = 3) -> None:
    """Measure.

    Args:
        videos: Videos of the training set.
        repeats: Fresh processes of each kind, in turns.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_set(folder / "data", videos)
        image, model = folder / "image.png", folder / "model"
        write_png(image, np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))
        _run(["-c", _SAVE, str(model)])
        found: dict[str, list[tuple[float, float]]] = {
            "torch": [],
            "train_first": [],
            "train": [],
            "predict": [],
        }
        for number in range(repeats):
            run = ["-c", _TRAIN, str(folder / "data"), str(folder / f"run_{number}")]
            found["torch"].append(_run(["-c", "import torch"]))
            found["train" if number else "train_first"].append(_run(run))
            words = ["predict", str(model), str(image), "--out", str(folder / f"out_{number}")]
            found["predict"].append(_run(["-m", "torchslots", *words]))
    middle = {
        kind: {"wall": statistics.median(w for w, _ in rows), "cpu": statistics.median(c for _, c in rows)}
        for kind, rows in found.items()
        if rows
    }
    more = {kind: {k: row[k] - middle["torch"][k] for k in row} for kind, row in middle.items()}
    print(json.dumps({"videos": videos, "seconds": middle, "beside_importing_torch": more}, indent=2))


_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Modules are compiled once, as in an installation."""
_SAVE = """
import sys
from torchslots import create_model
create_model("slot_attention_demo").save_pretrained(sys.argv[1])
"""


def _write_set(root: Path, videos: int) -> None:
    """A set of generated videos of which sixteen differ."""
    settings = generate_videos.Settings(
        "a", {"train": videos, "validation": 16}, 64, 24, 0, 1, KINDS["a"].objects
    )
    folder = root / "sim_a" / "64x64" / settings.version
    generate_videos.claim(folder, settings)
    shards = generate_videos.plan(folder, settings)
    records = [generate_videos.video_record(settings, "train", number) for number in range(16)]
    for shard in shards:
        write_records(shard.path, [records[number % 16] for number in range(shard.count)])
    generate_videos.describe(folder, settings, shards)


def _run(words: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a Python process."""
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, *words], check=True, env=_ENVIRONMENT, **quiet)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - wall, cpu


if __name__ == "__main__":
    tyro.cli(main)

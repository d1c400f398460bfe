"""Time the data pipeline, from published shards and from a prepared cache, in one run; prints one JSON object.

The work is that of SAVi-S: clips of 6 frames with masks, boxes and flow, from 128 x 128 TFRecords resized to 64, to the
batch. Without --root it reads videos generated here, which are complete MOVi records (skipping depth, normals and other
features that the clip does not need is part of the measurement). The operating system has them in memory after the
first round. CPU time is that of one process; clips per second are those of two loading processes.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path

import torch

from torchslots.data.batch import ClipDataset
from torchslots.data.catalog import open_dataset
from torchslots.data.config import DataConfig
from torchslots.data.loader import eval_batches, train_batches
from torchslots.data.prepare import prepare

REFERENCE = {"clips_per_second": 50.0, "cpu_ms_per_clip": 35.0}
"""SAVi's input pipeline (TFDS and TensorFlow) at the default work, recorded on 2 cores of a machine of this kind."""
TARGETS = {"shards": 3.0, "cache": 10.0}
"""CPU per clip of the reference over ours."""


def _measure(dataset: ClipDataset, options: argparse.Namespace) -> dict[str, float]:
    """CPU time of a clip in one process; clips per second with loading processes (training clips alone)."""
    wall, cpu, clips = _timed(dataset, options, 0)
    if options.frames and options.workers:
        wall, _, clips = _timed(dataset, options, options.workers)
    return {"clips_per_second": clips / wall, "cpu_ms_per_clip": 1000 * cpu / clips}


def _timed(dataset: ClipDataset, options: argparse.Namespace, workers: int) -> tuple[float, float, int]:
    """Wall and CPU seconds, and clips; without the first batches (start of workers, index)."""
    size = options.batch
    if options.frames:
        rounds = train_batches(dataset, batch_size=size, seed=0, num_workers=workers)
    else:
        rounds = (batch for _ in range(10**6) for batch in eval_batches(dataset, batch_size=size))
    for _ in range(1 + 2 * workers):
        next(rounds)
    wall, cpu = time.perf_counter(), time.process_time()
    clips = sum(len(batch["name"]) for batch in islice(rounds, max(1, options.clips // size)))
    return time.perf_counter() - wall, time.process_time() - cpu, clips


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root", type=Path, help="folder of the data set; none: generated in a temporary folder"
    )
    parser.add_argument("--dataset", default="sim_a", help="its name (default sim_a)")
    parser.add_argument("--split", default="train")
    parser.add_argument("--frames", type=int, default=6, help="frames of a clip; 0: whole videos (default 6)")
    parser.add_argument("--resolution", type=int, default=64, help="pixels after resizing (default 64)")
    parser.add_argument("--stored", type=int, default=128, help="pixels of generated videos (default 128)")
    parser.add_argument("--videos", type=int, default=12, help="generated videos (default 12)")
    parser.add_argument("--keys", nargs="+", default=["video", "segmentations", "boxes", "flow"])
    parser.add_argument("--workers", type=int, default=2, help="processes for clips per second (default 2)")
    parser.add_argument("--batch", type=int, default=8, help="clips in a batch (default 8)")
    parser.add_argument("--clips", type=int, default=256, help="clips to measure (default 256)")
    parser.add_argument(
        "--crop", type=float, help="min_object_covered of the random resized crop; none: resize"
    )
    return parser.parse_args()


def _default_work(options: argparse.Namespace) -> bool:
    """Whether the reference's figures are of this work."""
    work = (options.frames, options.resolution, options.stored, options.crop, sorted(options.keys))
    return work == (6, 64, 128, None, ["boxes", "flow", "segmentations", "video"]) and options.root is None


def _compared(figures: dict[str, dict[str, float]]) -> dict[str, object]:
    """The reference's figures, and its CPU per clip over ours."""
    ratios = {
        name: REFERENCE["cpu_ms_per_clip"] / found["cpu_ms_per_clip"] for name, found in figures.items()
    }
    met = {name: ratios[name] >= TARGETS[name] for name in ratios}
    return {"reference": REFERENCE, "cpu_ratio": ratios, "target_ratio": TARGETS, "target_met": met}


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    config = DataConfig(
        dataset=options.dataset,
        keys=tuple(options.keys),
        resolution=options.resolution,
        num_frames=options.frames or 24,
        min_object_covered=options.crop,
    )
    with tempfile.TemporaryDirectory() as temporary:
        root = options.root or Path(temporary)
        if options.root is None:
            from torchslots.sim.generate_videos import generate

            with redirect_stdout(sys.stderr):
                generate(root, train=options.videos, validation=0, resolution=options.stored, workers=1)
        clips = open_dataset(options.dataset, root, options.split, config, True)
        prepare(clips, Path(temporary) / "prepared")
        cache = open_dataset("prepared", Path(temporary) / "prepared", options.split, config, True)
        figures = {"shards": _measure(clips, options), "cache": _measure(cache, options)}
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    compared = _compared(figures) if _default_work(options) else {}
    print(json.dumps(figures | compared | {"options": vars(options)} | machine | versions, default=str))


if __name__ == "__main__":
    main()

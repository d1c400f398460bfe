"""Time the generator of videos, in CPU seconds per video; prints one JSON object.

    OMP_NUM_THREADS=1 python benchmarks/sim.py --variant a --resolution 64 --samples 2 --videos 20

A scene is sampled, simulated, rendered with all its ground truth, encoded and written to a shard, in one process. CPU
time is steadier than wall time on a shared machine.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import mujoco
import numpy as np

from torchslots.data.formats.tfrecord import write_records
from torchslots.sim.generate_videos import Settings, video_record
from torchslots.sim.scene import KINDS


def _cpu_seconds(settings: Settings, index: int, folder: Path) -> tuple[float, int]:
    start = time.process_time()
    file = folder / f"{index}.tfrecord"
    write_records(file, [video_record(settings, "train", index)])
    seconds = time.process_time() - start
    size = file.stat().st_size
    file.unlink()
    return seconds, size


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", choices=sorted(KINDS), default="a", help="default a")
    numbers = {"resolution": 64, "frames": 24, "samples": 2, "videos": 20, "seed": 0}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    return parser.parse_args()


def main() -> None:
    options = _options()
    low, high = KINDS[options.variant].objects
    shape = (options.resolution, options.frames, options.seed, options.samples)
    settings = Settings(options.variant, {"train": options.videos + 1}, *shape, (low, high))
    with tempfile.TemporaryDirectory() as folder:
        first, _ = _cpu_seconds(settings, 0, Path(folder))
        measured = [_cpu_seconds(settings, i + 1, Path(folder)) for i in range(options.videos)]
    seconds, sizes = zip(*measured)
    result = {
        "cpu_seconds_per_video": {
            "median": statistics.median(seconds),
            "min": min(seconds),
            "max": max(seconds),
        },
        "first_video_cpu_seconds": first,
        "bytes_per_video": round(statistics.mean(sizes)),
        "settings": {**vars(options), "objects": [low, high]},
        "machine": {
            "machine": platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "mujoco": mujoco.__version__,  # pyright: ignore[reportAttributeAccessIssue]
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

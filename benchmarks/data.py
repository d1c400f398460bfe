"""Time the data pipeline: clips per second and CPU time per clip; prints one JSON object.

Without --root it reads videos of its own making: a full MOVi record (flow, depth and all, so that skipping
what is not asked for is part of the measurement) with shaded, slightly noisy discs moving over a gradient.
"""

import argparse
import json
import platform
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from torchslots.data.config import DataConfig
from torchslots.data.example import encode_example
from torchslots.data.loader import ClipDataset, eval_batches, train_batches
from torchslots.data.movi import MoviClips
from torchslots.data.png import encode_png
from torchslots.data.prepare import PreparedClips, prepare
from torchslots.data.tfrecord import write_records

_FRAMES, _OBJECTS = 24, 8


def _frames(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Video uint8 [T, size, size, 3] and ids uint8 [T, size, size]."""
    y, x = np.mgrid[:size, :size] / size
    video = np.empty((_FRAMES, size, size, 3))
    video[:] = (90 + 60 * y)[None, ..., None]
    ids = np.zeros((_FRAMES, size, size), np.uint8)
    start, step = rng.uniform(0.1, 0.9, (_OBJECTS, 2)), rng.normal(0, 0.01, (_OBJECTS, 2))
    radius, color = rng.uniform(0.05, 0.12, _OBJECTS), rng.uniform(40, 220, (_OBJECTS, 3))
    for frame in range(_FRAMES):
        for k in range(_OBJECTS):
            cy, cx = start[k] + frame * step[k]
            height = 1 - ((y - cy) ** 2 + (x - cx) ** 2) / radius[k] ** 2
            inside = height > 0
            ids[frame][inside] = k + 1
            video[frame][inside] = color[k] * (0.4 + 0.6 * height[inside, None])
    noisy = video + rng.normal(0, 0.6, (*video.shape[:3], 1))
    return noisy.clip(0, 255).astype(np.uint8), ids


def _record(size: int, rng: np.random.Generator) -> bytes:
    video, ids = _frames(size, rng)
    depth = (30000 + 100 * ids.astype(np.uint16) + rng.integers(0, 40, ids.shape)).astype(np.uint16)
    lengths = np.full(_OBJECTS, _FRAMES)
    corners = np.sort(rng.random((_OBJECTS * _FRAMES, 2, 2), np.float32), axis=1)
    numbers = {"height": size, "width": size, "num_frames": _FRAMES, "num_instances": _OBJECTS}
    ranges = {f"{name}_range": np.array([-4, 4], np.float32) for name in ("forward_flow", "backward_flow")}
    metadata = {**{key: np.array([value]) for key, value in numbers.items()}, **ranges}
    metadata["depth_range"] = np.array([3, 60], np.float32)
    return encode_example(
        {
            **{f"metadata/{key}": value for key, value in metadata.items()},
            "metadata/video_name": b"0",
            "video": [encode_png(frame) for frame in video],
            "segmentations": [encode_png(frame) for frame in ids],
            "depth": [encode_png(frame) for frame in depth],
            "normal": [encode_png(frame) for frame in video],
            "object_coordinates": [encode_png(frame) for frame in video],
            "forward_flow": rng.integers(30000, 36000, (_FRAMES, size, size, 2)),
            "backward_flow": rng.integers(30000, 36000, (_FRAMES, size, size, 2)),
            "instances/bboxes/ragged_flat_values": corners.reshape(-1),
            "instances/bboxes/ragged_row_lengths_0": lengths,
            "instances/bbox_frames/ragged_flat_values": np.tile(np.arange(_FRAMES), _OBJECTS),
            "instances/bbox_frames/ragged_row_lengths_0": lengths,
        }
    )


def _write_videos(folder: Path, dataset: str, count: int, size: int) -> None:
    rng = np.random.default_rng(0)
    write_records(
        folder / f"{dataset}-train.tfrecord-00000-of-00001", (_record(size, rng) for _ in range(count))
    )


def _measure(dataset: ClipDataset, options: argparse.Namespace) -> dict[str, float]:
    """Clips over the seconds that they took, first batch (start of workers, index) apart."""
    size, whole = options.batch, options.frames == 0
    if whole:
        rounds = (batch for _ in range(10**6) for batch in eval_batches(dataset, batch_size=size))
    else:
        rounds = train_batches(dataset, batch_size=size, seed=0, num_workers=options.workers)
    next(rounds)
    wall, cpu = time.perf_counter(), time.process_time()
    clips = sum(len(batch["name"]) for batch in islice(rounds, max(1, options.clips // size)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"clips_per_second": clips / wall, "cpu_ms_per_clip": 1000 * cpu / clips, "clips_measured": clips}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root", type=Path, help="folder of the data set; none: made here, in a temporary folder"
    )
    parser.add_argument("--dataset", default="movi_a", help="its name (default movi_a)")
    parser.add_argument("--split", default="train")
    parser.add_argument("--frames", type=int, default=6, help="frames of a clip; 0: whole videos (default 6)")
    parser.add_argument("--resolution", type=int, default=64, help="pixels after resizing (default 64)")
    parser.add_argument(
        "--stored", type=int, default=128, help="pixels of the videos made here (default 128)"
    )
    parser.add_argument("--videos", type=int, default=8, help="videos made here (default 8)")
    parser.add_argument("--keys", nargs="+", default=["video", "segmentations", "boxes", "flow"])
    parser.add_argument(
        "--workers", type=int, default=0, help="0: CPU time is measured in this process (default)"
    )
    parser.add_argument("--batch", type=int, default=8, help="clips in a batch (default 8)")
    parser.add_argument("--clips", type=int, default=64, help="clips to measure (default 64)")
    parser.add_argument(
        "--crop", type=float, help="min_object_covered of the random resized crop; none: resize"
    )
    parser.add_argument("--prepared", action="store_true", help="prepare first, then measure the result")
    return parser.parse_args()


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
        root = options.root or Path(temporary) / "made"
        if options.root is None:
            _write_videos(root, options.dataset, options.videos, options.stored)
        clips = MoviClips(root, options.split, config)
        if options.prepared:
            prepare(clips, Path(temporary) / "prepared")
            clips = PreparedClips(Path(temporary) / "prepared", options.split, config)
        figures = _measure(clips, options)
    machine = {"machine": platform.machine(), "torch": torch.__version__, "python": platform.python_version()}
    print(json.dumps(figures | vars(options) | machine, default=str))


if __name__ == "__main__":
    main()

"""Time FG-ARI, mIoU and mBO of a batch of videos; prints one JSON object.

With `--sets 15000`, time average precision at all five distances of that many images instead, each of `--slots`
predicted and as many true objects.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable

import numpy as np
import torch

from torchslots.metrics.segmentation import contingency, fg_ari, mbo, miou
from torchslots.metrics.set_prediction import AveragePrecision

_LABELS = (2, 2, 3, 8)
"""Values of size, material, shape and colour."""
_BATCH = 512


def _score(truth: torch.Tensor, prediction: torch.Tensor, slots: int) -> dict[str, float]:
    tables = contingency(truth, prediction, slots).sum(1)
    return {score.__name__: score(tables).nanmean().item() for score in (fg_ari, miou, mbo)}


def _random_sets(count: int, objects: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and true objects: the predictions are near, in another order."""
    rng = np.random.default_rng(0)
    true = np.concatenate(
        [
            rng.random((count, objects, 3)),
            *(np.eye(size)[rng.integers(size, size=(count, objects))] for size in _LABELS),
            np.ones((count, objects, 1)),
        ],
        -1,
    )
    predicted = true[:, rng.permutation(objects)] + rng.normal(0, 0.02, true.shape)
    predicted[..., -1] = rng.random((count, objects))
    return torch.tensor(predicted, dtype=torch.float32), torch.tensor(true, dtype=torch.float32)


def _score_sets(predicted: torch.Tensor, true: torch.Tensor) -> dict[str, float]:
    metric = AveragePrecision()
    for start in range(0, len(true), _BATCH):
        metric.update(predicted[start : start + _BATCH, None], true[start : start + _BATCH, None])
    return metric.compute()


def _time(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in {
        "videos": 64,
        "frames": 24,
        "resolution": 128,
        "objects": 11,
        "slots": 11,
        "repeat": 5,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--sets", type=int, help="images whose sets of objects are scored, in place of videos"
    )
    options = parser.parse_args()
    work = _video_work(options) if options.sets is None else _set_work(options)
    first = _time(work)
    wall, cpu = zip(*[_time(work) for _ in range(options.repeat)])
    times = {"seconds_min": min(wall), "cpu_seconds_min": min(cpu), "first_seconds": first[0]}
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps({**times, **vars(options), **machine}))


def _set_work(options: argparse.Namespace) -> Callable[[], object]:
    predicted, true = _random_sets(options.sets, options.slots)
    return lambda: _score_sets(predicted, true)


def _video_work(options: argparse.Namespace) -> Callable[[], object]:
    shape = (options.videos, options.frames, options.resolution, options.resolution)
    torch.manual_seed(0)
    truth = torch.randint(options.objects, shape, dtype=torch.int32, device=options.device)
    prediction = torch.randint(options.slots, shape, device=options.device)
    return lambda: _score(truth, prediction, options.slots)


if __name__ == "__main__":
    main()

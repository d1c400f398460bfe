"""Time FG-ARI, mIoU and mBO of a batch of videos; prints one JSON object."""

import argparse
import json
import platform
import time

import torch

from torchslots.metrics.segmentation import contingency, fg_ari, mbo, miou


def _judge(truth: torch.Tensor, prediction: torch.Tensor, slots: int) -> dict[str, float]:
    tables = contingency(truth, prediction, slots).sum(1)
    return {score.__name__: score(tables).nanmean().item() for score in (fg_ari, miou, mbo)}


def _time(truth: torch.Tensor, prediction: torch.Tensor, slots: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    _judge(truth, prediction, slots)
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
    options = parser.parse_args()
    shape = (options.videos, options.frames, options.resolution, options.resolution)
    torch.manual_seed(0)
    truth = torch.randint(options.objects, shape, dtype=torch.int32, device=options.device)
    prediction = torch.randint(options.slots, shape, device=options.device)
    first = _time(truth, prediction, options.slots)
    wall, cpu = zip(*[_time(truth, prediction, options.slots) for _ in range(options.repeat)])
    times = {"seconds_min": min(wall), "cpu_seconds_min": min(cpu), "first_seconds": first[0]}
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps({**times, **vars(options), **machine}))


if __name__ == "__main__":
    main()

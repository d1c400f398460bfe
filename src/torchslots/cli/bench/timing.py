"""Measure time and memory, and describe the machine."""

import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Times(NamedTuple):
    """Seconds of one repetition, for each sample."""

    wall: list[float]
    cpu: list[float]


def repeat(work: Callable[[], object], samples: int, group: int, device: torch.device) -> Times:
    """Seconds of each sample divided by the `group` repetitions in it; the device is idle before and after."""
    times = Times([], [])
    for _ in range(samples):
        wait(device)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(group):
            work()
        wait(device)
        times.wall.append((time.perf_counter() - wall) / group)
        times.cpu.append((time.process_time() - cpu) / group)
    return times


def wait(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Peak bytes: of tensors on CUDA, of the whole process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, device and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "system": platform.platform(),
    }


def table(report: dict[str, Any]) -> str:
    """The main figures, one on each line."""
    rows = {
        "training step": f"{report['seconds_per_step']['median']:.3f} s, "
        f"{report['cpu_seconds_per_step']['median']:.3f} CPU s",
        "peak memory": f"{report['peak_memory_bytes'] / 2**20:.0f} MiB",
        "parameters": f"{report['parameters']:,}",
    }
    if "floor" in report:
        floor = report["floor"]
        rows["its products alone"] = (
            f"{floor['floor_wall_seconds']:.3f} s, {floor['floor_cpu_seconds']:.3f} CPU s: the step takes "
            f"{floor['wall_ratio']:.2f} times that, {floor['cpu_ratio']:.2f} in CPU seconds"
        )
    if "inference_seconds" in report:
        rows["inference, masks"] = f"{report['inference_seconds']['median']:.3f} s"
    return "\n".join(f"{name:<20}{value}" for name, value in rows.items())

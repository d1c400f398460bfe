"""`torchslots predict` of a 720p film to all of its files, beside the model alone on the same frames; prints JSON.

    python benchmarks/predict.py --frames 120

Each measurement is a fresh process, ours and the model's in turns, whose threads wait as those of the command; the film
is read and resized before the model's clock starts. Weights are random: the model's work is that of trained ones, and
its masks are noise, which takes longer to write. `wall_ratio` (bar: 1.4) needs a machine that is idle otherwise; CPU
seconds include threads. Memory is the peak of the process that writes the files (bar: 0.7 GB).
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
from typing import Any, Literal

import numpy as np
import torch
import tyro

from torchslots.inference.predict import PredictOptions, predict
from torchslots.inference.view import box_hint, view_of
from torchslots.io.threads import wait_briefly
from torchslots.io.video import iter_frames, write_video
from torchslots.models.slices import carry_state
from torchslots.recipes import catalog

_BOXES = [[0.05 * k, 0.05 * k, 0.05 * k + 0.3, 0.05 * k + 0.3] for k in range(10)]


def main(
    recipe: str = "savi_small",
    frames: int = 120,
    repeats: int = 3,
    threads: int = 2,
    alone: Literal["files", "model"] | None = None,
    film: Path | None = None,
) -> None:
    """Measure.

    Args:
        recipe: A model that is conditioned on boxes.
        frames: Frames of the film.
        repeats: Fresh processes for each kind.
        threads: CPU threads of torch.
        alone: Measure this kind once, in this process.
        film: Its film.
    """
    if alone is not None and film is not None:
        print(json.dumps(_measured(recipe, alone, film, threads)))
        return
    found: dict[str, list[dict[str, float]]] = {"files": [], "model": []}
    environment = dict(os.environ)
    wait_briefly(environment, loaded=())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_video(path, _moving(frames), 24)
        for _ in range(repeats):
            for kind, rows in found.items():
                words = ["--recipe", recipe, "--threads", str(threads), "--alone", kind, "--film", str(path)]
                done = subprocess.run(
                    [sys.executable, __file__, *words],
                    check=True,
                    capture_output=True,
                    text=True,
                    env=environment,
                )
                rows.append(json.loads(done.stdout))
    middle = {
        kind: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for kind, rows in found.items()
    }
    ratios = {f"{name}_ratio": middle["files"][name] / middle["model"][name] for name in ("wall", "cpu")}
    print(
        json.dumps({"settings": {"recipe": recipe, "frames": frames}, "seconds": middle, **ratios}, indent=2)
    )


def _moving(count: int) -> Any:
    """Textured rectangles that move over a texture."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    texture = coarse.repeat(16, 0).repeat(16, 1)
    for t in range(count):
        frame = texture[t : t + 720, t : t + 1280].copy()
        for k in range(5):
            top, left = 60 + 120 * k, (200 * k + 7 * t) % 1000
            frame[top : top + 150, left : left + 200] = 40 * k + texture[:150, :200] // 8
        yield frame


def _measured(recipe: str, kind: str, film: Path, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model: Any = catalog.build(catalog.recipe(recipe).model)
    model.eval()
    if kind == "model":
        parts = _parts(model, film)
        work = lambda: _run(model, parts)  # noqa: E731
    else:
        boxes = film.with_suffix(".json")
        boxes.write_text(json.dumps(_BOXES))
        options = PredictOptions(boxes=boxes, overwrite=True)
        work = lambda: predict(model, film, film.parent / "out", options)  # noqa: E731
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"wall": wall, "cpu": cpu, "memory_gib": memory}


def _parts(model: Any, film: Path) -> list[dict[str, torch.Tensor]]:
    """The film as slices of six frames, as `predict` gives them to the model."""
    view, hint = view_of((720, 1280), model.config.resolution), box_hint(_BOXES)
    parts = [{"video": view.shrink(chunk)} for chunk in iter_frames(film, 6)]
    parts[0] |= view.conditioning(hint)
    return parts


@torch.no_grad()
def _run(model: Any, parts: list[dict[str, torch.Tensor]]) -> None:
    for _ in carry_state(
        lambda part, state: model.predict(part, state, slot_recon=False, recon=False, attn=False), parts
    ):
        pass


if __name__ == "__main__":
    tyro.cli(main)

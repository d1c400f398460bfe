"""Time and memory of `predict` for models on a vision transformer, beside their floor; prints one JSON object.

    python benchmarks/features.py --threads 2

The floor is what no form of the model can leave out: the transformer's forward in plain `transformers`, and the matrix
products of the decoder's masks, replayed alone on random numbers. `masks` are masks at the patches' grid from frames in
memory; `files` is `torchslots predict` from a film of 720p to all of its files. Both are measured in turns with the
floor, and the least time of each counts, since a shared machine only adds to it; CPU seconds are
those of the process, encoders of films included. Weights are random: they do not change
the work. Memory is the peak of all tensors that a slice of frames allocates.
"""

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import nn

from torchslots.cli.bench.memory import rise
from torchslots.cli.bench.timing import Times, machine, repeat
from torchslots.inference.predict import predict
from torchslots.io.video import write_video
from torchslots.models.decoders.features import FeatureDecoder
from torchslots.models.decoders.renderers import PerceptronRenderer
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes import catalog
from torchslots.recipes.backbones import BackboneConfig

CASES = ("slotcontrast_movi_c", "slotcontrast_ytvis", "ftdinosaur_base_518")


@dataclass(frozen=True)
class Floor:
    """The transformer of `transformers`, and the matrix products of the decoder's masks.

    Args:
        products: rows, inner and outer size of each product, for one frame.
    """

    vit: nn.Module
    side: int
    products: tuple[tuple[int, int, int], ...]

    def work(self, frames: int) -> Callable[[], None]:
        """What is to be timed, with inputs that are there before."""
        images = torch.rand(frames, 3, self.side, self.side)
        pairs = [(torch.rand(n, c), torch.rand(c, p), torch.rand(p)) for n, c, p in self.products]

        def run() -> None:
            self.vit(images)
            for _ in range(frames):
                for x, weight, bias in pairs:
                    torch.addmm(bias, x, weight)

        return run


def main(
    cases: tuple[str, ...] = CASES,
    frames: int = 2,
    film_frames: int = 4,
    repeats: int = 4,
    threads: int = 2,
    files: bool = True,
) -> None:
    """Measure each case.

    Args:
        cases: Names in `torchslots recipes`, of models that decode by a perceptron.
        frames: Frames of a slice.
        film_frames: Frames of the film.
        repeats: Measurements of each kind, in turns.
        threads: CPU threads.
        files: Also measure all files at 720p.
    """
    torch.set_num_threads(threads)
    rows = [_row(name, frames, film_frames if files else 0, repeats) for name in cases]
    settings = {"frames": frames, "film_frames": film_frames, "repeats": repeats}
    print(json.dumps({"settings": settings, "rows": rows, "machine": machine(torch.device("cpu"))}, indent=2))


@torch.no_grad()
def _row(name: str, frames: int, film_frames: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    config: Any = catalog.recipe(name).model
    model: Any = catalog.build(config)
    model.eval()
    floor = _floor(config, model).work(frames)
    video = torch.rand(1, frames, 3, *config.resolution)

    def masks() -> None:
        model.predict({"video": video}, recon=False, attn=False)

    works = {"floor": floor, "masks": masks}
    with tempfile.TemporaryDirectory() as folder:
        if film_frames:
            works["files"] = _files(model, Path(folder), film_frames, frames)
        seconds = _least(works, repeats)
    counts = {key: film_frames if key == "files" else frames for key in seconds}
    wall = {key: seconds[key][0] / count for key, count in counts.items()}
    cpu = {key: seconds[key][1] / count for key, count in counts.items()}
    return {
        "recipe": name,
        "frames_per_second": {key: 1 / value for key, value in wall.items()},
        "seconds_per_frame": wall,
        "times_floor": {key: value / wall["floor"] for key, value in wall.items()},
        "cpu_seconds_per_frame": cpu,
        "cpu_times_floor": {key: value / cpu["floor"] for key, value in cpu.items()},
        "peak_bytes": {"floor": rise(floor), "masks": rise(masks)},
    }


def _least(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Wall and CPU seconds of each, the least of `repeats` measured in turns after one that is not counted."""
    found: dict[str, Times] = {key: Times([], []) for key in works}
    for number in range(repeats + 1):
        for key, work in works.items():
            once = repeat(work, 1, 1, torch.device("cpu"))
            if number:
                found[key].wall.extend(once.wall)
                found[key].cpu.extend(once.cpu)
    return {key: (min(times.wall), min(times.cpu)) for key, times in found.items()}


def _files(
    model: ObjectCentricModel, folder: Path, film_frames: int, slice_size: int
) -> Callable[[], object]:
    """`predict` of a film of moving colours at 720p, to all files."""
    rows, columns = np.mgrid[:720, :1280]
    waves = [[(rows + columns * k + 9 * t) % 256 for k in (0, 1, 2)] for t in range(film_frames)]
    film = folder / "film.mp4"
    write_video(film, [np.stack(wave, -1).astype(np.uint8) for wave in waves], 12)
    return lambda: predict(model, film, folder / "out", slice_size=slice_size, overwrite=True)


def _floor(config: Any, model: ObjectCentricModel) -> Floor:
    decoder = model.decoder
    assert isinstance(decoder, FeatureDecoder) and isinstance(decoder.renderer, PerceptronRenderer)
    return Floor(
        _plain(config.backbone, config.resolution[0]),
        config.resolution[0],
        _products(decoder.renderer, config.num_slots),
    )


def _plain(config: BackboneConfig, side: int) -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": config.size, "num_hidden_layers": config.depth}
    heads = {"num_attention_heads": config.num_heads, "patch_size": config.patch_size}
    return Dinov2Model(Dinov2Config(**sizes, **heads, image_size=side)).eval()


def _products(renderer: PerceptronRenderer, num_slots: int) -> tuple[tuple[int, int, int], ...]:
    """Of the first layer at slots and at positions, of the hidden layers, and of the mask's channel."""
    patches = math.prod(renderer.grid)
    decoded = (renderer.top_k or num_slots) * patches
    wide, narrow = renderer.first.out_features, renderer.first.in_features
    hidden = [layer for layer in renderer.middle if isinstance(layer, nn.Linear)]
    return (
        (num_slots, narrow, wide),
        (patches, narrow, wide),
        *((decoded, layer.in_features, layer.out_features) for layer in hidden),
        (decoded, hidden[-1].out_features, 1),
    )


if __name__ == "__main__":
    tyro.cli(main)

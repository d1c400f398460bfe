"""`torchslots demo`: the whole way on generated data, in minutes, from nothing to a page of pictures.

Videos are generated as a MOVi folder, prepared, learned from, judged beside two baselines, and shown.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchslots import draw, video
from torchslots.recipes import catalog
from torchslots.training.recipe import Recipe

if TYPE_CHECKING:
    from torchslots.data.loader import ClipDataset
    from torchslots.training.evaluate import EvalReport

MODEL, COPY, UNTRAINED = "SAVi", "boxes copied", "untrained"


@dataclass
class Stopwatch:
    """Seconds that each part took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block and say what it is."""
        print(f"{name} ...", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        print(f"{name}: {self.seconds[name]:.0f} s", flush=True)


def demo(
    out: Path = Path("runs/demo"),
    *,
    videos: int = 320,
    held_out: int = 24,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Path:
    """Generate videos, train a small SAVi on them, judge it on held-out ones, and make a page of pictures.

    The same command goes on where it was interrupted. Returns the page.

    Args:
        out: Folder for everything: data, run, metrics.json, pictures, index.html.
        videos: Videos to train on.
        held_out: Videos to judge on.
        steps: Training steps; None: the recipe's.
        seed: Seed of the videos, the weights and the order of training.
        device: cpu, cuda or cuda:N.
    """
    recipe, clock = _recipe(steps, held_out, seed), Stopwatch()
    with clock.part("Generating videos"):
        _generate(out / "data", videos, held_out, seed)
    with clock.part("Preparing"):
        train_set, held_out_set = _sets(recipe, out / "data")
    with clock.part("Training"):
        _train(recipe, train_set, held_out_set, out / "run", device)
    with clock.part("Evaluating"):
        reports = _judge(recipe, held_out_set, out / "run", device)
    with clock.part("Drawing"):
        pictures = _draw(reports, out)
    _write_metrics(reports, clock.seconds, out)
    _print(reports)
    return _page(recipe, reports, clock.seconds, pictures, out)


def _recipe(steps: int | None, held_out: int, seed: int) -> Recipe:
    recipe = catalog.recipe("savi_demo")
    optim = recipe.optim if steps is None else replace(recipe.optim, num_steps=steps)
    evaluation = replace(recipe.evaluation, num_videos=min(held_out, recipe.evaluation.num_videos or held_out))
    return replace(recipe, optim=optim, train=replace(recipe.train, seed=seed), evaluation=evaluation)


def _generate(folder: Path, videos: int, held_out: int, seed: int) -> None:
    from torchslots.sim.write import generate

    generate(folder, train=videos, validation=held_out, resolution=64, seed=seed)


def _sets(recipe: Recipe, folder: Path) -> "tuple[ClipDataset, ClipDataset]":
    """Training clips and whole held-out videos, both from a cache of only what the recipe needs."""
    from torchslots.data.catalog import open_dataset
    from torchslots.data.prepare import prepare

    cache = folder / "prepared"
    for split in ("train", recipe.evaluation.split):
        prepare(open_dataset(recipe.data.dataset, folder, split, recipe.data, True), cache)
    whole = replace(recipe.data, num_frames=recipe.evaluation.num_frames)
    return (
        open_dataset("prepared", cache, "train", recipe.data, True),
        open_dataset("prepared", cache, recipe.evaluation.split, whole, False),
    )


def _train(recipe: Recipe, train_set: "ClipDataset", held_out: "ClipDataset", run: Path, device: str) -> None:
    from torchslots.training.loop import train

    model = catalog.build_seeded(recipe.model, recipe.train.seed)
    train(recipe, model, train_set, held_out, run, device=device)


def _judge(recipe: Recipe, held_out: "ClipDataset", run: Path, device: str) -> "dict[str, EvalReport]":
    """The trained model beside the copying of boxes and the same model untrained, on all held-out videos."""
    from torchslots.data.loader import eval_batches
    from torchslots.hub import load_model
    from torchslots.training.evaluate import box_copy_baseline, evaluate

    def batches() -> Any:
        return eval_batches(held_out, batch_size=recipe.evaluation.batch_size)

    settings, trained = recipe.evaluation, load_model(run, device=device)
    untrained = catalog.build_seeded(recipe.model, recipe.train.seed).to(device)
    return {
        MODEL: evaluate(trained, batches(), settings, device=device, draw=4),
        COPY: box_copy_baseline(batches(), settings),
        UNTRAINED: evaluate(untrained, batches(), settings, device=device, draw=0),
    }


def _draw(reports: "dict[str, EvalReport]", out: Path) -> dict[str, list[Path]]:
    """Curves as PNG, and each drawn video as mp4 and GIF."""
    from torchslots.training.report import learning_curves

    folder, run = out / "pictures", out / "run"
    folder.mkdir(parents=True, exist_ok=True)
    per_frame: Any = {name: (list(range(len(c))), c) for name, c in _frame_curves(reports).items()}
    loss = learning_curves(run, ["train/loss"])
    score = learning_curves(run, ["eval/fg_ari"])
    plots = [
        draw.curves(loss, folder / "loss.png", title="Training loss", y_label="squared error of a clip", log_y=True),
        draw.curves(score, folder / "fg_ari.png", title="FG-ARI on held-out videos", y_label="FG-ARI"),
        draw.curves(per_frame, folder / "fg_ari_per_frame.png", title="FG-ARI of each frame", x_label="frame"),
    ]
    films = []
    for index, drawn in enumerate(reports[MODEL].panels):
        panel = drawn.panel(128)
        films.append(folder / f"video_{index}.mp4")
        video.write_video(films[-1], panel, 6)
        video.write_gif(films[-1].with_suffix(".gif"), panel, 6)
    return {"plots": plots, "films": films}


def _frame_curves(reports: "dict[str, EvalReport]") -> dict[str, list[float]]:
    return {name: report.curves["fg_ari"] for name, report in reports.items()}


def _write_metrics(reports: "dict[str, EvalReport]", seconds: dict[str, float], out: Path) -> None:
    values = {name: json.loads(report.to_json()) for name, report in reports.items()}
    with video.replacing(out / "metrics.json") as part:
        part.write_text(json.dumps({"reports": values, "seconds": seconds}, indent=2) + "\n")


def _print(reports: "dict[str, EvalReport]") -> None:
    from rich.console import Console
    from rich.table import Table

    from torchslots.training.evaluate import compare

    header, rows = compare(reports)
    table = Table(*header, title=f"{reports[MODEL].num_videos} held-out videos, per cent")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _page(
    recipe: Recipe,
    reports: "dict[str, EvalReport]",
    seconds: dict[str, float],
    pictures: dict[str, list[Path]],
    out: Path,
) -> Path:
    from torchslots.training.evaluate import compare
    from torchslots.training.page import Heading, Image, Row, Section, Table, Text, Video, write_page

    plots = [Image(path, caption) for path, caption in zip(pictures["plots"], _PLOT_CAPTIONS)]
    films = [Video(path, f"Held-out video {reports[MODEL].panels[i].name}") for i, path in enumerate(pictures["films"])]
    header, rows = compare(reports)
    definitions = reports[MODEL].definitions
    sections: list[Section] = [
        Text(_introduction(recipe, reports)),
        Table(header, rows, "Per cent; each figure is defined below."),
        Heading("What it sees"),
        Text(_HOW_TO_READ),
        *(Row([film]) for film in films),
        Heading("Learning"),
        Row(plots),
        Heading("How the figures are defined"),
        Table(["figure", "definition"], [[name, definitions[name]] for name in reports[MODEL].metrics]),
        Heading("What took how long"),
        Table(["part", "seconds"], [[name, f"{value:.0f}"] for name, value in seconds.items()]),
    ]
    return write_page(out, "torchslots demo: objects found in video", sections)


_PLOT_CAPTIONS = (
    "Squared error of a training clip over training steps.",
    "FG-ARI of whole held-out videos while training.",
    "How well each frame alone is segmented: copied boxes fit the first frame only.",
)
_HOW_TO_READ = (
    "From left to right and top to bottom: the input; the true objects; what the model makes of them, in the same "
    "colours; what its slots paint together; and each slot alone. Slot 0 is the background, the others start from the "
    "boxes of the first frame and must follow their objects from there."
)


def _introduction(recipe: Recipe, reports: "dict[str, EvalReport]") -> str:
    found, copied = (100 * reports[name].metrics["fg_ari"] for name in (MODEL, COPY))
    return (
        f"A small SAVi was trained for {recipe.optim.num_steps} steps on generated videos of 3 to 10 thrown objects, "
        f"told nothing but the objects' boxes in the first frame. On {reports[MODEL].num_videos} videos that it never "
        f"saw, each 24 frames long, it reaches an FG-ARI of {found:.1f}; copying the first frame's boxes to all "
        f"frames reaches {copied:.1f}. FG-ARI is 100 where every object is one slot through the whole video, and 0 "
        "where the grouping is no better than chance."
    )



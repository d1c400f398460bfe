"""What each command's line may say, and the one function that it then calls."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from torchslots.errors import UserError, nearest
from torchslots.training.recipe import DataConfig, EvalConfig, Recipe

if TYPE_CHECKING:
    from torchslots.data.loader import ClipDataset

Words = list[str]


def _parse(what: Any, words: Words, prog: str, **options: Any) -> Any:
    """Fill a dataclass, or call a function, from the line; a wrong line is explained and exits with 2."""
    return tyro.cli(
        what, args=words, prog=f"torchslots {prog}", config=(tyro.conf.AvoidSubcommands,), **options
    )


# ------------------------------------------------------------------------------------------------------- train


@dataclass(frozen=True)
class TrainLine:
    """Train a recipe. The same command again goes on where it stopped; Ctrl-C saves first."""

    root: Path
    """Folder with the data."""
    run: Path
    """Folder for checkpoints, logs, pictures and the finished model."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    dataset: Annotated[str | None, tyro.conf.arg(name="data")] = None
    """Data set by name, see `torchslots data list`; None: the recipe's own."""
    device: str | None = None
    """cpu, cuda or cuda:N; None: cuda where there is one."""
    tokenizer: str | None = None
    """Trained image code, for a model that draws in one: a run folder, a model folder, or owner/name on the hub. Its
    numbers take the place of `--model.tokenizer.*`."""
    slot_encoder: str | None = None
    """Trained model whose slot encoder to begin with, of the same kind: a run folder, a model folder, or owner/name on
    the hub. Its numbers take the place of `--model.slots.*`."""
    monitor: str | None = None
    """Metric whose highest value marks the best model; None: the usual one, fg_ari of slots, psnr of an image code."""
    draw: int = 4
    """Videos drawn at each evaluation."""
    wandb: bool = False
    """Log to Weights & Biases too."""
    skip_corrupt: bool = False
    """Leave damaged records out and count them, in place of stopping at the first."""


def train(words: Words) -> int:
    """`torchslots train RECIPE ...`."""
    from torchslots.parts import assemble, next_recipe
    from torchslots.recipes import catalog
    from torchslots.training import loop

    if not words or words[0].startswith("-"):
        print("Usage: torchslots train RECIPE --root DIR --run DIR [--data NAME] [overrides]")
        print("`torchslots train RECIPE --help` shows every number of a recipe with unit and default.")
        recipes([])
        return 0 if {"-h", "--help"} & set(words) else 2
    chosen = catalog.recipe(words[0])
    blank = TrainLine(root=tyro.MISSING, run=tyro.MISSING, recipe=chosen)
    line: TrainLine = _parse(TrainLine, words[1:], f"train {words[0]}", default=blank)
    recipe, model = assemble(
        _with_dataset(line.recipe, line.dataset), line.run, line.tokenizer, line.slot_encoder
    )
    train_set, eval_set = _open_sets(recipe, line.root)
    result = loop.train(
        recipe,
        model,
        train_set,
        eval_set,
        line.run,
        device=line.device,
        monitor=line.monitor,
        draw=line.draw,
        wandb=line.wandb,
        skip_corrupt=line.skip_corrupt,
    )
    print(f"{recipe.name}: {result.step} steps done. Next: torchslots evaluate {line.run} --root {line.root}")
    after = next_recipe(recipe)
    if after is not None:
        print(f"Then: torchslots train {after} --tokenizer {line.run} --root {line.root} --run DIR")
    return 0


def _with_dataset(recipe: Recipe, name: str | None) -> Recipe:
    return (
        recipe
        if name is None
        else dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, dataset=name))
    )


def _open_sets(recipe: Recipe, root: Path) -> "tuple[ClipDataset, ClipDataset]":
    """Training clips and whole videos for evaluation."""
    from torchslots.data.catalog import open_dataset

    train_set = open_dataset(recipe.data.dataset, root, recipe.data.train_split, recipe.data, True)
    return train_set, _whole_videos(recipe.data, recipe.evaluation, root)


def _whole_videos(data: DataConfig, evaluation: EvalConfig, root: Path) -> "ClipDataset":
    from torchslots.data.catalog import open_dataset

    whole = dataclasses.replace(data, num_frames=evaluation.num_frames)
    return open_dataset(data.dataset, root, evaluation.split, whole, False)


# ---------------------------------------------------------------------------------------------------- evaluate


@dataclass(frozen=True)
class EvaluateLine:
    """Judge a model on whole videos, and draw some. Under `torchrun` each video is still counted once."""

    model: tyro.conf.Positional[str]
    """A run folder, a model folder, or owner/name on the hub."""
    root: Path
    """Folder with the data."""
    dataset: Annotated[str | None, tyro.conf.arg(name="data")] = None
    """Data set by name; None: the one the run was trained on."""
    split: str | None = None
    """Split; None: the recipe's."""
    num_frames: int | None = None
    """Frames of each video; None: the recipe's."""
    slice_size: int | None = None
    """Frames that go through the model at once; None: the recipe's."""
    batch_size: int | None = None
    """Videos at once; None: the recipe's."""
    num_videos: int | None = None
    """Videos to evaluate; None: the whole split."""
    baseline: bool = True
    """Also judge the copying of the first frame's boxes."""
    out: Path | None = None
    """Folder for eval.json, curves and videos; None: `eval` in the run or model folder."""
    draw: int = 4
    """Videos to draw."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the matrix products."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    num_workers: int = 2
    """Data loading processes."""
    skip_corrupt: bool = False
    """Leave damaged records out and count them, in place of stopping at the first."""
    seed: int | None = None
    """Seed of slots that are drawn at random; None: the recipe's."""
    num_slots: int | None = None
    """Slots, for models that draw them at random; None: what it was built for."""
    num_iterations: int | None = None
    """Rounds of slot attention in each frame; None: what it was built for."""
    max_objects: int | None = None
    """Use only images and videos of at most this many objects; None: as in training."""
    restart_memory: bool = False
    """Forget the frames before each slice, as STATM's published evaluation does."""
    observe: int | None = None
    """Frames to show of each video; judged is then what the model predicts for those that follow, unseen."""
    rollout: int | None = None
    """Frames to predict behind the observed ones; None: all that follow."""


def evaluate(words: Words) -> int:
    """`torchslots evaluate MODEL ...`."""
    line: EvaluateLine = _parse(EvaluateLine, words, "evaluate")
    from torchslots.hub import load_trained
    from torchslots.training import evaluate as judge
    from torchslots.training.kinds import kind_of
    from torchslots.video import replacing

    model = _with_counts(load_trained(line.model, device=line.device), line)
    data, settings = _evaluation_numbers(line, model)
    out = line.out or (Path(line.model) / "eval" if Path(line.model).is_dir() else Path("eval"))
    if line.observe is not None or line.rollout is not None:
        return _evaluate_horizon(model, data, settings, line, out)
    with _processes(line.device) as (rank, world_size):
        dataset = _whole_videos(data, settings, line.root)
        report = kind_of(model).evaluate(
            model,
            _eval_stream(dataset, settings, line, rank, world_size, "Evaluating"),
            settings,
            device=line.device,
            precision=line.precision,
            draw=line.draw,
        )
        copied = None
        if line.baseline and {"boxes", "segmentations"} <= set(data.keys):
            stream = _eval_stream(dataset, settings, line, rank, world_size, "Copying boxes")
            copied = judge.box_copy_baseline(stream, settings)
    if line.num_iterations is not None:
        report.settings["num_iterations"] = line.num_iterations
    if rank == 0:
        report.save(out, gif=True)
        report.print_table()
        if copied is not None:
            with replacing(out / "box_copy.json") as part:
                part.write_text(copied.to_json() + "\n")
            _print_comparison({"model": report, "boxes copied": copied})
        print(f"Written to {out}")
    return 0


def _with_counts(model: Any, line: EvaluateLine) -> Any:
    """The model with as many slots and rounds as the line says."""
    from torchslots.counts import with_counts
    from torchslots.model import ObjectCentricModel

    if line.num_slots is None and line.num_iterations is None:
        return model
    if not isinstance(model, ObjectCentricModel):
        raise UserError(
            f"{line.model} is an image code, without slots: leave --num-slots and --num-iterations out."
        )
    return with_counts(model, num_slots=line.num_slots, num_iterations=line.num_iterations)


def _evaluate_horizon(
    model: Any, data: DataConfig, settings: EvalConfig, line: EvaluateLine, out: Path
) -> int:
    """Judge what is predicted without being seen."""
    import os

    from torchslots.model import ObjectCentricModel
    from torchslots.training.horizon import evaluate_rollout

    if not isinstance(model, ObjectCentricModel):
        raise UserError(
            f"{line.model} is an image code: it has no slots that could predict. Leave out --observe."
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("Prediction is judged by one process: run it without torchrun.")
    if line.observe is None or line.observe < 1 or (line.rollout is not None and line.rollout < 1):
        raise UserError(
            f"Prediction is judged after some observed frames: give --observe of 1 or more, and --rollout of 1 or more "
            f"or none, got {line.observe} and {line.rollout}."
        )
    dataset = _whole_videos(data, settings, line.root)
    stream = _eval_stream(dataset, settings, line, 0, 1, "Predicting")
    report = evaluate_rollout(
        model,
        stream,
        line.observe,
        line.rollout,
        slice_size=settings.slice_size,
        device=line.device,
        seed=settings.seed,
    )
    written = report.save(out)
    report.print_table()
    print(f"Written: {', '.join(str(path) for path in written)}")
    return 0


def _print_comparison(reports: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from torchslots.training.evaluate import compare

    header, rows = compare(reports)
    table = Table(*header, title="Beside the baseline")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _evaluation_numbers(line: EvaluateLine, model: Any) -> tuple[DataConfig, EvalConfig]:
    """The run's own numbers, or what the model's say, changed by the line."""
    from torchslots.recipes import catalog

    file = Path(line.model) / "recipe.json"
    if file.is_file():
        recipe = catalog.read_recipe(file)
        data, settings = recipe.data, recipe.evaluation
    else:
        data = DataConfig(resolution=model.config.resolution[0])
        settings = EvalConfig()
        if line.dataset is None:
            raise UserError(f"{line.model} is not a run with a recipe: name the data with --data.")
    wanted = ["video", "segmentations", "boxes", "properties", *(["flow"] if line.observe else [])]
    keys = tuple(key for key in wanted if key in data.keys)
    data = dataclasses.replace(data, keys=keys, dataset=line.dataset or data.dataset)
    if line.max_objects is not None:
        rows = max(line.max_objects, data.max_instances)
        data = dataclasses.replace(data, max_objects=line.max_objects, max_instances=rows)
    given = {
        name: getattr(line, name)
        for name in ("split", "num_frames", "slice_size", "batch_size", "num_videos", "seed")
    }
    settings = dataclasses.replace(settings, restart_memory=line.restart_memory or settings.restart_memory)
    return data, dataclasses.replace(
        settings, **{name: value for name, value in given.items() if value is not None}
    )


def _eval_stream(
    dataset: Any, settings: EvalConfig, line: EvaluateLine, rank: int, world_size: int, what: str
) -> Any:
    """Batches with a progress bar around them."""
    from torchslots.data.loader import eval_batches
    from torchslots.progress import progress

    total = len(dataset) if settings.num_videos is None else min(settings.num_videos, len(dataset))
    batches = eval_batches(
        dataset,
        batch_size=settings.batch_size,
        rank=rank,
        world_size=world_size,
        num_workers=line.num_workers,
        limit=settings.num_videos,
        skip_corrupt=line.skip_corrupt,
    )
    with progress(what, total, "videos") as advance:
        for batch in batches:
            yield batch
            advance(len(batch["video"]) * world_size)


class _processes:
    """This process' rank among those that `torchrun` or `accelerate launch` started; alone, 0 of 1."""

    def __init__(self, device: str):
        self.device, self.joined = device, False

    def __enter__(self) -> tuple[int, int]:
        import os

        import torch

        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return 0, 1
        torch.distributed.init_process_group("nccl" if self.device.startswith("cuda") else "gloo")
        self.joined = True
        return torch.distributed.get_rank(), torch.distributed.get_world_size()

    def __exit__(self, *error: object) -> None:
        import torch

        if self.joined:
            torch.distributed.destroy_process_group()


# ----------------------------------------------------------------------------------------------------- predict


def predict(words: Words) -> int:
    """`torchslots predict MODEL INPUT... --out DIR`."""
    from torchslots import inference

    defaults = inference.PredictOptions()

    def predict(
        model: tyro.conf.Positional[str],
        inputs: tyro.conf.Positional[tuple[Path, ...]],
        /,
        out: Path,
        options: Annotated[inference.PredictOptions, tyro.conf.arg(name="")] = defaults,
    ) -> list[Path]:
        """Segment pictures, videos, GIFs and folders of any length, slice by slice.

        Args:
            model: A run folder, a model folder, or owner/name on the hub.
            inputs: Pictures, videos, GIFs, folders of frames or of films.
            out: Folder for the results: overlay, masks, a strip of slots, slots.npz, tracks.json.
            options: How to read, think and write.
        """
        if not inputs:
            raise UserError("name at least one picture, video or folder behind the model.")
        return inference.predict(model, inputs, out, options)

    for folder in _parse(predict, words, "predict"):
        print(f"Written to {folder}")
    return 0


def edit(words: Words) -> int:
    """`torchslots edit MODEL INPUT... --out DIR`."""
    from torchslots import edit as editor

    defaults = editor.EditOptions()

    def edit(
        model: tyro.conf.Positional[str],
        inputs: tyro.conf.Positional[tuple[Path, ...]],
        /,
        out: Path,
        options: Annotated[editor.EditOptions, tyro.conf.arg(name="")] = defaults,
    ) -> list[editor.Edited]:
        """Number the slots of pictures and videos; remove, keep, move, resize, turn or swap some, and paint the rest.

        Args:
            model: A run folder, a model folder, or owner/name on the hub.
            inputs: Pictures, videos, GIFs, folders of frames or of films; two to swap slots between.
            out: Folder for the results: numbered slots, and what is painted before and after.
            options: What to change, by the numbers in the picture of slots.
        """
        if not inputs:
            raise UserError("name at least one picture, video or folder behind the model.")
        return editor.edit(model, inputs, out, options)

    for done in _parse(edit, words, "edit"):
        print(f"Written to {done.slots}" + (f" and {done.edited}" if done.edited else "") + f". {done.note}")
    return 0


# ------------------------------------------------------------------------------------------ originals and data


def convert(words: Words) -> int:
    """`torchslots convert CHECKPOINT --out DIR`."""
    from torchslots.convert.convert import convert

    print(_parse(convert, words, "convert"))
    return 0


def verify(words: Words) -> int:
    """`torchslots verify DIR...`; 1 where a check fails."""
    from torchslots.convert import golden

    def verify(
        folders: tyro.conf.Positional[tuple[Path, ...]],
        /,
        as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    ) -> int:
        """Run our models on recorded inputs of the original programs and compare every recorded tensor.

        Args:
            folders: Recorded cases: config.json, inputs.npz, outputs.npz and a checkpoint in the original's format.
            as_json: Print JSON in place of tables.
        """
        if not folders:
            raise UserError("name at least one folder with a recorded case.")
        results = golden.verify(list(folders))
        if as_json:
            print(golden.results_json(results))
        else:
            golden.print_results(results)
        return 0 if all(result.passed for result in results) else 1

    return _parse(verify, words, "verify")


def _data_commands() -> dict[str, tuple[str, Callable[..., Any]]]:
    from torchslots.data.catalog import data_list
    from torchslots.data.download import data_download
    from torchslots.data.prepare import data_prepare
    from torchslots.data.survey import data_inspect
    from torchslots.data.waymo_frames import prepare_waymo
    from torchslots.sim.images import generate_images
    from torchslots.sim.write import generate

    return {
        "list": ("what there is, with licences and sizes", data_list),
        "download": ("fetch a public data set, with resume and checksums", data_download),
        "inspect": ("print what is in a folder, draw a contact sheet, find damage", data_inspect),
        "prepare": ("cache only what a recipe needs: data prepare RECIPE, ready to train from", data_prepare),
        "generate": ("make videos with physics and a ray caster, as MOVi folders", generate),
        "generate-images": ("make Tetrominoes, rooms and CLEVR pictures, with masks", generate_images),
        "prepare-waymo": (
            "cut camera pictures and masks out of Waymo Open's original records",
            prepare_waymo,
        ),
    }


def _for_recipe(prepare: Callable[..., Any], words: Words) -> tuple[Callable[..., Any], Words]:
    """`data prepare` with the data settings and splits of the recipe that the line begins with, if it does."""
    from torchslots.recipes import catalog

    if not words or words[0].startswith("-"):
        return prepare, words
    recipe = catalog.recipe(words[0])
    splits = tuple(dict.fromkeys((recipe.data.train_split, recipe.evaluation.split)))
    return partial(prepare, config=recipe.data, splits=splits), words[1:]


def data(words: Words) -> int:
    """`torchslots data list|download|inspect|prepare|generate|generate-images`."""
    table = _data_commands()
    if not words or words[0] in ("-h", "--help"):
        print("Usage: torchslots data COMMAND [arguments]\n")
        width = max(map(len, table))
        print("\n".join(f"  {name:<{width}}  {purpose}" for name, (purpose, _) in table.items()))
        return 0 if words else 2
    if words[0] not in table:
        raise UserError(f"there is no data command `{words[0]}`. {nearest(words[0], table)}")
    command, rest = table[words[0]][1], words[1:]
    if words[0] == "prepare":
        command, rest = _for_recipe(command, rest)
    result = _parse(command, rest, f"data {words[0]}")
    return result if isinstance(result, int) else 0


def recipes(words: Words) -> int:
    """`torchslots recipes`: names, systems, what the papers report."""
    from torchslots.recipes import catalog

    def recipes(as_json: Annotated[bool, tyro.conf.arg(name="json")] = False) -> None:
        """List the recipes.

        Args:
            as_json: Print every number as JSON.
        """
        table = {
            name: (" ".join((make.__doc__ or "").split()), make()) for name, make in catalog.RECIPES.items()
        }
        if as_json:
            print(
                json.dumps(
                    {
                        name: {"about": about, **dataclasses.asdict(recipe)}
                        for name, (about, recipe) in table.items()
                    }
                )
            )
            return
        width = max(map(len, table))
        for name, (about, _) in table.items():
            print(f"  {name:<{width}}  {about}")

    _parse(recipes, words, "recipes")
    return 0


def report(words: Words) -> int:
    """`torchslots report RUN...`."""
    from torchslots.training.report import report

    def of_runs(
        runs: tyro.conf.Positional[tuple[Path, ...]],
        /,
        as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    ) -> None:
        """Mean and standard error over seeds, for runs grouped by recipe.

        Args:
            runs: Folders of `torchslots train`, or of `torchslots evaluate`.
            as_json: Print JSON in place of a table.
        """
        if not runs:
            raise UserError("name at least one run folder.")
        table = report(list(runs))
        print(table.to_json()) if as_json else table.print_table()

    _parse(of_runs, words, "report")
    return 0


def demo(words: Words) -> int:
    """`torchslots demo`."""
    from torchslots.demo import demo

    print(f"Open {_parse(demo, words, 'demo')} in a browser.")
    return 0


# ------------------------------------------------------------------------------------------------------- bench


def bench(words: Words) -> int:
    """`torchslots bench RECIPE ...`."""
    from torchslots.bench import growth
    from torchslots.bench import step as measured
    from torchslots.bench.timing import table

    defaults, axes = measured.BenchOptions(), growth.GrowthOptions()

    def bench(
        recipe: tyro.conf.Positional[str] = "savi_small",
        options: tyro.conf.OmitArgPrefixes[measured.BenchOptions] = defaults,
        curves: tyro.conf.OmitArgPrefixes[growth.GrowthOptions] = axes,
        plot: bool = False,
        out: Path = Path("growth"),
        as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    ) -> int:
        """Time a recipe's training step and inference on random data, at its own size or another.

        Args:
            recipe: Name in `torchslots recipes`.
            options: What to measure.
            curves: Where the curves of --plot run.
            plot: Measure how speed and memory grow with batch, frames, slots and resolution, and plot it.
            out: Folder for growth.json and growth.png.
            as_json: Print JSON alone, without the table.
        """
        if plot:
            return _plot_growth(recipe, options, curves, out)
        report = measured.bench(recipe, options)
        print(json.dumps(report, indent=2))
        if not as_json:
            print(table(report))
        return 0

    return _parse(bench, words, "bench")


def _plot_growth(recipe: str, options: Any, curves: Any, out: Path) -> int:
    from torchslots.bench import growth
    from torchslots.recipes import catalog

    words = ["--precision", options.precision, "--steps", str(options.steps)]
    words += ["--compile"] if options.compile else []
    words += ["--recompute"] if options.recompute else []
    words += [] if options.device is None else ["--device", options.device]
    words += [] if options.threads is None else ["--threads", str(options.threads)]
    one_frame = catalog.recipe(recipe).data.num_frames == 1
    found = growth.grow(curves, growth.in_a_process(recipe, words), one_frame)
    written = growth.save(found, recipe, out)
    for curve in found:
        print(curve.verdict())
    print(f"Written: {', '.join(str(path) for path in written)}")
    return 0

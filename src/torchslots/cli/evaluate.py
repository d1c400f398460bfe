"""`torchslots evaluate`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torchslots.cli.options import (
    NetworkOptions,
    VideosOptions,
    Words,
    networks_of,
    numbers_of,
    out_folder,
    parse,
    whole_videos,
)
from torchslots.inference.generation import SamplingOptions
from torchslots.io.errors import UserError
from torchslots.io.processes import demand_one_process, processes
from torchslots.recipes.config import DataConfig, EvalConfig

if TYPE_CHECKING:
    from torchslots.evaluation.observers import Observer


@dataclass(frozen=True)
class EvaluateOptions(NetworkOptions, VideosOptions):
    """Judge a model on whole videos, and draw some. Under `torchrun` each video is still counted once."""

    baseline: bool = True
    """Also judge the copying of the first frame's boxes."""
    out: Path | None = None
    """Folder for eval.json, curves and videos; None: `eval` in the run or model folder."""
    draw: int = 4
    """Videos to draw."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the matrix products."""
    skip_corrupt: bool = False
    """Leave damaged records out and count them, in place of stopping at the first."""
    seed: int | None = None
    """Seed of slots that are drawn at random; None: the recipe's."""
    num_slots: int | None = None
    """Slots, for models that draw them at random; None: what it was built for."""
    num_iterations: int | None = None
    """Rounds of slot attention in each frame; None: what it was built for."""
    restart_memory: bool = False
    """Forget the frames before each slice, as STATM's published evaluation does."""
    observe: int | None = None
    """Frames to show of each video; judged is then what the model predicts for those that follow, unseen."""
    rollout: int | None = None
    """Frames to predict behind the observed ones; None: all that follow."""
    recon: bool = False
    """Also judge every frame as the model paints it: MSE, PSNR, SSIM; LPIPS, FID and FVD where their networks' weights
    are here; and what its image code alone could reach. Models that generate take far longer for it. --weights,
    --download and --write-videos include it."""
    write_videos: Path | None = None
    """Folder for `gt_vids` and `recon_vids`, in each a folder for every video with a PNG for every frame. None: not
    written."""
    paint: SamplingOptions = field(default_factory=SamplingOptions)

    @property
    def reconstructs(self) -> bool:
        """Whether all frames are to be painted."""
        return self.recon or self.write_videos is not None or bool(self.weights) or self.download


def evaluate(words: Words) -> int:
    """`torchslots evaluate MODEL ...`."""
    line: EvaluateOptions = parse(EvaluateOptions, words, "evaluate")
    from torchslots.evaluation import evaluate as judge
    from torchslots.evaluation.dispatch import kind_of
    from torchslots.hub import load_trained
    from torchslots.io.files import write_file

    model = _as_told(load_trained(line.model, device=line.device), line)
    data, settings = _numbers(line, model)
    out = line.out or out_folder(line, "eval")
    if line.observe is not None or line.rollout is not None:
        return _evaluate_horizon(model, data, settings, line, out)
    with processes(line.device) as (rank, world_size):
        dataset = whole_videos(data, settings, line.root)
        stream = partial(_stream, dataset, settings, line, rank, world_size)
        onlookers, notes = _onlookers(model, line, rank, world_size)
        report = kind_of(model).evaluate(
            model,
            stream("Evaluating"),
            settings,
            device=line.device,
            precision=line.precision,
            draw=line.draw,
            onlookers=onlookers,
        )
        copied = None
        if line.baseline and {"boxes", "segmentations"} <= set(data.keys):
            copied = judge.box_copy_baseline(stream("Copying boxes"), settings)
    report.notes.extend(notes)
    if line.num_iterations is not None:
        report.settings["num_iterations"] = line.num_iterations
    if line.paint.given():
        report.settings["paint"] = line.paint.given()
    if rank == 0:
        report.save(out, gif=True)
        report.print_table()
        if copied is not None:
            write_file(out / "box_copy.json", copied.to_json() + "\n")
            _print_comparison({"model": report, "boxes copied": copied})
        print(f"Written to {out}")
    return 0


def _numbers(line: EvaluateOptions, model: Any) -> tuple[DataConfig, EvalConfig]:
    flow = ("flow",) if line.observe else ()
    data, settings = numbers_of(line, model, ("video", "segmentations", "boxes", "properties", *flow))
    seed = settings.seed if line.seed is None else line.seed
    restart = line.restart_memory or settings.restart_memory
    return data, dataclasses.replace(settings, seed=seed, restart_memory=restart)


def _stream(
    dataset: Any, settings: EvalConfig, line: EvaluateOptions, rank: int, world_size: int, what: str
) -> Any:
    from torchslots.evaluation.evaluate import shown_batches

    ours: dict[str, Any] = {"rank": rank, "world_size": world_size, "num_workers": line.num_workers}
    return shown_batches(dataset, settings, what, skip_corrupt=line.skip_corrupt, **ours)


def _as_told(model: Any, line: EvaluateOptions) -> Any:
    """The model with as many slots and rounds as the line says, drawing as it says."""
    from torchslots.inference.generation import require_frames, with_sampling
    from torchslots.models.adjust import with_counts
    from torchslots.models.model import ObjectCentricModel

    if isinstance(model, ObjectCentricModel):
        if line.reconstructs:
            require_frames(model)
        if line.num_slots is not None or line.num_iterations is not None:
            model = with_counts(model, num_slots=line.num_slots, num_iterations=line.num_iterations)
        return with_sampling(model, line.paint)
    if line.num_slots is not None or line.num_iterations is not None:
        raise UserError(
            f"{line.model} is an image code, without slots: leave --num-slots and --num-iterations out."
        )
    if line.paint.given():
        raise UserError(f"{line.model} is an image code, which draws in one way alone: leave --paint.* out.")
    return model


def _onlookers(
    model: Any, line: EvaluateOptions, rank: int, world_size: int
) -> tuple[Sequence["Observer"], list[str]]:
    """Who is told of painted frames, and a sentence for each figure that is left out."""
    if not line.reconstructs:
        return (), []
    from torchslots.evaluation.observers import Ceiling, FrameFolders, ReconstructionFigures, own_code
    from torchslots.metrics.reconstruction import NETWORK_METRICS, PictureScores
    from torchslots.models.model import ObjectCentricModel

    networks, notes = networks_of(line, NETWORK_METRICS)
    scores = PictureScores(networks, published_order=line.published_order, device=line.device)
    told: list[Observer] = [ReconstructionFigures(scores)]
    code = own_code(model.decoder) if isinstance(model, ObjectCentricModel) else None
    if code is not None:
        told.append(Ceiling(code, networks, line.device))
    if line.write_videos is not None:
        told.append(FrameFolders(line.write_videos, line.published_order, rank, world_size))
    return told, notes


def _evaluate_horizon(
    model: Any, data: DataConfig, settings: EvalConfig, line: EvaluateOptions, out: Path
) -> int:
    """Judge what is predicted without being seen."""
    from torchslots.evaluation.rollout import evaluate_rollout
    from torchslots.models.model import ObjectCentricModel

    if not isinstance(model, ObjectCentricModel):
        raise UserError(
            f"{line.model} is an image code: it has no slots that could predict. Leave out --observe."
        )
    demand_one_process("Prediction is judged")
    if line.observe is None or line.observe < 1 or (line.rollout is not None and line.rollout < 1):
        raise UserError(
            f"Prediction is judged after some observed frames: give --observe of 1 or more, and --rollout of 1 or more "
            f"or none, got {line.observe} and {line.rollout}."
        )
    stream = _stream(whole_videos(data, settings, line.root), settings, line, 0, 1, "Predicting")
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

    from torchslots.evaluation.report import compare

    header, rows = compare(reports)
    table = Table(*header, title="Beside the baseline")
    for row in rows:
        table.add_row(*row)
    Console().print(table)

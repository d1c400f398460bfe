"""Evaluate a trained model on the whole videos of a data set."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torchslots.evaluation import evaluate as passes
from torchslots.evaluation.first_frames import FirstFrames
from torchslots.evaluation.frame_folders import Films, FrameFolders
from torchslots.evaluation.kept import Kept
from torchslots.evaluation.observers import Observer, ReconstructionFigures
from torchslots.evaluation.report import EvalReport
from torchslots.evaluation.result_page import write_result_page
from torchslots.evaluation.rollout import HorizonReport, evaluate_rollout
from torchslots.evaluation.seeds import DATA_SETTINGS
from torchslots.evaluation.tokenizer import Ceiling
from torchslots.evaluation.videos import whole_videos
from torchslots.hub import load_trained
from torchslots.inference.finished import model_key
from torchslots.inference.generation import SamplingOptions, require_frames, with_sampling
from torchslots.inference.videos import NetworkOptions, VideosOptions, networks_of, settings_of
from torchslots.io.counts import count_text
from torchslots.io.devices import choose_device, figures_device
from torchslots.io.errors import UserError
from torchslots.io.files import write_file
from torchslots.io.processes import demand_one_process, processes
from torchslots.metrics.reconstruction import NETWORK_METRICS, ReconstructionScores
from torchslots.models.adjust import with_counts
from torchslots.models.model import ObjectCentricModel
from torchslots.models.tokenizers.base import Tokenizer
from torchslots.recipes.config import DataConfig, EvalConfig, with_changes
from torchslots.recipes.protocols import find

_KEYS = ("video", "segmentations", "boxes", "properties")


@dataclass(frozen=True)
class EvaluateOptions(NetworkOptions, VideosOptions):
    """Metrics and videos of an evaluation."""

    baseline: bool = True
    """Also evaluate copies of the first frame's boxes."""
    num_plots: int = 4
    """Videos to plot."""
    backbone: str | None = None
    """Weights of the backbone of a model that was saved without: a file or a folder; None: from the hub."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the matrix products."""
    skip_corrupt: bool = False
    """Leave damaged records out and count them, in place of stopping at the first."""
    protocol: str | None = None
    """Published evaluation whose conventions figures follow: savi, videosaur, slotcontrast, vs_dinosaur, dinosaur,
    ftdinosaur, davis. None: the recipe's."""
    seed: int | None = None
    """Seed of sampled slots; None: the recipe's."""
    num_slots: int | None = None
    """Number of slots, for models that sample them; None: as the model was built."""
    num_iterations: int | None = None
    """Rounds of slot attention in each frame; None: as the model was built."""
    restart_memory: bool = False
    """Start each slice without the frames before, as in STATM's published evaluation."""
    observe: int | None = None
    """Frames to observe of each video; the evaluation is then of the frames that the model predicts after them."""
    rollout: int | None = None
    """Frames to predict after the observed ones; None: all that follow."""
    recon: bool = False
    """Also evaluate every decoded frame: MSE, PSNR, SSIM; LPIPS, FID and FVD if their networks' weights are on this
    machine; and the same of the tokenizer alone. Generative models take far longer. --weights, --download and
    --write-videos imply it."""
    write_videos: Path | None = None
    """Folder for `gt_vids` and `recon_vids`, in each a folder for every video with a PNG for every frame. None: not
    written."""
    published_order: bool = False
    """Name written frames 0.png, 1.png, ..., and put them into the order 0, 1, 10, 11, ... for FVD, as in the published
    figures; otherwise 00000.png, ..., in the order of time."""
    write_films: Path | None = None
    """Folder for `N_gt.mp4` and `N_recon.mp4` of every video N, at 8 frames per second. None: not written."""
    lengths: tuple[int, ...] = ()
    """Also evaluate the first so many frames of each video, as figures `..._first_N`: several lengths in one pass."""
    overwrite: bool = False
    """Begin anew where the same evaluation was interrupted; otherwise it goes on with the videos that are left."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    @property
    def reconstructs(self) -> bool:
        """Whether all frames are decoded."""
        written = self.write_videos is not None or self.write_films is not None
        return self.recon or written or bool(self.weights) or self.download


class Evaluation(NamedTuple):
    """The report, and that of copied boxes; None: no boxes, or not requested."""

    report: EvalReport | HorizonReport
    baseline: EvalReport | None = None


def evaluate(
    model: ObjectCentricModel | Tokenizer | str | Path,
    root: str | Path,
    options: EvaluateOptions = EvaluateOptions(),
    *,
    out: str | Path | None = None,
    **changes: Any,
) -> EvalReport | HorizonReport:
    """Measure a model on whole videos: FG-ARI, ARI, mIoU and mBO of slots, PSNR and SSIM of reconstructions.

    The public `evaluate` also takes names of published checkpoints (`convert/evaluate_by_name.py`).

    Raises:
        UserError: as of the public function.
    """
    options = with_changes(options, **changes)
    if out is None:
        options = dataclasses.replace(options, baseline=False)
    return evaluate_with_baseline(model, root, options, out).report


def evaluate_with_baseline(
    model: ObjectCentricModel | Tokenizer | str | Path,
    root: str | Path,
    options: EvaluateOptions,
    out: str | Path | None = None,
) -> Evaluation:
    """As `evaluate`, with the baseline of the first frame's boxes.

    Raises:
        UserError: as `evaluate`.
    """
    where = model if isinstance(model, str | Path) else None
    if isinstance(model, str | Path):
        model = load_trained(model, device=choose_device(options.device), backbone=options.backbone)
    device = str(next(model.parameters()).device)
    options = dataclasses.replace(options, device=device)
    ready = _adjusted(model, where or "The model", options)
    keys = (*_KEYS, "flow") if options.observe else _KEYS
    data, settings = settings_of(where, ready, options, keys, Path(root))
    seed = settings.seed if options.seed is None else options.seed
    restart = options.restart_memory or settings.restart_memory
    protocol = settings.protocol if options.protocol is None else options.protocol
    find(protocol)
    settings = dataclasses.replace(settings, seed=seed, restart_memory=restart, protocol=protocol)
    folder = None if out is None else Path(out)
    if options.observe is not None or options.rollout is not None:
        return Evaluation(_evaluate_rollout(ready, where, data, settings, Path(root), options, folder))
    with processes(device) as (rank, world_size):
        dataset = whole_videos(data, settings, Path(root))
        batches = partial(_batches, dataset, settings, options, rank, world_size)
        observers, notes = _observers(ready, options, rank, world_size)
        observers = [*observers, *_beginnings(ready, options, settings)]
        how = {"device": device, "precision": options.precision, "num_plots": options.num_plots}
        kept = _kept(ready, folder, Path(root), data, settings, options, rank)
        report = passes.evaluate(
            ready, batches("Evaluating"), settings, observers=observers, kept=kept, **how
        )
        copied = None
        compared = options.baseline and isinstance(ready, ObjectCentricModel)
        if compared and not report.labelled:
            notes = [*notes, "Without masks, copies of the first frame's boxes are not evaluated."]
        elif compared and {"boxes", "segmentations"} <= set(data.keys):
            copied = passes.box_copy_baseline(batches("Copying boxes"), settings)
    report.notes.extend(notes)
    report.settings.update((name, getattr(data, name)) for name in DATA_SETTINGS)
    if options.num_iterations is not None:
        report.settings["num_iterations"] = options.num_iterations
    if options.sampling.given():
        report.settings["sampling"] = options.sampling.given()
    if rank == 0 and folder is not None:
        written = report.save(folder, gif=True)
        if copied is not None:
            write_file(folder / "box_copy.json", copied.to_json() + "\n")
        reports = {"model": report} | ({} if copied is None else {"boxes copied": copied})
        named = type(ready).__name__ if where is None else "/".join(Path(where).resolve().parts[-2:])
        write_result_page(folder, f"Evaluation of {named}", reports, written, _about(report, data))
    if kept is not None:
        kept.remove()
    return Evaluation(report, copied)


def _about(report: EvalReport, data: DataConfig) -> str:
    """What was evaluated, for the page."""
    split, frames = report.settings["split"], report.settings["num_frames"]
    length = f", up to {frames} frames of each" if frames > 1 else ""
    return (
        f"{count_text(report.num_videos, 'example')} of the split `{split}` of `{data.dataset}`{length}. Written "
        "by `torchslots "
        "evaluate`; eval.json has the same figures for programs."
    )


def _kept(
    model: Any,
    folder: Path | None,
    root: Path,
    data: DataConfig,
    settings: EvalConfig,
    options: EvaluateOptions,
    rank: int,
) -> Kept | None:
    """Where this process keeps results until all are there; None where nothing is written, or codes are sampled one
    after the other from one source of random numbers."""
    if folder is None or options.sampling.temperature is not None:
        return None
    about = [str(root.resolve()), asdict(data), asdict(settings), asdict(options.sampling)]
    about += [options.precision, options.num_slots, options.num_iterations, options.num_plots]
    key = f"{model_key(model, model.config)} {options.reconstructs} {options.baseline}"
    told = json.dumps([key, about, str(options.device)], default=str)
    kept = Kept(folder, hashlib.blake2b(told.encode()).hexdigest(), rank, options.overwrite)
    if kept.resumes and rank == 0:
        print(f"Going on with the evaluation that was interrupted in {folder}.", file=sys.stderr, flush=True)
    return kept


def _beginnings(model: Any, options: EvaluateOptions, settings: EvalConfig) -> list[Observer[Any]]:
    """An observer for each length of `lengths`.

    Raises:
        UserError: a length that is not between 1 and the number of frames, or a model without slots.
    """
    if options.lengths and not isinstance(model, ObjectCentricModel):
        raise UserError("A tokenizer has no slots to evaluate over frames: leave --lengths out.")
    wrong = [length for length in options.lengths if not 1 <= length <= settings.num_frames]
    if wrong:
        raise UserError(
            f"--lengths takes numbers of frames from 1 to {settings.num_frames}, those that are evaluated, got "
            f"{wrong[0]}. Raise --num-frames, or leave it out."
        )
    device = figures_device(choose_device(options.device))
    return [FirstFrames(settings, length, device) for length in dict.fromkeys(options.lengths)]


def _batches(
    dataset: Any, settings: EvalConfig, options: EvaluateOptions, rank: int, world_size: int, what: str
) -> Any:
    how = {"skip_corrupt": options.skip_corrupt, "num_workers": options.num_workers}
    return passes.shown_batches(dataset, settings, what, rank=rank, world_size=world_size, **how)


def _adjusted(model: Any, where: str | Path, options: EvaluateOptions) -> Any:
    """The model with the number of slots, the rounds and the sampling of the options."""
    if isinstance(model, ObjectCentricModel):
        if options.reconstructs:
            require_frames(model)
        if options.num_slots is not None or options.num_iterations is not None:
            model = with_counts(model, num_slots=options.num_slots, num_iterations=options.num_iterations)
        return with_sampling(model, options.sampling)
    if options.num_slots is not None or options.num_iterations is not None:
        raise UserError(f"{where} is a tokenizer, without slots: leave --num-slots and --num-iterations out.")
    if options.sampling.given():
        raise UserError(f"{where} is a tokenizer, which decodes without sampling: leave --sampling.* out.")
    return model


def _observers(
    model: Any, options: EvaluateOptions, rank: int, world_size: int
) -> tuple[Sequence[Observer[Any]], list[str]]:
    """Observers that evaluate and write decoded frames, and a note for each metric that is left out."""
    if not options.reconstructs:
        return (), []
    networks, notes = networks_of(options, NETWORK_METRICS)
    device = next(model.parameters()).device
    scores = ReconstructionScores(
        networks, published_order=options.published_order, device=figures_device(device)
    )
    observers: list[Observer[Any]] = [ReconstructionFigures(scores)]
    round_trip = model.decoder.round_trip() if isinstance(model, ObjectCentricModel) else None
    if round_trip is not None:
        observers.append(Ceiling(round_trip, networks, device))
    if options.write_videos is not None:
        observers.append(FrameFolders(options.write_videos, options.published_order, rank, world_size))
    if options.write_films is not None:
        observers.append(Films(options.write_films, rank, world_size))
    return observers, notes


def _evaluate_rollout(
    model: Any,
    where: str | Path | None,
    data: DataConfig,
    settings: EvalConfig,
    root: Path,
    options: EvaluateOptions,
    out: Path | None,
) -> HorizonReport:
    """Evaluate frames that are predicted without observations."""
    if not isinstance(model, ObjectCentricModel):
        raise UserError(
            f"{where or 'The model'} is a tokenizer, with no slots that could predict. Leave out --observe."
        )
    demand_one_process("Prediction is evaluated")
    observe, ahead = options.observe, options.rollout
    if observe is None or observe < 1 or (ahead is not None and ahead < 1):
        raise UserError(
            f"Prediction follows observed frames: give --observe of 1 or more, and --rollout of 1 or more or none, got "
            f"{observe} and {ahead}."
        )
    batches = _batches(whole_videos(data, settings, root), settings, options, 0, 1, "Predicting")
    how = {
        "slice_size": settings.slice_size,
        "device": next(model.parameters()).device,
        "seed": settings.seed,
    }
    report = evaluate_rollout(model, batches, observe, ahead, **how)
    if out is not None:
        report.save(out)
    return report

"""Track thrown objects in generated videos, from the boxes of the first frame."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from torchslots.cli.demo.plan import UNTRAINED, Kind, Plan, Result, Sets, Shown, batches_of, percent
from torchslots.io import draw
from torchslots.io.counts import count_text
from torchslots.models.decoders.broadcast import BroadcastDecoder

if TYPE_CHECKING:
    from torchslots.evaluation.page import Section
    from torchslots.evaluation.report import EvalReport
    from torchslots.evaluation.rollout import HorizonReport

COPY = "boxes copied"
_SIZE = 64
_FPS = 6
_TARGETS = {"video": "image", "flow": "optical flow", "depth": "depth"}
"""Names of a decoder's targets."""
_EDGE = 16
"""Pixels around a panel, for the border that marks predicted frames."""
_AHEAD = "The first held-out video: {observe} frames observed, the others (orange border) predicted."
_HOW_TO_READ = (
    "From left to right and top to bottom: the input; the true objects; the predicted ones, in the same colours; "
    "the reconstruction; and each slot alone. Slot 0 is the background, the others start from the boxes of the first "
    "frame and must follow their objects."
)


def make_sets(plan: Plan, resolution: int = _SIZE, **scenes: Any) -> Sets:
    """Generate training clips and whole held-out videos, both read from the arrays of `data prepare`.

    Args:
        resolution: Pixels of each side of the generated videos.
        scenes: Other arguments of `generate`.
    """
    from torchslots.data.catalog import open_dataset
    from torchslots.data.prepare import prepare
    from torchslots.sim.generate_videos import generate

    generate(
        plan.data, train=plan.count, validation=plan.held_out, resolution=resolution, seed=plan.seed, **scenes
    )
    wanted, run_pass = plan.recipe.data, plan.recipe.evaluation
    cache = plan.data / "prepared"
    for split in (wanted.train_split, run_pass.split):
        prepare(open_dataset(wanted.dataset, plan.data, split, wanted, True), cache, num_workers=2)
    whole = replace(wanted, num_frames=run_pass.num_frames)
    return Sets(
        open_dataset("prepared", cache, wanted.train_split, wanted, True),
        open_dataset("prepared", cache, run_pass.split, whole, False),
    )


def copied_boxes(plan: Plan, sets: Sets) -> "dict[str, EvalReport]":
    """The first frame's boxes, copied to all frames."""
    from torchslots.evaluation.evaluate import box_copy_baseline

    batches = batches_of(plan, sets.held_out, f"Evaluating: {COPY}")
    return {COPY: box_copy_baseline(batches, plan.recipe.evaluation)}


def introduce(result: Result) -> str:
    """What was trained, and its figures."""
    plan, found = result.plan, result.plan.demo.name
    targets = " and ".join(_TARGETS[name] for name in cast(BroadcastDecoder, result.model.decoder).targets)
    return (
        f"A small {plan.demo.about} was trained for {count_text(plan.recipe.optim.num_steps, 'step')} on "
        f"{plan.count} generated "
        f"videos of 3 to 10 thrown objects. It learned to decode each frame's {targets} from its slots, given "
        f"only the objects' boxes in the first frame. On "
        f"{count_text(result.own.num_videos, 'held-out video')}, each "
        f"{count_text(plan.recipe.evaluation.num_frames, 'frame')} long, "
        f"it reaches an FG-ARI of {percent(result, found, 'fg_ari')}; copying the first frame's boxes to all frames "
        f"reaches {percent(result, COPY, 'fg_ari')}, the same model before training "
        f"{percent(result, UNTRAINED, 'fg_ari')}. FG-ARI is 100 where every object is one slot through the whole "
        "video, and 0 where the grouping is no better than chance."
    )


def show(result: Result) -> Shown:
    """Films of held-out videos, and FG-ARI of each frame."""
    from torchslots.evaluation.page import Image, Text, Video
    from torchslots.evaluation.report import write_panel

    sections: list[Section] = [Text(_HOW_TO_READ)]
    for index, plotted in enumerate(result.own.panels):
        path, _ = write_panel(plotted.panel(128), result.plan.pictures / f"video_{index}", _FPS, gif=True)
        sections.append(Video(path, f"Held-out video {plotted.name}"))
    caption = "FG-ARI of each frame alone: copied boxes fit the first frame only."
    return Shown([*sections, Image(_plot_frames(result), caption)], {})


def _plot_frames(result: Result) -> Path:
    per_frame: Any = {
        name: (list(range(len(report.curves["fg_ari"]))), report.curves["fg_ari"])
        for name, report in result.reports.items()
    }
    path = result.plan.pictures / "fg_ari_per_frame.png"
    return draw.plot_curves(per_frame, path, title="FG-ARI of each frame", x_label="frame", y_label="FG-ARI")


def show_memory(result: Result) -> Shown:
    """Like `show`, with frames predicted without observations."""
    from torchslots.evaluation.page import Heading, Image, Row, Text, Video
    from torchslots.evaluation.rollout import evaluate_rollout

    plain, plan = show(result), result.plan
    frames = plan.recipe.evaluation.num_frames
    observe = frames // 2
    batches = batches_of(plan, result.sets.held_out, "Evaluating: rollout")
    found = evaluate_rollout(result.model, batches, observe, device=plan.device)
    plots = [path for path in found.save(plan.pictures) if path.suffix == ".png"]
    sections: list[Section] = [
        Heading("Without input"),
        Text(_horizon_text(found, frames - observe)),
        Row([Image(path, "Predicted frames, beside the last observed one repeated.") for path in plots]),
        Video(_film_ahead(result, observe), _AHEAD.format(observe=observe)),
    ]
    return Shown(plain.sections + sections, {"horizon": json.loads(found.to_json())})


def _horizon_text(found: "HorizonReport", horizon: int) -> str:
    ahead, copied = (100 * found.metrics[name] for name in ("fg_ari", "copy_fg_ari"))
    text = (
        f"After {found.observed} observed frames the predictor continues alone for {horizon}, from its memory, and "
        f"every frame is decoded. Over these {horizon} frames its FG-ARI is {ahead:.1f}; repeating its segmentation of "
        f"the last observed frame has {copied:.1f}."
    )
    for key, what in _TARGETS.items():
        if f"psnr_{key}" in found.metrics:
            text += (
                f" The decoded {what} has a PSNR of {found.metrics[f'psnr_{key}']:.1f} dB; repeating the last true one "
                f"has {found.metrics[f'copy_psnr_{key}']:.1f} dB."
            )
    return text + " It was trained to explain the frames that it sees, never to predict others."


def _film_ahead(result: Result, observe: int) -> Path:
    """The first held-out video: observed frames, then predicted ones."""
    from torchslots.data.loader import eval_batches
    from torchslots.evaluation.panels import VideoPanel
    from torchslots.evaluation.report import write_panel
    from torchslots.models.model import rollout

    batch = next(eval_batches(result.sets.held_out, batch_size=1, limit=1))
    batch = {
        key: value.to(result.plan.device) for key, value in batch.items() if isinstance(value, torch.Tensor)
    }
    frames = batch["video"].shape[1]
    plot = VideoPanel(0)
    plot.add(batch, rollout(result.model, batch, observe, frames - observe, slot_recon=True))
    panel = np.pad(plot.finish("").panel(128), ((0, 0), (_EDGE, _EDGE), (_EDGE, _EDGE), (0, 0)))
    for index in range(observe, len(panel)):
        panel[index] = draw.mark_predicted(panel[index])
    return write_panel(panel, result.plan.pictures / "rollout", _FPS, gif=True)[0]


TRACKING = Kind(
    unit="videos",
    count=320,
    held_out=24,
    monitor="fg_ari",
    make_sets=make_sets,
    baselines=copied_boxes,
    introduce=introduce,
    show=show,
)
MEMORY = replace(TRACKING, show=show_memory)

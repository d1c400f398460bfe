"""`torchslots compose` and `torchslots concepts`: new pictures and videos from the slots of a data set."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from torchslots.io.processes import processes

_KEYS = ("video", "boxes", "segmentations")


@dataclass(frozen=True)
class ComposeCommand(NetworkOptions, VideosOptions):
    """Exchange slots across the videos of a data set at random, paint the new videos, and measure how real they look
    (FVD, FID). Works under `torchrun` too."""

    reference_shift: bool = False
    """Exchange by the published evaluation's fixed shift within each batch, in place of at random over all videos; with
    --batch-size 1 it exchanges nothing."""
    seed: int = 0
    """Of the random exchange."""
    draw: int = 4
    """Compositions to draw beside the videos that their slots come from."""
    chunk: int = 24
    """Frames painted at once; fewer need less memory."""
    out: Path | None = None
    """Folder for compose.json and films; None: `compose` in the run or model folder."""
    write_videos: Path | None = None
    """Folder for `comp_vids` and `gt_vids`, in each a folder for every video with a PNG for every frame; None: not
    written."""
    paint: SamplingOptions = field(default_factory=SamplingOptions)


def compose(words: Words) -> int:
    """`torchslots compose MODEL ...`."""
    line: ComposeCommand = parse(ComposeCommand, words, "compose")
    from torchslots.inference.compose import ComposeOptions, compose_videos, save
    from torchslots.metrics.reconstruction import SET_METRICS

    model = _painter(line, line.paint)
    data, settings = numbers_of(line, model, _KEYS)
    options = ComposeOptions(
        line.reference_shift, line.seed, line.draw, line.chunk, line.write_videos, line.published_order
    )
    networks, missing = networks_of(line, SET_METRICS)
    with processes(line.device) as (rank, world_size):
        report = compose_videos(
            model,
            whole_videos(data, settings, line.root),
            settings,
            options,
            networks=networks,
            device=line.device,
            num_workers=line.num_workers,
            rank=rank,
            world_size=world_size,
        )
    report.notes.extend(missing)
    report.settings["paint"] = line.paint.given()
    if rank == 0:
        written = save(report, line.out or out_folder(line, "compose"))
        report.print_table()
        print(f"Written: {', '.join(str(path) for path in written)}")
    return 0


def _painter(line: VideosOptions, paint: SamplingOptions) -> Any:
    """The model, drawing as the line says."""
    from torchslots.hub import load_model
    from torchslots.inference.generation import with_sampling

    return with_sampling(load_model(line.model, device=line.device), paint)

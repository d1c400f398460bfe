"""TODO."""

from dataclasses import dataclass, field
from pathlib import Path

from torchslots.cli.compose import _KEYS, _painter
from torchslots.cli.options import (
    VideosOptions,
    Words,
    numbers_of,
    out_folder,
    parse,
    whole_videos,
)
from torchslots.inference.generation import SamplingOptions
from torchslots.io.processes import demand_one_process


@dataclass(frozen=True)
class ConceptsCommand(VideosOptions):
    """Cluster the slots of a data set into concepts, show them, and paint new pictures from one slot of each."""

    num_concepts: int | None = None
    """Clusters; None: as many as the model has slots."""
    samples: int = 16
    """Pictures to paint; 0: none."""
    seed: int = 0
    """Of clusters and samples."""
    every: int = 6
    """Take the slots of every so many frames of a video, the first among them."""
    nearest: int = 8
    """Slots to show of each concept: those nearest to its centre."""
    chunk: int = 24
    """Pictures painted at once; fewer need less memory."""
    out: Path | None = None
    """Folder for the library and pictures; None: `concepts` in the run or model folder."""
    paint: SamplingOptions = field(default_factory=SamplingOptions)


def concepts(words: Words) -> int:
    """`torchslots concepts MODEL ...`."""
    line: ConceptsCommand = parse(ConceptsCommand, words, "concepts")
    from torchslots.inference.concepts import ConceptOptions
    from torchslots.inference.concepts import concepts as cluster

    demand_one_process("Concepts are found")
    options = ConceptOptions(line.num_concepts, line.samples, line.seed, line.every, line.nearest, line.chunk)
    model = _painter(line, line.paint)
    data, settings = numbers_of(line, model, _KEYS)
    dataset = whole_videos(data, settings, line.root)
    where = {"device": line.device, "num_workers": line.num_workers}
    out = line.out or out_folder(line, "concepts")
    found = cluster(model, dataset, settings, out, options, **where)
    size = f"{found.library.num_concepts} concepts of {len(found.library.slots)} slots"
    print(f"{size}, and {line.samples} pictures painted from them. Written to {out}")
    return 0

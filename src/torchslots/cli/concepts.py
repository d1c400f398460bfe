"""`torchslots concepts`."""

from pathlib import Path

import tyro

from torchslots.cli.evaluate import out_folder
from torchslots.cli.options import Flat, Words, parse
from torchslots.io.counts import count_text


def concepts(words: Words) -> int:
    """`torchslots concepts MODEL --root DIR`."""
    from torchslots.convert.pretrained import model_folder
    from torchslots.evaluation.videos import whole_videos
    from torchslots.hub import load_model
    from torchslots.inference import concepts as room
    from torchslots.inference.videos import KEYS, VideosOptions, settings_of
    from torchslots.io.devices import announce_device
    from torchslots.io.processes import demand_one_process

    usual, all_videos = room.ConceptOptions(), VideosOptions()

    def concepts(
        model: tyro.conf.Positional[str],
        /,
        root: Path,
        out: Path | None = None,
        backbone: str | None = None,
        videos: Flat[VideosOptions] = all_videos,
        options: Flat[room.ConceptOptions] = usual,
    ) -> int:
        """Cluster the slots of a data set into concepts, plot them, and decode new images from one slot of each.

        Args:
            model: A run folder, a model folder, a published checkpoint by name, or owner/name on the hub.
            root: Folder with the data.
            out: Folder for the library and images; None: `concepts` in the run or model folder.
            backbone: Weights of the backbone of a model that was saved without: a file or a folder; None: from the hub.
            videos: Which videos, and where to run.
            options: How to cluster, and what to decode.
        """
        demand_one_process("Concepts are found")
        source = model_folder(model)
        ready = load_model(source, device=announce_device(videos.device), backbone=backbone)
        data, settings = settings_of(source, ready, videos, KEYS, root)
        found = room.concepts(
            ready,
            whole_videos(data, settings, root),
            settings,
            folder := out or out_folder(model, "concepts"),
            options,
            device=str(next(ready.parameters()).device),
            num_workers=videos.num_workers,
        )
        size = f"{count_text(found.library.num_concepts, 'concept')} of {count_text(len(found.library.slots), 'slot')}"
        print(f"{size}, and {count_text(options.samples, 'image')} decoded from them. Written to {folder}")
        return 0

    return parse(concepts, words, "concepts")

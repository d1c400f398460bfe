"""`torchslots compose`."""

from pathlib import Path

import tyro

from torchslots.cli.evaluate import out_folder
from torchslots.cli.options import Flat, Words, parse


def compose(words: Words) -> int:
    """`torchslots compose MODEL --root DIR`."""
    from torchslots.convert.pretrained import model_folder
    from torchslots.evaluation.evaluate import whole_videos
    from torchslots.hub import load_model
    from torchslots.inference.compose import ComposeOptions, compose_videos, save
    from torchslots.inference.videos import (
        KEYS,
        NetworkOptions,
        VideosOptions,
        networks_of,
        settings_of,
    )
    from torchslots.io.processes import processes
    from torchslots.metrics.reconstruction import SET_METRICS

    usual, all_videos, published = ComposeOptions(), VideosOptions(), NetworkOptions()

    def compose(
        model: tyro.conf.Positional[str],
        /,
        root: Path,
        out: Path | None = None,
        backbone: str | None = None,
        videos: Flat[VideosOptions] = all_videos,
        networks: Flat[NetworkOptions] = published,
        options: Flat[ComposeOptions] = usual,
    ) -> int:
        """Exchange slots across the videos of a data set at random, decode new videos, and measure their FVD and FID.

        Works under `torchrun` too.

        Args:
            model: A run folder, a model folder, a published checkpoint by name, or owner/name on the hub.
            root: Folder with the data.
            out: Folder for compose.json and films; None: `compose` in the run or model folder.
            backbone: Weights of the backbone of a model that was saved without: a file or a folder; None: from the hub.
            videos: Which videos, and where to run.
            networks: Weights of the networks of FID and FVD.
            options: How many slots to exchange, and what to write.
        """
        ready = load_model(folder := model_folder(model), device=videos.device, backbone=backbone)
        data, settings = settings_of(folder, ready, videos, KEYS)
        found, missing = networks_of(networks, SET_METRICS)
        with processes(videos.device) as (rank, world_size):
            report = compose_videos(
                ready,
                whole_videos(data, settings, root),
                settings,
                options,
                networks=found,
                device=videos.device,
                num_workers=videos.num_workers,
                rank=rank,
                world_size=world_size,
            )
        report.notes.extend(missing)
        if rank == 0:
            written = save(report, out or out_folder(model, "compose"))
            report.print_table()
            print(f"Written: {', '.join(str(path) for path in written)}")
        return 0

    return parse(compose, words, "compose")

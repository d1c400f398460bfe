"""`torchslots slots`."""

from pathlib import Path

import tyro

from torchslots.cli.evaluate import out_folder
from torchslots.cli.options import Flat, Words, parse
from torchslots.io.counts import count_text


def slots(words: Words) -> int:
    """`torchslots slots MODEL --root DIR`."""
    from torchslots.convert.pretrained import model_folder
    from torchslots.evaluation.videos import whole_videos
    from torchslots.hub import load_model
    from torchslots.inference.slot_files import SlotFileOptions, write_slots
    from torchslots.inference.videos import KEYS, VideosOptions, settings_of
    from torchslots.io.devices import announce_device

    all_videos, usual = VideosOptions(), SlotFileOptions()

    def slots(
        model: tyro.conf.Positional[str],
        /,
        root: Path,
        out: Path | None = None,
        videos: Flat[VideosOptions] = all_videos,
        options: Flat[SlotFileOptions] = usual,
    ) -> int:
        """Write the slots of all videos of a data set, to train other models on them; the same command resumes.

        Args:
            model: A run folder, a model folder, a published checkpoint by name, or owner/name on the hub.
            root: Folder with the data.
            out: Folder for the files; None: `slots` in the run or model folder.
            videos: Which videos, and where to run.
            options: The files.
        """
        folder = model_folder(model)
        ready = load_model(folder, device=(device := announce_device(videos.device)))
        data, settings = settings_of(folder, ready, videos, KEYS, root)
        place = out or out_folder(model, "slots")
        written = write_slots(
            ready,
            whole_videos(data, settings, root),
            place,
            data=data,
            settings=settings,
            options=options,
            device=device,
            num_workers=videos.num_workers,
        )
        print(f"Written: {count_text(len(written), 'file')} in {place}, from {written[0].name} on.")
        return 0

    return parse(slots, words, "slots")

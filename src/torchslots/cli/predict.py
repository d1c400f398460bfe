"""`torchslots predict` and `torchslots edit`: your own pictures and videos."""

from pathlib import Path
from typing import Annotated

import tyro

from torchslots.cli.options import Words, parse
from torchslots.io.errors import UserError


def predict(words: Words) -> int:
    """`torchslots predict MODEL INPUT... --out DIR`."""
    from torchslots.inference import predict as inference

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

    for folder in parse(predict, words, "predict"):
        print(f"Written to {folder}")
    return 0

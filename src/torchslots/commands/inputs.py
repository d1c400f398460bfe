"""`torchslots predict` and `torchslots edit`: your own pictures and videos."""

from pathlib import Path
from typing import Annotated

import tyro

from torchslots.commands.line import Words, parse
from torchslots.errors import UserError


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

    for folder in parse(predict, words, "predict"):
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

    for done in parse(edit, words, "edit"):
        print(f"Written to {done.slots}" + (f" and {done.edited}" if done.edited else "") + f". {done.note}")
    return 0

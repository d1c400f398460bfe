"""`torchslots edit`."""

from pathlib import Path
from typing import Annotated

import tyro

from torchslots.cli.options import Words, parse
from torchslots.io.errors import UserError


def edit(words: Words) -> int:
    """`torchslots edit MODEL INPUT... --out DIR`."""
    from torchslots.inference import edit as editor

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

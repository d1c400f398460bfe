"""`torchslots edit`."""

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from torchslots.cli.options import Flat, Words, parse
from torchslots.cli.predict import print_results, require_inputs

if TYPE_CHECKING:
    from torchslots.inference.edit import Edited


def edit(words: Words) -> int:
    """`torchslots edit MODEL INPUT... --out DIR`."""
    from torchslots.convert.pretrained import model_folder
    from torchslots.inference import edit as room
    from torchslots.io.devices import announce_device

    usual = room.EditOptions()

    def edit(
        model: tyro.conf.Positional[str],
        inputs: tyro.conf.Positional[tuple[Path, ...]],
        /,
        out: Path,
        options: Flat[room.EditOptions] = usual,
    ) -> int:
        """Number the slots of images and videos; remove, keep, move, resize, turn or swap some, and decode again.

        Args:
            model: A run folder, a model folder, a published checkpoint by name, or owner/name on the hub.
            inputs: Images, videos, GIFs, folders of frames or of films; two to swap slots between.
            out: Folder for the results: numbered slots, and the reconstruction before and after.
            options: What to change, by the numbers in the plot of slots.
        """
        require_inputs(inputs)
        folder = model_folder(model)
        announce_device(options.device)
        print_results(lambda: room.edit(folder, inputs, out, options), _line)
        return 0

    return parse(edit, words, "edit")


def _line(done: "Edited") -> str:
    edited = f" and {done.edited}" if done.edited else ""
    return f"Written to {done.slots}{edited}. {done.note}"

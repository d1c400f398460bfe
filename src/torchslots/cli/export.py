"""`torchslots export`."""

from pathlib import Path

import tyro

from torchslots.cli.options import Flat, Words, parse


def export(words: Words) -> int:
    """`torchslots export MODEL --out DIR`."""
    from torchslots.convert.pretrained import model_folder
    from torchslots.inference import export as room

    usual = room.ExportOptions()

    def export(
        model: tyro.conf.Positional[str], /, out: Path, options: Flat[room.ExportOptions] = usual
    ) -> int:
        """Write a model as graphs for other programs: a video's first frame, each further frame, and a whole clip.

        Args:
            model: A run folder, a model folder, a published checkpoint by name, or owner/name on the hub.
            out: Folder for the graphs and export.json, which names their inputs and outputs.
            options: What to export, and as what.
        """
        written = room.export_model(model_folder(model), out, options)
        print(*(f"Written to {file}" for file in written), sep="\n")
        return 0

    return parse(export, words, "export")

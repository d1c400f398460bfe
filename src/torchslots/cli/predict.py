"""`torchslots predict`."""

from collections.abc import Sequence
from pathlib import Path

import tyro

from torchslots.cli.options import Flat, Words, parse
from torchslots.io.errors import UserError


def predict(words: Words) -> int:
    """`torchslots predict MODEL INPUT... --out DIR`."""
    from torchslots.convert import by_name
    from torchslots.convert.pretrained import model_folder
    from torchslots.inference import predict as room
    from torchslots.io.devices import announce_device

    usual = room.PredictOptions()

    def predict(
        model: tyro.conf.Positional[str],
        inputs: tyro.conf.Positional[tuple[Path, ...]],
        /,
        out: Path,
        options: Flat[room.PredictOptions] = usual,
    ) -> int:
        """Segment images, videos, GIFs and folders of any length, slice by slice.

        Args:
            model: A run folder, a model folder, a published checkpoint by name, or owner/name on the hub.
            inputs: Images, videos, GIFs, folders of frames or of films.
            out: Folder for the results: overlay, masks, a strip of slots, slots.npz, tracks.json.
            options: How to read the inputs, and what to write.
        """
        require_inputs(inputs)
        folder = model_folder(model)
        announce_device(options.device)
        try:
            written = by_name.predict(folder, inputs, out, options)
        except room.InputsFailed as error:
            _print_folders(error.done)
            raise
        _print_folders(written)
        return 0

    return parse(predict, words, "predict")


def _print_folders(folders: Sequence[Path]) -> None:
    for folder in folders:
        print(f"Written to {folder}", flush=True)


def require_inputs(inputs: tuple[Path, ...]) -> None:
    """Check that there is an input.

    Raises:
        UserError: there is none.
    """
    if not inputs:
        raise UserError("name at least one image, video or folder after the model.")

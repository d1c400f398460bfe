"""`torchslots predict`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
        print_results(
            lambda: by_name.predict(folder, inputs, out, options), lambda done: f"Written to {done}"
        )
        return 0

    return parse(predict, words, "predict")


def print_results(run: Callable[[], Sequence[Any]], line: Callable[[Any], str]) -> None:
    """Print a line for each result of `run`.

    Raises:
        InputsFailed: by `run`, after the lines of the inputs that are done.
    """
    from torchslots.inference.inputs import InputsFailed

    try:
        results, failure = run(), None
    except InputsFailed as error:
        results, failure = error.done, error
    for done in results:
        print(line(done), flush=True)
    if failure is not None:
        raise failure


def require_inputs(inputs: tuple[Path, ...]) -> None:
    """Check that there is an input.

    Raises:
        UserError: there is none.
    """
    if not inputs:
        raise UserError("name at least one image, video or folder after the model.")

"""Predict with models of which published checkpoints may be named.

The public `predict` is here, since `inference` knows no names of checkpoints; `evaluate` is in `evaluate_by_name.py`,
whose metrics take seconds to import.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchslots.convert.pretrained import model_folder
from torchslots.inference import predict as prediction
from torchslots.inference.predict import PredictOptions
from torchslots.models.model import ObjectCentricModel

_PREDICTION = PredictOptions()


def predict(
    model: ObjectCentricModel | str | Path,
    inputs: Path | str | Sequence[Path | str],
    out: Path | str,
    options: PredictOptions = _PREDICTION,
    **changes: Any,
) -> list[Path]:
    """Segment images, videos, GIFs and folders of any length; returns a folder below `out` for each.

    A folder of images is one video; a folder with videos or GIFs is many inputs; folders are looked into one level
    down. Inputs that are done are skipped. An input that fails does not stop the others. Each result folder has
    overlay.mp4 (of an image overlay.png), masks/00000.png and so on, slots.mp4 (slots.png), slots.npz and tracks.json.

    Args:
        model: a model, a run or model folder, a name in `list_pretrained()`, or owner/name on the Hugging Face
            hub.
        inputs: files and folders, or one of them.
        out: folder for the results.
        options: input, segmentation and output.
        changes: fields of `PredictOptions` by name, in place of those of `options`: `boxes="boxes.json"`, `observe=6`;
            `device="cuda"` for a model that is loaded, others are not moved.

    Raises:
        UserError: no such model, an input that cannot be read, hints that are missing or wrong, a folder that cannot
            be written, a full disk, an unknown option, or weights or results that are not finite.
        InputsFailed: the same for some of several inputs, after the others are done.

    Examples:
        >>> (folder,) = torchslots.predict(model, [film], out, save=("overlay", "tracks"))
        >>> sorted(file.name for file in folder.iterdir())
        ['overlay.mp4', 'tracks.json']
    """
    source = model_folder(model) if isinstance(model, str | Path) else model
    return prediction.predict(source, inputs, out, options, **changes)

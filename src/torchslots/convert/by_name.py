"""Predict and evaluate with models of which published checkpoints may be named.

The public `predict` and `evaluate` are here, since `inference` knows no names of checkpoints.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchslots.convert.pretrained import model_folder
from torchslots.evaluation.report import EvalReport
from torchslots.evaluation.rollout import HorizonReport
from torchslots.inference import evaluate as evaluation
from torchslots.inference import predict as prediction
from torchslots.inference.evaluate import EvaluateOptions
from torchslots.inference.predict import PredictOptions
from torchslots.models.model import ObjectCentricModel
from torchslots.models.tokenizers.base import Tokenizer

_PREDICTION, _EVALUATION = PredictOptions(), EvaluateOptions()


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


def evaluate(
    model: ObjectCentricModel | Tokenizer | str | Path,
    root: str | Path,
    options: EvaluateOptions = _EVALUATION,
    *,
    out: str | Path | None = None,
    **changes: Any,
) -> EvalReport | HorizonReport:
    """Measure a model on whole videos: FG-ARI, ARI, mIoU and mBO of slots, PSNR and SSIM of reconstructions.

    The model processes each video in slices and passes its state on, so that memory does not grow with its length.
    Under `torchrun` every process must call this, and each video is counted once.

    Args:
        model: A model, a run or model folder, a name in `list_pretrained()`, or a hub id owner/name. A run and a
            published checkpoint have their own data set and settings.
        root: Folder with the data.
        options: Metrics and videos.
        out: Folder for eval.json, curves and videos; None: nothing is written.
        changes: Fields of `EvaluateOptions` by name, in place of those of `options`: `split="validation"`,
            `num_videos=16`, `recon=True`, `protocol="davis"`; `device="cuda"` for a model that is loaded, others are
            not moved.

    Returns:
        A report whose `metrics` are floats by name, in [0, 1] for `fg_ari`, `ari`, `miou`, `mbo`, dB for `psnr`;
        `definitions` has the definition of each. With `observe`, a `HorizonReport` of predicted frames.

    Raises:
        UserError: no such model, data, split or protocol; a model without a recipe and no `data`; an option that the
            model does not take; weights or results that are not finite.

    Examples:
        >>> report = torchslots.evaluate(model, root, data="movi_a", split="train", num_frames=4, num_workers=0)
        >>> 0 <= report.metrics["miou"] <= 1
        True
    """
    source = model_folder(model) if isinstance(model, str | Path) else model
    return evaluation.evaluate(source, root, options, out=out, **changes)

"""Evaluate models of which published checkpoints may be named: the public `evaluate`."""

from pathlib import Path
from typing import Any

from torchslots.convert.pretrained import model_folder
from torchslots.evaluation.report import EvalReport
from torchslots.evaluation.rollout import HorizonReport
from torchslots.inference import evaluate as evaluation
from torchslots.inference.evaluate import EvaluateOptions
from torchslots.models.model import ObjectCentricModel
from torchslots.models.tokenizers.base import Tokenizer

_EVALUATION = EvaluateOptions()


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
